"""The bytes between two engines.

Read :mod:`protocol` (frames, without any I/O), :mod:`ranges` (parts of a file, which frames name), :mod:`fields` (what
JSON in frames may hold), :mod:`link` (a connection) and :mod:`streams` (more connections for one), then
:mod:`rate_limit` and :mod:`capabilities` (what both ends can do).
"""
