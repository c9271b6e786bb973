"""The options of rsync 3.1 to 3.5, and what is done with each.

One line of the table is one option::

    -s long-name another-name no-long-name  | why seeding is left alone
    -s long-name another-name no-long-name  : what is done, where it is not

A word with one dash is its letter; the first long name is the one the rest of sparsesync knows it by; names that begin
with ``no-`` turn it off; ``=`` after the first name says that it takes an argument. Nearly every ``--no-`` form rsync
has, it has for its letter too, but not all (there is no ``--no-b``), so each is written out. What stands after ``|``
completes the sentence "--append is given: ..." that a person reads with --seed-verbose. Wherever it was uncertain,
the option has a reason: leaving a run to rsync is always right. Some reasons depend on more than the option: see
:mod:`handoff`. Where a note says that the dry run keeps to it, what rsync lists is all that has to be known.

The tests hold this table against the installed rsync: every name, and whether it takes an argument.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_TABLE = """
   help                                              | it only asks for help
-V version                                           | it only asks for the version
   server                                            | rsync speaks to another rsync here
   sender                                            | rsync speaks to another rsync here
   daemon                                            | rsync is to be a daemon
   config=                                           | it belongs to a daemon
   dparam=                                           | it belongs to a daemon
   detach                                            | it belongs to a daemon
   no-detach                                         | it belongs to a daemon

-v verbose no-verbose no-v                           : the dry run knows the lines of files: report.py
-q quiet                                             : the dry run goes without
   info=                                             : the dry run gets and overrules it, so that a wrong value fails
   debug=                                             | rsync is to tell how it does it itself
   stderr=                                           : as info
   msgs2stderr no-msgs2stderr                        : the dry run goes without
   outbuf=                                           : nothing of it concerns the files
   motd no-motd                                      : nothing of it concerns the files
   stats                                             : the dry run knows the totals: report.py
-h human-readable no-human-readable no-h             : the dry run's totals are printed so, too
-8 8-bit-output no-8-bit-output no-8                 : the listing is read either way
   progress no-progress                              : what was seeded is added: report.py
-P                                                   : partial and progress
-i itemize-changes no-itemize-changes no-i           : the dry run knows the lines of files: report.py
   out-format= log-format                            : the dry run has it behind a format of its own
   log-file=                                         : the dry run knows its lines, and writes none
   log-file-format=                                  : the dry run has it behind a format of its own
-n dry-run                                           : nothing is written
   list-only                                         | nothing is to be copied

-a archive                                           : what it stands for
-r recursive no-recursive no-r                       : the dry run keeps to it
   inc-recursive i-r no-inc-recursive no-i-r         : only the order differs
-d dirs no-dirs no-d                                 : the dry run keeps to it
   old-dirs old-d                                    : the dry run keeps to it
-R relative no-relative no-R                         : decides on names: paths.py
   implied-dirs i-d no-implied-dirs no-i-d           : without them rsync makes missing directories
   mkpath no-mkpath                                  : the root's parents are made as rsync makes them
-m prune-empty-dirs no-prune-empty-dirs no-m         : a directory of a seeded file is not empty
-x one-file-system no-one-file-system no-x           : the dry run keeps to it, and so does the scan
-l links no-links no-l                               : symlinks are rsync's
-L copy-links                                        : symlinks are followed where a file is opened
   copy-unsafe-links                                 : symlinks are followed where a file is opened
   safe-links                                        : symlinks are rsync's
   munge-links no-munge-links                        : symlinks are rsync's
-k copy-dirlinks                                     : symlinks are followed where a file is opened
-K keep-dirlinks                                     : what is behind a symlink at the destination is left to rsync
-H hard-links no-hard-links no-H                     : one name is seeded, rsync links the others
   insecure-links no-insecure-links                  : more is open to rsync than is to us; that is left to it
   confine-root=                                     | only rsync can say which paths it confines

-p perms no-perms no-p                               : a seeded file is closed until rsync gives it its mode
-E executability                                     : with perms it has no effect
-A acls no-acls no-A                                 : rsync sets them on what was seeded
-X xattrs no-xattrs no-X                             : rsync sets them on what was seeded
   chmod=                                            : with perms rsync sets the mode it gives
