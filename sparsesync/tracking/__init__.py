"""What the last run left: clones of the files that it copied, and records of where they went.

Read :mod:`record` (what is noted of a copy), :mod:`entry` (one file's clone and record) and :mod:`store` (the directory
of them all). Which ranges changed between two clones the engine finds out (engine.content.changes).
"""
