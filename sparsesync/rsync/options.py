"""The options of rsync 3.1 to 3.5, and which of them forbid seeding.

One line of the table is one option::

    -s long-name another-name no-long-name  | why seeding is left alone

A word with one dash is its letter; the first long name is the one the rest of sparsesync knows it by; names that begin
with ``no-`` turn it off; ``=`` after the first name says that it takes an argument. Nearly every ``--no-`` form rsync
has, it has for its letter too, but not all (there is no ``--no-b``), so each is written out. What stands after ``|``
completes the sentence "--append is given: ..." that a person reads with -v. Wherever the answer was uncertain,
the option has a reason: leaving a run to rsync is always right.

The tests hold this table against the installed rsync: every name, and whether it takes an argument.
"""

from __future__ import annotations

from typing import NamedTuple

_TABLE = """
   help                                          | it only asks for help
-V version                                       | it only asks for the version
   server                                        | rsync speaks to another rsync here
   sender                                        | rsync speaks to another rsync here
   daemon                                        | rsync is to be a daemon
   config=                                       | it belongs to a daemon
   dparam=                                       | it belongs to a daemon
   detach                                        | it belongs to a daemon
   no-detach                                     | it belongs to a daemon

-v verbose no-verbose no-v
-q quiet
   info=
   debug=
   stderr=
   msgs2stderr no-msgs2stderr
   outbuf=
   motd no-motd
   stats
-h human-readable no-human-readable no-h
-8 8-bit-output no-8-bit-output no-8
   progress no-progress
-P
-i itemize-changes no-itemize-changes no-i
   out-format= log-format
   log-file=
   log-file-format=
-n dry-run
   list-only                                     | nothing is to be copied

-a archive
-r recursive no-recursive no-r
   inc-recursive i-r no-inc-recursive no-i-r
-d dirs no-dirs no-d
   old-dirs old-d
-R relative no-relative no-R
   implied-dirs i-d no-implied-dirs no-i-d
   mkpath no-mkpath
-m prune-empty-dirs no-prune-empty-dirs no-m
-x one-file-system no-one-file-system no-x
-l links no-links no-l
-L copy-links
   copy-unsafe-links
   safe-links
   munge-links no-munge-links
-k copy-dirlinks
-K keep-dirlinks
-H hard-links no-hard-links no-H
   insecure-links no-insecure-links
   confine-root=                                 | only rsync can say which paths it confines

-p perms no-perms no-p
-E executability
-A acls no-acls no-A
-X xattrs no-xattrs no-X
   chmod=
-o owner no-owner no-o
-g group no-group no-g
-D no-D
   devices no-devices
   specials no-specials
   drop-D no-drop-D
   copy-devices                                  | a device would be read as a file
   write-devices no-write-devices                | a device would be written as a file
-t times no-times no-t
-U atimes no-atimes no-U
   open-noatime no-open-noatime
-N crtimes no-crtimes no-N
-O omit-dir-times no-omit-dir-times no-O
-J omit-link-times no-omit-link-times no-J
   super no-super
   fake-super                                    | owners and modes go to extended attributes
   numeric-ids no-numeric-ids
   usermap=
   groupmap=
   chown=
   copy-as=                                      | another user is to write the files

-S sparse no-sparse no-S
   preallocate
   inplace no-inplace
   append no-append                              | the bytes that are there are not to be looked at
   append-verify                                 | only files that have grown are to be touched
-W whole-file no-whole-file no-W
-y fuzzy no-fuzzy no-y
-B block-size=
   checksum-choice= cc
   checksum-seed=
-z compress no-compress no-z
   old-compress
   new-compress
   compress-choice= zc
   compress-level= zl
   compress-threads= zt
   skip-compress=
   fsync
   partial no-partial
   partial-dir=
-T temp-dir=                                     | new content may not fit beside the old
   delay-updates no-delay-updates                | all files are to change at the end
-b backup no-backup
   backup-dir=
   suffix=
   compare-dest=
   copy-dest=
   link-dest=

-c checksum no-checksum no-c                     | asking what would be sent would read every file whole
-I ignore-times                                  | files of equal size and time are to be sent again
   ignore-existing                               | rsync would pass over what was seeded
   size-only
-u update
   existing ignore-non-existing
-@ modify-window=
   max-size=
   min-size=
   max-alloc=

   delete
   delete-during del
   delete-before
   delete-delay
   delete-after
   delete-excluded
   delete-missing-args
   ignore-missing-args
   ignore-errors no-ignore-errors
   force no-force
   max-delete=
   remove-source-files
   remove-sent-files                             | only files rsync itself sends are to be removed

-C cvs-exclude
-F
-f filter=
   exclude=
   exclude-from=
   include=
   include-from=
   files-from=
-0 from0 no-from0

-e rsh=
   rsync-path=
-M remote-option=                                | the two ends get different options
   old-args no-old-args
-s secluded-args protect-args no-secluded-args no-protect-args no-s
   trust-sender
   blocking-io no-blocking-io
   qsort
-4 ipv4
-6 ipv6
   address=
   port=
   sockopts=
   password-file=                                | it belongs to a daemon
   early-input=                                  | it belongs to a daemon
   timeout= no-timeout
   contimeout= no-contimeout
   bwlimit= no-bwlimit
   stop-after= time-limit                        | rsync is to stop early
   stop-at=                                      | rsync is to stop early
   protocol=                                     | an older protocol may not tell what would be sent
   iconv= no-iconv                               | names are to be converted
   write-batch=                                  | the batch must hold the content
   only-write-batch=                             | the batch must hold the content
   read-batch=                                   | the content comes from the batch
"""
# --compare-dest, --copy-dest and --link-dest are allowed because of what 3.5.0 does: a file is listed as a transfer
# only when DIR has none of its size and time, and a file at the destination itself is preferred to one in DIR. What is
# in DIR is the basis of the seeded file too: engine/files/basis.py.
# (Not without --perms: see command.py.)


class Option(NamedTuple):
    """One option as it was given. ``name`` is the long name, ``no-`` in front when it turns something off."""

    name: str
    value: str | None
    tokens: tuple[str, ...]


class Spec(NamedTuple):
    """One option as rsync knows it."""

    name: str
    letter: str | None
    takes_argument: bool
    why_not: str | None


def _read(table: str) -> tuple[dict[str, tuple[Spec, bool]], dict[str, Spec]]:
    longs: dict[str, tuple[Spec, bool]] = {}
    letters: dict[str, Spec] = {}
    for line in filter(None, table.splitlines()):
        left, _, why_not = line.partition("|")
        words = left.split()
        letter = words.pop(0)[1:] if words[0].startswith("-") else None
        names = [word.rstrip("=") for word in words]
        # -D, -F and -P have no long name: they are known by their letter.
        name = letter if letter and (not names or names[0].startswith("no-")) else names[0]
        spec = Spec(name, letter, "=" in left, why_not.strip() or None)
        longs.update((each, (spec, each.startswith("no-") and each != name)) for each in names)
        if letter:
            letters[letter] = spec
    return longs, letters


LONGS, LETTERS = _read(_TABLE)
"""Long name -> (option, does this name turn it off?); letter -> option."""
