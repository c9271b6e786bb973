"""Whether two files or trees are equal, and where they differ.

Read :mod:`compare` first, which compares what is on this machine. :mod:`digests` is for trees of which at least one is
on another host.
"""
