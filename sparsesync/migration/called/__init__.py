"""A migration that a program calls: what it ends with (:mod:`result`), and the call (:mod:`call`)."""
