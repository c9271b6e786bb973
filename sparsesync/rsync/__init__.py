"""What is known of rsync, and nothing of seeding.

Read :mod:`options` (a table), :mod:`command` (what a command line means), :mod:`paths` (what its paths mean) and
:mod:`handoff` (why it is left to rsync); then :mod:`program` (which program it is), :mod:`listing` (what rsync says it
would transfer), :mod:`process` (how it is run and what it ends with) and :mod:`output` (what it prints meanwhile).
"""
