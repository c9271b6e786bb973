"""One file: where its data is, and the system calls that read and change it.

Read :mod:`mounts` (which filesystem a file is on), :mod:`claims` (whose holes are believed), :mod:`fiemap` (what is
reserved), :mod:`extents` (where the data is), :mod:`status` (what a file looks like by its path), :mod:`syscalls` (what
the kernel can do with an open one), :mod:`dig` (zeros become holes in one that is there), :mod:`beneath` (opening what
lies below a root), and :mod:`attributes` and :mod:`flags` (what a file has besides its content). The folder
:mod:`writing` has the file that a copy writes to.
"""
