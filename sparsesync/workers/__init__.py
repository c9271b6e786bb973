"""Many workers at one copy. Read :mod:`plan` (what a task is)."""
