"""One file: where its data is, and the system calls that read and change it.

Read :mod:`claims` (whose holes are believed), :mod:`fiemap` (what is reserved), :mod:`extents` (where the data is),
:mod:`status` (what a file looks like by its path), :mod:`syscalls` (what the kernel can do with an open one),
:mod:`target` (the file that a copy writes to), :mod:`beneath` (opening what lies below a root), :mod:`basis`
(what a new file is compared with) and :mod:`attributes` (what a file has besides its content).
"""
