"""Trees that are copied and moved to or from another host: shutil's rules, and rsync for the work.

Names are for the agent, which is asked what is there and makes the destination's directory (:mod:`.ends`). What is in
the tree is for rsync, seeded like any other run (:mod:`.by_rsync`), and what that could not copy becomes a shutil.Error
(:mod:`.failures`). A move (:mod:`.move`) removes the source when the copy is proved::

    ask the source what it has, and when it has last changed
    copy                                       rsync, or, for one file, copy2
    prove                                      a dry run that finds nothing to do, or size and time
    ask the destination what it has            as many files and bytes
    have the copy on the disk
    remove what has not changed since the first step

All of it takes the connections of a session, or of one that lasts as long as the call.
"""
