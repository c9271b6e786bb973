"""Many workers at one copy: processes, here or on other machines, that see both ends through a shared filesystem.

Read :mod:`plan` (what a task is), :mod:`task` (what a worker does with one), :mod:`journal` (what is done, for a run
that goes on), :mod:`run` (who gives the tasks out), :mod:`coordinator` (what is around them) and :mod:`engines` (what
runs them: dask, MPI, or anything with the interface of concurrent.futures.Executor). No content goes through an
engine, only ranges and digests.
"""

KINDS = "dask:local, dask:tcp://HOST:PORT, dask:FILE.json, mpi or MODULE:FUNCTION"
"""What people name as an engine."""
