"""Bad luck, on purpose: each command is run again and again, each time with one fault at another place.

How a fault gets there: ``inject.c`` is loaded into the processes of a run before libc, counts its calls below the
run's directory, and at the N-th does what it was told: an error, half a write, a signal, a stop, a command that changes
a file. ``relay.c`` stands for ssh. So nothing depends on time, and what was found once is found again by three
words (``python -m tests.faults SCENARIO FAULT``).

    harness.py      builds the two programs; one run in a directory of its own; what was left, and whether it is right
    scenarios.py    the commands that are tried, and what is there before
    kinds.py        which faults make sense at which call; a sample, or all of them
    test_*.py       the suites; the table of what was injected comes at the end of the long form

A test that is part of one form alone is marked with it: ``faults(form="long")``.

What is right is judged by eyes of its own: digests, st_blocks, os.walk, the exit status. In CI a sample runs; the
long form is ``pytest -m faults --faults=long`` (see docs/faults.md).
"""