-o owner no-owner no-o                               : rsync sets it on what was seeded
-g group no-group no-g                               : rsync sets it; where a mode needs it first, it is left
-D no-D                                              : devices and specials
   devices no-devices                                : they are rsync's
   specials no-specials                              : they are rsync's
   drop-D no-drop-D                                  : devices are rsync's
   copy-devices                                      | a device would be read as a file
   write-devices no-write-devices                    | a device would be written as a file
-t times no-times no-t                               : without it files get the time of the transfer in the end
-U atimes no-atimes no-U                             : rsync sets it; where permitted, the reading changes nothing
   open-noatime no-open-noatime                      : so is each file opened anyway, where that is permitted
-N crtimes no-crtimes no-N                           : rsync sets it on what was seeded
-O omit-dir-times no-omit-dir-times no-O             : directories are rsync's
-J omit-link-times no-omit-link-times no-J           : symlinks are rsync's
   super no-super                                    : attributes are rsync's
   fake-super                                        | owners and modes go to extended attributes
   numeric-ids no-numeric-ids                        : owners are rsync's
   usermap=                                          : owners are rsync's
   groupmap=                                         : groups are rsync's
   chown=                                            : owners are rsync's
   copy-as=                                          | another user is to write the files

-S sparse no-sparse no-S                             : blocks of zeros become holes when a file is seeded, too
   sparse-block=                                     : it is for rsync's own writing; RHEL's rsync has it
   preallocate                                       : what the source has reserved is reserved, too
   inplace no-inplace                                : a file that is there is written to in place
   append no-append                                  | the bytes that are there are not to be looked at
   append-verify                                     : what is listed is shorter there, and is updated in place
-W whole-file no-whole-file no-W                     : content is the same either way
-y fuzzy no-fuzzy no-y                               : the dry run keeps to it
-B block-size=                                       : it is for rsync's own comparison
   checksum-choice= cc                               : it is for rsync's own comparison
   checksum-seed=                                    : it is for rsync's own comparison
-z compress no-compress no-z                         : what is seeded is compressed, too
   old-compress                                      : what is seeded is compressed, too
   new-compress                                      : what is seeded is compressed, too
   compress-choice= zc                               : followed where the algorithm is zlib or zstd
   compress-level= zl                                : followed
   compress-threads= zt                              : it is for rsync's own compression
   skip-compress=                                    : it is for rsync's own compression
   fsync                                             : what is seeded is on the disk before it gets its name
   partial no-partial                                : over ssh a partial file is kept anyway, by a hidden name
   partial-dir=                                      : a partial file of a seeded one is kept there
-T temp-dir=                                         : temporaries are there, if it is on the same filesystem
   delay-updates no-delay-updates                    | all files are to change at the end
-b backup no-backup                                  : a file that is there is left to rsync: see below
   backup-dir=                                       : a file that is there is left to rsync: see below
   suffix=                                           : it is for rsync's own backups
   compare-dest=                                     : what is found there is not listed
   copy-dest=                                        : what is found there is not listed
   link-dest=                                        : what is found there is not listed

-c checksum no-checksum no-c                         | asking what would be sent would read every file whole
-I ignore-times                                      | files of equal size and time are to be sent again
   ignore-existing                                   | rsync would pass over what was seeded
   size-only                                         : what has the same size is not listed
-u update                                            : what is seeded has the source's time
   existing ignore-non-existing                      : what is new is not listed
-@ modify-window=                                    : a time that the destination does not hold is compared so
   max-size=                                         : the dry run keeps to it
   min-size=                                         : the dry run keeps to it
   max-alloc=                                        : it is for rsync's own memory

   delete                                            : rsync deletes; whether there is room is not asked then
   delete-during del                                 : as delete
   delete-before                                     : as delete
   delete-delay                                      : as delete
   delete-after                                      : as delete
   delete-excluded                                   : as delete; nothing is kept from rsync then
   delete-missing-args                               : as delete
   ignore-missing-args                               : the dry run keeps to it
   ignore-errors no-ignore-errors                    : it is for rsync's own deletions
   force no-force                                    : what is in the way is left to rsync
   max-delete=                                       : a dry run that ends by it has listed all the same
   remove-source-files                               : what is up to date rsync removes, too
   remove-sent-files                                 | only files rsync itself sends are to be removed

