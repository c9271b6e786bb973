"""What the last run left: clones of the files that it copied, and records of where they went.

Read :mod:`record` (what is noted of a copy), :mod:`entry` (one file's clone and record), :mod:`store` (the directory
of them all) :mod:`files` (the files of one run of ``sync``) and :mod:`housekeeping`. Which ranges changed between two
clones the engine finds out (engine.content.changes).
"""
