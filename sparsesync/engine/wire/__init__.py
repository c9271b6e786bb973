"""The bytes between two engines.

Read :mod:`protocol` (frames, without any I/O), :mod:`ranges` (parts of a file, which frames name), :mod:`fields` (what
JSON in frames may hold) and :mod:`link` (a connection), then :mod:`rate_limit` and :mod:`capabilities` (what both ends
can do).
"""
