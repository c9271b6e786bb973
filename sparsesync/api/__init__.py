"""The public functions: their signatures, and what each of them promises.

``copying`` has what copies a file, ``directories`` what copies and moves trees, ``mapping`` what is about the holes of
one file, ``trees`` what walks, ``transfers`` what runs rsync, ``migrations`` what moves a machine's data, and
``session`` some of them over connections that last. ``choices`` has the types of what is chosen from a few words.

Each body imports what does the work, so that whoever uses one of them does not pay for another. Paths are ``str``,
``bytes`` or ``os.PathLike``; sizes, offsets and lengths are bytes. Where a function takes ``rsh`` and ``python``, a
``str`` may be ``host:path``, by rsync's rule: a colon before the first slash. ``bytes`` and an ``os.PathLike`` are
always local. So a name with a colon, as os.listdir gives it, is copied as ``Path(name)``, ``os.fsencode(name)`` or
``"./" + name``. A walk yields ``str``, whatever its root was given as. Where several paths may be given, one does.
``rsh`` is the remote shell's command or a list of its words (by default RSYNC_RSH, else ssh), ``python`` the Python to
use there (by default one is looked for).

``holes`` is whether the map that a filesystem has of a file is believed: "auto" believes local filesystems that are
known, and others after a check or not at all; "trust", "check" and "read" are for all. What is not believed is read,
and its blocks of zeros are holes. What is preallocated and unwritten is a hole.
"""
