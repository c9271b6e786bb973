"""The ``sparsesync`` command: argument parsing and printing, nothing else.

Each subcommand is a function from parsed arguments to an exit status, and imports what it needs
itself, so that none pays for another. ``sync`` does not go through argparse: its arguments are
rsync's, and rsync is to be the one who reads them.

Results go to standard output; troubles to standard error, one line each with the path and,
where there is something to be done, what. No trouble ends in a traceback: see :func:`main`.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import stat
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NoReturn

from ..console import streams
from ..console.messages import complain, describe, tell
from ..engine.text import printable

if TYPE_CHECKING:
    from ..console.sorting import Sorted

TROUBLE = 1
RSYNC_FILE_IO = 11
RSYNC_SIGNAL = 20
"""rsync's own statuses, rsync(1) EXIT VALUES, for ``sync`` when it fails before rsync runs."""
RSYNC_PROTOCOL = 12
RSYNC_SYNTAX = 1
RSYNC_LOGIN = 255
NOT_FOUND = 127
"""A command that is not there, as a shell says it."""

_DIFFERENCES = {
    "content": "content differs at byte {offset}",
    "missing": "missing in {b}",
    "extra": "only in {b}",
    "type": "of another type in {b}",
    "link": "the symlink leads elsewhere in {b}",
    "device": "another device in {b}",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (``sys.argv[1:]`` by default); returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    streams.prepare()
    warnings.showwarning = _show_warning
    # Ctrl-\ is what people press where Ctrl-C seems dead: that too must not leave services stopped.
    for number in (signal.SIGTERM, signal.SIGHUP, *([signal.SIGQUIT] if argv[:1] == ["migrate"] else [])):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _end)
    sys.unraisablehook = _raise_again
    try:
        if argv[:1] == ["sync"]:
            return _sync(argv[1:])
        rest: list[str] = []
        if argv[:1] == ["migrate"] and "--" in argv:
            dashes = argv.index("--")
            argv, rest = argv[:dashes], argv[dashes + 1 :]
        try:
            arguments = _parser(argv[0] if argv else None).parse_args(argv)
        except SystemExit:  # after --help there may be something to flush
            sys.stdout.flush()
            raise
        arguments.rsync_options = rest
        status: int = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return RSYNC_SIGNAL if argv[:1] == ["sync"] else 130
    except BrokenPipeError:  # the reader has gone (| head)
        streams.give_up_output()
        return 128 + signal.SIGPIPE
    except (OSError, ValueError, RuntimeError) as error:
        if not _is_trouble(error):
            raise
        complain(error)
        if isinstance(error, OSError) and error.filename == streams.STDOUT:
            streams.give_up_output()
        return 2 if argv[:1] == ["verify"] else TROUBLE


def _is_trouble(error: Exception) -> bool:
    """Whether an error is one of those that tell a person what is wrong, and not a mistake of ours."""
    from ..engine.errors import LinkError

    return isinstance(error, (OSError, ValueError, LinkError))


def _end(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)  # by way of every "finally", so that no temporary is left


def _raise_again(swallowed: sys.UnraisableHookArgs) -> None:
    """Raise what ends us once more, when a destructor that it was raised in has swallowed it."""
    ends = swallowed.exc_value
    if not isinstance(ends, (SystemExit, KeyboardInterrupt)):
        sys.__unraisablehook__(swallowed)
        return

    def end(number: int, frame: object) -> NoReturn:
        raise ends

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, 0.001)  # the destructor has ended by then


