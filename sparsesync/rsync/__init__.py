"""What is known of rsync, and nothing of seeding.

Read :mod:`options` (a table) and :mod:`command` (what a command line means), then :mod:`listing` (what rsync says it
would transfer), :mod:`process` (how it is run) and :mod:`output` (what it prints meanwhile).
"""
