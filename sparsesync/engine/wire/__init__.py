"""The bytes between two engines.

Read :mod:`protocol` (frames, without any I/O), :mod:`fields` (what JSON in them may hold) and :mod:`link` (a
connection), then :mod:`rate_limit` and :mod:`capabilities` (what both ends can do).
"""
