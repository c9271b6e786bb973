"""What is drawn, however large it is.

A :mod:`strip` is a file as a row of cells, for a bar or for a :mod:`picture`. :mod:`tree` is of folders, by what is
below each.
"""
