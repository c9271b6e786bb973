"""The file that a copy writes to.

Read :mod:`target` (how it takes the place of the old one), :mod:`existing` (how one that is there is opened to be
written to), :mod:`partial` (whose a partial file is) and :mod:`known` (what need not be asked for each new file).
"""
