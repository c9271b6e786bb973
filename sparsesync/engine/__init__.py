"""The engine: everything that touches file content, on whichever machine the file lives.

It uses the standard library alone and the language of Python 3.6, because its
sources are also sent to hosts where nothing can be installed. It imports
nothing from the rooms above it. Read the modules in this order:
:mod:`claims` (whose holes are believed), :mod:`fiemap` (what is reserved), :mod:`extents` (where the data is),
:mod:`fileio` (one open file), :mod:`beneath` (opening what lies below a root),
:mod:`delta` (which blocks differ), :mod:`copy` (bring a target to a source's
content), :mod:`copyfile` (by path, as shutil), :mod:`scan` (find the sparse files of a tree), :mod:`place` (a
destination, and how rsync would put a file there); then what two machines need: :mod:`text` (what a terminal may
get to see), :mod:`protocol` (the bytes between them), :mod:`fields` (what JSON in them may hold), :mod:`link` (a
connection), :mod:`send` and :mod:`receive` (the two ends of a transfer), :mod:`manifest` (what is in a tree, for a
comparison), :mod:`agent` (the far end's main loop).
"""