-C cvs-exclude                                       : the dry run keeps to it
-F                                                   : the dry run keeps to it
-f filter=                                           : both runs read it
   exclude=                                          : both runs read it
   exclude-from=                                     : both runs read it; what can be read once is kept
   include=                                          : both runs read it
   include-from=                                     : both runs read it; what can be read once is kept
   files-from=                                       : both runs read it; what can be read once is kept
-0 from0 no-from0                                    : both runs read it

-e rsh=                                              : the agent and both runs go through it
   rsync-path=                                       : a program before rsync is put before Python, too
-M remote-option=                                    | the two ends get different options
   old-args no-old-args                              : remote paths that are not plain are left to rsync
-s secluded-args protect-args no-secluded-args no-protect-args no-s : tilde and dots are left to rsync
   trust-sender                                      : rsync's own check
   blocking-io no-blocking-io                        : it is for rsync's own remote shell
   qsort                                             : only the order differs
-4 ipv4                                              : the agent's remote shell is given it, too
-6 ipv6                                              : the agent's remote shell is given it, too
   address=                                          : it is for a daemon, which is left to rsync
   port=                                             : it is for a daemon, which is left to rsync
   sockopts=                                         : it is for a daemon, which is left to rsync
   password-file=                                    | it belongs to a daemon
   early-input=                                      | it belongs to a daemon
   timeout= no-timeout                               : the agent has it, too
   contimeout= no-contimeout                         : it is for a daemon, which is left to rsync
   bwlimit= no-bwlimit                               : the seeding keeps to it
   stop-after= time-limit                            | rsync is to stop early
   stop-at=                                          | rsync is to stop early
   protocol=                                         | an older protocol may not tell what would be sent
   iconv= no-iconv                                   | names are to be converted
   write-batch=                                      | the batch must hold the content
   only-write-batch=                                 | the batch must hold the content
   read-batch=                                       | the content comes from the batch
"""
# A second backup of a name replaces the first. If a seeded file changed at the source before rsync came to it, rsync
# would make one of what was seeded, and the old content would be gone.
#
# --compare-dest, --copy-dest and --link-dest are allowed because of what 3.5.0 does: a file is listed as a transfer
# only when DIR has none of its size and time, and a file at the destination itself is preferred to one in DIR. What is
# in DIR is the basis of the seeded file too: engine/content/basis.py.
# (Not without --perms: see handoff.py.)


class Option(NamedTuple):
    """An option as it was given. ``name``: the long name, with ``no-`` in front if the option turns something off."""

    name: str
    value: str | None
    tokens: tuple[str, ...]


class Spec(NamedTuple):
    """An option as rsync defines it."""

    name: str
    letter: str | None
    takes_argument: bool
    why_not: str | None
    done: str | None
    """What is done with it, if it does not forbid seeding."""


def _read(table: str) -> tuple[dict[str, tuple[Spec, bool]], dict[str, Spec]]:
    longs: dict[str, tuple[Spec, bool]] = {}
    letters: dict[str, Spec] = {}
    for line in filter(None, table.splitlines()):
        left, kind, text = re.split(" ([|:]) ", line, maxsplit=1)
        words = left.split()
        letter = words.pop(0)[1:] if words[0].startswith("-") else None
        names = [word.rstrip("=") for word in words]
        # -D, -F and -P have no long name: they are known by their letter.
        name = letter if letter and (not names or names[0].startswith("no-")) else names[0]
        why_not, done = (text, None) if kind == "|" else (None, text)
        spec = Spec(name, letter, "=" in left, why_not, done)
        longs.update((each, (spec, each.startswith("no-") and each != name)) for each in names)
        if letter:
            letters[letter] = spec
    return longs, letters


LONGS, LETTERS = _read(_TABLE)
"""Long name -> (option, does this name turn it off?); letter -> option."""
