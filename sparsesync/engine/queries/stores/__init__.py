"""What a host keeps its images, containers and virtual machines in: a **store**, with one root directory each.

:mod:`table` has what is known of each kind, as data. :mod:`roots` finds the stores of a tree by it, and :mod:`stores`
says of each what moving it asks for. :mod:`settings` reads where they are configured to be, :mod:`running` knows who
runs on one, :mod:`docker` which storage drivers are in use, :mod:`images` what images of disks need beside them, and
:mod:`binds` what containers do.
"""
