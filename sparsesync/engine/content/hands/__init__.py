"""Who copies the ranges of a file.

Read :mod:`writer` (the seam, and this process), :mod:`workers` (the threads that help with large ranges) and
:mod:`range_helper` (the second process that helps with very many small ones, and also to compare them).
"""
