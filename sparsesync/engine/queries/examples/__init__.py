"""What of a tree a destination may refuse: examples are collected at the source and tried at the destination.

:mod:`collect` keeps an example of each kind of name, owner, mode, time, attribute and file while a tree is surveyed.
:mod:`trial` does the same with each at the destination, in a directory of its own, and says what went wrong.
"""