def _show_warning(message: Warning | str, *rest: object, **more: object) -> None:
    complain(str(message))


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints, which quote the arguments, are for a terminal."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    """The parser: of all commands, or if one is chosen of that one, since nobody will ask for the others."""
    from .. import __version__

    parser = _Parser(prog="sparsesync", description="Sparse files cost what their data costs.")
    parser.add_argument("--version", action="version", version=f"sparsesync {__version__}")
    # Without "prog" argparse would format a usage, only to know it, and import for that what hardly anybody needs.
    commands = parser.add_subparsers(metavar="COMMAND", required=True, prog="sparsesync")
    for name, (what, add) in _COMMANDS.items():
        if chosen == name or chosen not in _COMMANDS:
            add(commands.add_parser(name, help=what))
    return parser


def _add_scan(command: argparse.ArgumentParser) -> None:
    command.add_argument("paths", nargs="+", metavar="PATH")
    command.add_argument("--min-size", type=_size, default=0, metavar="SIZE", help="smallest apparent size, e.g. 100M")
    command.add_argument("--all", action="store_true", help="list every regular file, not only the sparse ones")
    _add_one_file_system(command)
    _add_holes(command)
    _add_far_end(command)
    form = command.add_mutually_exclusive_group()
    form.add_argument("-0", "--null", action="store_true", help="paths only, each ended by a NUL")
    form.add_argument("--json", action="store_true", help="one JSON object")
    command.set_defaults(run=_scan)


def _add_map(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", metavar="FILE")
    _add_holes(command)
    _add_far_end(command)
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="a list of {offset, length, data, reserved}, in bytes")
    form.add_argument("--format", choices=["qemu", "bmap"], help="as qemu-img map --output=json, or a bmap 2.0 file")
    command.set_defaults(run=_map)


def _add_copy(command: argparse.ArgumentParser) -> None:
    command.add_argument("paths", nargs="+", metavar="PATH", help="SOURCE... DESTINATION")
    _add_holes(command)
    _add_far_end(command)
    command.add_argument("-p", "--preserve", action="store_true", help="times, ownership, xattrs and ACLs too")
    command.add_argument("--inplace", action="store_true", help="write only the blocks that differ, into the old file")
    command.add_argument("--reflink", choices=["auto", "always", "never"], default="auto", help="share extents")
    command.add_argument(
        "--sparse", choices=["auto", "always"], default="auto", help="always: make blocks of zeros holes as well"
    )
    command.add_argument("--reserve", action="store_true", help="reserve what is preallocated in SOURCE (fallocate)")
    command.add_argument("--fsync", action="store_true", help="flush each file and then its name to the disk")
    command.add_argument("-q", "--quiet", action="store_true", help="no progress")
    command.set_defaults(run=_copy)


def _add_exclude(command: argparse.ArgumentParser) -> None:
    command.add_argument("sources", nargs="+", metavar="SRC", help="as given to rsync: 'dir' and 'dir/' differ")
    command.add_argument("-o", "--output", metavar="FILE", help="write to FILE (default: standard output)")
    command.add_argument("-R", "--relative", action="store_true", help="as rsync's")
    command.add_argument("-0", "--null", action="store_true", help="for rsync --from0: any file name can be carried")
    command.add_argument("--min-size", type=_size, default=0, metavar="SIZE", help="smallest apparent size")
    command.add_argument("--min-ratio", type=float, default=0.0, metavar="R", help="smallest share of hole, 0 to 1")
    command.add_argument("--preset", choices=["docker", "system"], help="add what such a tree is not copied with")
    command.add_argument(
        "--format",
        choices=["rsync", "tar", "borg", "restic"],
        default="rsync",
        help="whose exclude file to write; tar has to be run with --anchored --exclude-from=FILE",
    )
    _add_one_file_system(command)
    _add_far_end(command)
    command.set_defaults(run=_exclude)


def _add_verify(command: argparse.ArgumentParser) -> None:
    command.add_argument("a", metavar="A")
    command.add_argument("b", metavar="B")
    command.add_argument("--full", action="store_true", help="read the holes too")
    command.add_argument("--json", action="store_true", help="one JSON object; also what was read, and what believed")
    _add_holes(command)
    _add_far_end(command)
    command.add_argument("-q", "--quiet", action="store_true", help="no progress")
    command.set_defaults(run=_verify)


def _add_migrate(command: argparse.ArgumentParser) -> None:
    from . import migrate as migrate_command

    migrate_command.add(command, _add_far_end)


_COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "scan": ("find the sparse files below paths", _add_scan),
    "map": ("show where the data of a file is", _add_map),
    "copy": ("copy files, holes as holes", _add_copy),
    "exclude": ("write an exclude file for rsync that leaves out the sparse files", _add_exclude),
    "verify": ("compare two files or trees, reading only data", _add_verify),
    "migrate": ("move a host's data: look, plan, sync while services run, stop them, sync, verify", _add_migrate),
    "sync": ("run rsync, with sparse files put in place first; its arguments are rsync's", lambda command: None),
}
"""Each command: what it does, and what gives its parser the arguments."""


def _add_one_file_system(command: argparse.ArgumentParser) -> None:
    command.add_argument("-x", "--one-file-system", action="store_true", help="do not enter other filesystems")


def _add_holes(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--holes",
        choices=["auto", "trust", "check", "read"],
        default="auto",
        help="whether a filesystem's map of a file is believed (auto: by what filesystem it is); else it is read",
    )


def _add_far_end(command: argparse.ArgumentParser) -> None:
    """How to reach ``host:path``, the same for every command that takes one."""
    far = command.add_argument_group("to reach host:path")
    far.add_argument("-e", "--rsh", metavar="COMMAND", help="the remote shell (default: RSYNC_RSH, else ssh)")
    far.add_argument("--python", metavar="PATH", help="the Python to use there (default: one is looked for)")


def _size(text: str) -> int:
    from ..console.units import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class _Troubles:
    """Complains of each error and remembers that there was one."""

    status = 0

    def __call__(self, error: Exception) -> None:
        complain(error)
        self.status = TROUBLE


def _scan(arguments: argparse.Namespace) -> int:
    from ..console.sorting import Sorted
    from ..engine.errors import LinkError
    from ..hosts.pool import Ends

    troubles = _Troubles()
    found, count = Sorted(), 0
    known: dict[object, int] = {}
    with Ends(arguments.rsh, arguments.python) as ends:
        for path in arguments.paths:
            try:
                end, below, prefix = ends.at(path)
                for scanned in end.scan(
                    below,
                    measured=not arguments.null,
                    one_file_system=arguments.one_file_system,
                    min_size=arguments.min_size,
                    every_file=arguments.all,
                    follow=True,
                    holes=arguments.holes,
                    on_error=troubles,
                ):
                    file, count = scanned.file, count + 1
                    sizes = file.size, file.allocated, scanned.data, scanned.extents
                    inode = known.setdefault(end, len(known)), file.st.st_dev, file.st.st_ino
                    found.add(*inode, count, prefix + file.path, *sizes)
            except (OSError, LinkError) as error:
                troubles(error)

    rows, total, last = Sorted(), {"files": 0, "size": 0, "allocated": 0, "data": 0}, None
    for row in found:
        path, size, allocated, data, count = row[4:]
        if row[:3] == last:  # a link, or the same file below two paths
            continue
        last = row[:3]
        # What is reserved is allocated, and saved all the same.
        rows.add((allocated if arguments.null else min(allocated, data)) - size, path, size, allocated, data, count)
        for name, more in zip(total, (1, size, allocated, data)):
            total[name] += more
    _show_scan(rows, total, arguments)
    return troubles.status


def _show_scan(rows: Sorted, total: dict[str, int], arguments: argparse.Namespace) -> None:
    if arguments.null:
        for _, path, *_ in rows:
            sys.stdout.buffer.write(os.fsencode(path) + b"\0")
        return
    if arguments.json:
        import json

        names = ("path", "size", "allocated", "data", "extents")
        _write_list("files", (json.dumps(dict(zip(names, row[1:]))) for row in rows), {"total": total})
        return
    from ..console.units import iec

    if total["files"]:
        tell(f"{'apparent':>10} {'allocated':>10} {'data':>10} {'extents':>8}  path")
    for _, path, size, allocated, data, count in rows:
        sizes = f"{iec(size):>10} {iec(allocated):>10} {iec(data):>10}"
        tell(f"{sizes} {count:>8}  {path}")
    kind = f"{'file' if arguments.all else 'sparse file'}{'' if total['files'] == 1 else 's'}"
    tell(f"{total['files']} {kind}: {iec(total['size'])} apparent, {iec(total['allocated'])} allocated")


def _write_list(name: str, items: Iterable[str], more: dict[str, object]) -> None:
    """Print a JSON object of a list, whose items are JSON already, and of what else there is."""
    import json

    sys.stdout.write(f'{{"{name}": [')
    separator = ""
    for item in items:
        sys.stdout.write(separator + item)
        separator = ", "
    print("], " + json.dumps(more)[1:])


def _map(arguments: argparse.Namespace) -> int:
    from ..hosts.pool import Ends
    from . import map as mapfile

    with Ends(arguments.rsh, arguments.python) as ends:
        form = "json" if arguments.json else arguments.format
        mapfile.show(sys.stdout, ends.at(arguments.file), form, arguments.file, arguments.holes)
    return 0


def _copy(arguments: argparse.Namespace) -> int:
    from ..console.progress import data_bar
    from ..hosts.copies import Copies
    from ..hosts.pool import is_remote

    *sources, destination = arguments.paths
    if not sources:
        raise ValueError(f"{destination}: a destination is missing")
    if len(sources) > 1 and not is_remote(destination) and not os.path.isdir(destination):
        raise NotADirectoryError(errno.ENOTDIR, "is not a directory, and there are several sources", destination)
    if len(sources) > 1 and is_remote(destination):
        # Nobody has looked whether it is a directory; with the slash it has to be one.
        destination += "./" if destination.endswith(":") else "/"
    troubles = _Troubles()
    with Copies(arguments.rsh, arguments.python) as copies:
        for source in sources:
            try:
                total = None if is_remote(source) else _work(source, arguments.holes)
                with data_bar(total, os.path.basename(source), arguments.quiet) as advance:
                    copies.copy(
                        source,
                        destination,
                        "all" if arguments.preserve else "mode",
                        inplace=arguments.inplace,
                        reflink=arguments.reflink,
                        sparse=arguments.sparse,
                        holes=arguments.holes,
                        reserve=arguments.reserve,
                        fsync=arguments.fsync,
                        progress=advance,
                    )
            except IsADirectoryError as error:
                hint = "is a directory; for trees use 'sparsesync sync -a'"
                troubles(IsADirectoryError(errno.EISDIR, hint, error.filename))
            except OSError as error:
                troubles(error)
    return troubles.status


def _work(source: str, holes: str) -> int:
    """The bytes that a copy of a file will go through: what is allocated, or all of it if its map is not believed."""
    from ..engine.files.claims import allocated, believes, file_size, looks_sparse

    st = os.stat(source)
    if stat.S_ISREG(st.st_mode) and not looks_sparse(st):
        return st.st_size
    if not stat.S_ISREG(st.st_mode) and not stat.S_ISBLK(st.st_mode):
        return 0
    from ..engine.content.copy_file import open_source

    fd = open_source(source)
    try:
        return allocated(st) if believes(fd, holes) else file_size(fd)
    finally:
        os.close(fd)


def _exclude(arguments: argparse.Namespace) -> int:
    from .. import __version__, exclude

    troubles = _Troubles()

    with streams.output(arguments.output) as out:
        exclude.write(
            out,
            arguments.sources,
            relative=arguments.relative,
            min_size=arguments.min_size,
            min_ratio=arguments.min_ratio,
            one_file_system=arguments.one_file_system,
            preset=arguments.preset,
            format=arguments.format,
            null=arguments.null,
            on_error=troubles,
            command=f"sparsesync {__version__}",
            rsh=arguments.rsh,
            python=arguments.python,
        )
    return troubles.status


def _verify(arguments: argparse.Namespace) -> int:
    import contextlib

    from ..comparison.direct import verify
    from ..console.progress import data_bar
    from ..engine.content.compare import Tally

    troubles = _Troubles()
    tallies = Tally(), Tally()
    different = False
    with contextlib.ExitStack() as stack:
        if arguments.json:
            import json
            import tempfile

            # It is printed when it is known that all of it can be.
            listed = stack.enter_context(tempfile.SpooledTemporaryFile(1 << 20, "w+", encoding="ascii"))
        advance = stack.enter_context(data_bar(None, "verifying", arguments.quiet))
        for difference in verify(
            arguments.a,
            arguments.b,
            full=arguments.full,
            holes=arguments.holes,
            tallies=tallies,
            on_error=troubles,
            progress=advance,
            rsh=arguments.rsh,
            python=arguments.python,
        ):
            different = True
            if arguments.json:
                listed.write(json.dumps(difference._asdict()) + "\n")
                continue
            what = _DIFFERENCES[difference.kind].format(offset=difference.offset, b=arguments.b)
            tell(f"{difference.path or arguments.a}: {what}")
        if arguments.json:
            listed.seek(0)
            a, b = ({"read": tally.read, "believed": tally.believed} for tally in tallies)
            _write_list("differences", (line.rstrip("\n") for line in listed), {"a": a, "b": b})
    return 2 if troubles.status else int(different)


def _sync(argv: list[str]) -> int:
    from ..engine.errors import LinkError, LoginError, NoSpaceError
    from ..seeding.run import RsyncTooOldError, run, split_options

    try:
        seed, rest = split_options(argv)
    except ValueError as error:
        complain(error)
        return RSYNC_SYNTAX
    try:
        return run(rest, seed, replace=True).status
    except NoSpaceError as error:
        complain(f"{describe(error)}; nothing was written (--seed-no-space-check to try all the same)")
        return RSYNC_FILE_IO
    except LoginError as error:
        complain(error)
        return RSYNC_LOGIN
    except LinkError as error:
        # rsync over the same broken connection would not get far, and over a new one would send every hole.
        complain(f"{error}; what was received is kept, run the same command again to go on from there")
        return RSYNC_PROTOCOL
    except RsyncTooOldError as error:
        complain(error)
        return TROUBLE
    except FileNotFoundError as error:
        if error.filename != "rsync":
            raise
        complain("rsync is not installed; install it, for instance: apt install rsync")
        return NOT_FOUND
    except SystemExit as ended:
        return RSYNC_SIGNAL if isinstance(ended.code, int) and ended.code > 128 else TROUBLE
