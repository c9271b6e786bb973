"""The engine: everything that touches file content, on whichever machine the file lives.

It uses the standard library alone and the language of Python 3.6, because its
sources are also sent to hosts where nothing can be installed. It imports
nothing from the packages above it. Read the packages in this order:
:mod:`files` (one open file), :mod:`content` (bring a target to a source's content), :mod:`tree` (find the sparse files
of a tree, and tell what is in one); then what two machines need: :mod:`wire` (the bytes between them), :mod:`transfer`
(files on their way), :mod:`queries` (what a machine is asked for a migration). Beside them are :mod:`errors` (the
exceptions of them all), :mod:`text` (what a terminal may get to see) and :mod:`second` (a process that helps), and
above them :mod:`host` (every operation of a machine), :mod:`roles` (its two roles in a transfer) and :mod:`agent`
(which serves a host over a connection).
"""
