"""``sparsesync serve``: what one key may do, below one directory, as a forced command of sshd.

Read :mod:`session` first: what a client asked for, and what is done. :mod:`rules` has what of an agent's operations a
client may use, in one table; :mod:`server_options` the same for rsync's own ``--server``. :mod:`beneath` finds out
where a path leads, and :mod:`walls` has the kernel refuse whatever leads elsewhere all the same.
"""
