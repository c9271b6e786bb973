"""Many files: find the sparse ones of a tree, and tell what is in a tree.

Read :mod:`scan` and its second process :mod:`scan_helper`, and :mod:`left_out` (what of a tree is not looked at); then
:mod:`node` (one name on one side), :mod:`manifest` (a whole tree, for a comparison) and :mod:`manifest_wire` (how that
travels). :mod:`block_map` gives one file's runs of blocks with their checksums.
"""
