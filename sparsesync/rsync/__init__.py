"""What is known of rsync, and nothing of seeding.

Read :mod:`options` (a table), :mod:`command` (what a command line means), :mod:`paths` (what its paths mean),
:mod:`handoff` (why it is left to rsync) and :mod:`filters` (where its rules let a walk go). Then read :mod:`program`
(which program it is), :mod:`listing` (what rsync says it would transfer), :mod:`process` (how it is run and what it
ends with), :mod:`verbosity` and :mod:`report` (what it prints of files, and would have printed).
"""
