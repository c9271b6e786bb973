"""``sparsesync sync``: put the content of sparse files in place, then let rsync do everything else.

Read :mod:`run` first, which is the whole command and the public function, then :mod:`options` (its options
that are not rsync's), :mod:`login` (the way to another host), :mod:`seeder` (which files, and their transfer) and
:mod:`losses` (what is said of files that are left to rsync).
"""
