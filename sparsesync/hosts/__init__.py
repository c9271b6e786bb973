"""A machine, this one or another, and how files get from one to the other.

Read :mod:`address` (``user@host:path``), :mod:`pool` (the operations of this machine, and one connection to each
other), :mod:`loader` (what starts the engine there), :mod:`sharing` (one login for all), :mod:`ssh` with
:mod:`stderr_relay` (the connection) and :mod:`remote` (the same operations over it).
Then :mod:`transfer` (many files), :mod:`local` (what is done with many on this machine), and :mod:`copies` (one file,
the public functions).
"""
