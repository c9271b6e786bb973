"""Where the files of a transfer get their place.

Read :mod:`destination` (a root, and how rsync would put a file below it), :mod:`parents` (the directories above the
file), :mod:`destination_file` (one file there, with its time) and :mod:`copy_destination` (the same for a copy).
"""
