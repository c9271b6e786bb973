"""The file that a copy writes to.

Read :mod:`target` (how it takes the place of the old one) and :mod:`partial` (whose a partial file is).
"""
