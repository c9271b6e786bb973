"""What a person sees of a command.

Read :mod:`streams` (standard output and standard error), then :mod:`messages` (lines, and how an error reads) and
:mod:`progress` (the bars). :mod:`lines` is what a caller in Python gets instead, and :mod:`document` what a program
reads of a command. :mod:`units` reads and prints sizes, and :mod:`sorting` puts rows in order before they are printed.
:mod:`drawing` draws files and folders.
"""
