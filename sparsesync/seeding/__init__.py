"""``sparsesync sync``: put the content of sparse files in place, then let rsync do everything else.

Read :mod:`run` first, which is the whole command, :mod:`embedded`, which is the public function in somebody else's
program, and :mod:`result`, which is what both return, then :mod:`options` (its options
that are not rsync's), :mod:`settled` (is there anything to do?), :mod:`login` (the way to another host),
:mod:`seeder` (which files, and their transfer) with :mod:`planned` (where they are kept), :mod:`telling` (what rsync
prints of them), :mod:`losses` (what is said of files that are left to rsync) and :mod:`healing` (files that lost their
holes get them back).
"""
