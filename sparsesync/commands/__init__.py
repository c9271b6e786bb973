"""The ``sparsesync`` command: arguments in, lines and an exit status out.

Read :mod:`main` first, which finds the command and prints what goes wrong. Each command is a module of its name, with
``add``, which gives a parser its arguments, and ``run``, from parsed arguments to an exit status; :mod:`sync` has no
``add``, because its arguments are rsync's. What several of them share is in :mod:`options`.
"""

TROUBLE = 1
"""The exit status of a command that has complained of something."""
