"""What a copy is: bring a target to the content of a source, and touch no hole.

Read :mod:`compare` (whether two files are equal), :mod:`differing` (which blocks differ), :mod:`changes` (which changed
since a clone was made), :mod:`copy` (between two open files), :mod:`update` (the same, where the changes are known),
:mod:`pieces` (the same for what has no map), :mod:`hands` (who copies the ranges), :mod:`basis` (what a new file is
compared with), :mod:`copy_file` (by path, as shutil), :mod:`device` (to a block device) and :mod:`stream` (from
standard input, and to standard output).
"""
