"""``sparsesync copy``: each file by itself, with a bar for what is allocated of it."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import re
import stat
import sys
from collections.abc import Iterator

from ..console.messages import print_error, print_line
from ..console.progress import data_bar
from ..console.streams import STDOUT
from ..console.units import iec
from ..engine.content.copy_file import Copied, CopyOptions
from ..engine.errors import LinkError, OnProgress
from ..engine.files.claims import allocated, believes, file_size, looks_sparse
from ..engine.files.status import check_no_lost_device, open_source
from ..hosts.copies import Copies
from ..hosts.pool import is_remote
from .options import Parser, Troubles, add_holes, add_progress, add_remote_end, add_streams, add_workers, workers

_STREAM = "-"
"""Standard input as a source, and standard output as the destination."""


def add(command: Parser) -> None:
    """Add the command's arguments to its parser."""
    command.hint = _hint
    command.add_argument("paths", nargs="+", metavar="PATH", help="SOURCE... DESTINATION; - for a stream")
    add_holes(command)
    add_remote_end(command)
    command.add_argument("-p", "--preserve", action="store_true", help="times, ownership, xattrs and ACLs too")
    command.add_argument("--inplace", action="store_true", help="write only the blocks that differ, into the old file")
    command.add_argument(
        "--overlay", action="store_true", help="as --inplace, but leave DESTINATION as it is where SOURCE has a hole"
    )
    command.add_argument("--reflink", choices=["auto", "always", "never"], default="auto", help="share extents")
    command.add_argument(
        "--sparse", choices=["auto", "always"], default="auto", help="always: make blocks of zeros holes as well"
    )
    command.add_argument("--reserve", action="store_true", help="reserve what is preallocated in SOURCE (fallocate)")
    add_workers(command, "copy")
    command.add_argument("--check", choices=["other"], help="have another worker read back what one wrote")
    command.add_argument("--fsync", action="store_true", help="flush each file and then its name to the disk")
    command.add_argument("--no-space-check", action="store_true", help="start even if the data does not seem to fit")
    command.add_argument(
        "--track", metavar="DIR", help="keep a clone of SOURCE there, and copy only what changed the next time"
    )
    command.add_argument(
        "--extents-from", metavar="FILE", help="copy only what changed by this list: a dirty bitmap, thin_delta's XML"
    )
    command.add_argument("-z", "--compress", action="store_true", help="compress what goes over the network")
    command.add_argument("--bwlimit", type=_rate, metavar="RATE", help="KiB per second over the network, or as 2m")
    add_streams(command)
    command.add_argument("-n", "--dry-run", action="store_true", help="say what would be copied, and write nothing")
    command.add_argument("-v", "--verbose", action="store_true", help="say what was copied")
    command.add_argument("--json", action="store_true", help="say it as one JSON object")
    add_progress(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command, and return the exit status."""
    *sources, destination = arguments.paths
    if not sources:
        raise ValueError(f"{destination}: a destination is missing")
    _check_streams(arguments, sources, destination)
    if len(sources) > 1 and not is_remote(destination) and not os.path.isdir(destination):
        raise NotADirectoryError(errno.ENOTDIR, "is not a directory, and there are several sources", destination)
    if len(sources) > 1 and is_remote(destination):
        # Nobody has looked whether it is a directory; with the slash it has to be one.
        destination += "./" if destination.endswith(":") else "/" * (not destination.endswith("/"))
    if arguments.bwlimit and not all(is_remote(destination) or is_remote(source) for source in sources):
        raise ValueError("--bwlimit is for copies to and from another host")
    if arguments.streams > 1 and not any(is_remote(path) for path in arguments.paths):
        raise ValueError("--streams is for copies to and from another host")
    if arguments.extents_from and (len(sources) > 1 or arguments.dry_run):
        raise ValueError("--extents-from is for one SOURCE, and not for --dry-run")
    if arguments.check and not arguments.workers:
        raise ValueError("--check=other is for --workers")
    if arguments.workers and arguments.dry_run:
        raise ValueError("--workers and --dry-run do not go together")
    troubles = Troubles()
    total = {"size": 0, "written": 0}
    rows = _copy_each(arguments, sources, destination, troubles, total)
    if arguments.json:
        arguments.document.open_list("files")
        done = False
        for source, made in rows:
            done = True
            arguments.document.item({"source": source, "destination": made.path, **_sizes(made)})
        arguments.document.add({"total": total})
        if not done:
            arguments.document.failure = troubles.first
        return troubles.status
    for source, made in rows:
        if arguments.dry_run:
            print_line(f"would copy {source} -> {made.path}: up to {iec(made.written)} of {iec(made.size)}")
        elif arguments.verbose:
            print_line(f"{source} -> {made.path}: {iec(made.written)} of {iec(made.size)} written")
            if made.why_whole is not None:
                print_line(f"{source}: all of it was compared or copied: {made.why_whole}")
    return troubles.status


def _copy_each(
    arguments: argparse.Namespace, sources: list[str], destination: str, troubles: Troubles, total: dict[str, int]
) -> Iterator[tuple[str, Copied]]:
    """Copy the files, or plan to, and yield each that was made. Its sizes are added to ``total``."""
    options = CopyOptions(
        "all" if arguments.preserve else "new-mode",
        inplace=arguments.inplace,
        reflink=arguments.reflink,
        sparse=arguments.sparse,
        holes=arguments.holes,
        reserve=arguments.reserve,
        fsync=arguments.fsync,
        space_check=not arguments.no_space_check,
        overlay=arguments.overlay,
    )
    remote = arguments.rsh, arguments.python, arguments.remote_prefix
    with contextlib.ExitStack() as stack:
        executor = workers(arguments, stack)
        copies = stack.enter_context(
            Copies(
                *remote,
                compress=arguments.compress,
                bwlimit=arguments.bwlimit,
                streams=arguments.streams,
                say=print_error if arguments.verbose else lambda line: None,
                track=arguments.track,
                extents_from=arguments.extents_from,
                jobs=arguments.jobs,
                executor=executor,
                check_other=arguments.check == "other",
            )
        )
        for source in sources:
            try:
                linked = _look_at_target(source, destination)
                if arguments.dry_run:
                    made = copies.plan(source, destination, options)
                else:
                    work = None if is_remote(source) or source == _STREAM else _work(source, arguments.holes)
                    fd, name = arguments.progress_fd, os.path.basename(source)
                    with data_bar(work, "copying", arguments.quiet, fd, name) as advance:
                        made = _copy(copies, source, destination, options, advance)
            except IsADirectoryError as error:
                do = "name a file in it" if source == _STREAM else "for trees use 'sparsesync sync -a'"
                hint = f"is a directory; {do}"
                troubles(IsADirectoryError(errno.EISDIR, hint, error.filename))
            except (LinkError, BrokenPipeError):
                raise
            except OSError as error:
                troubles(error)
            else:
                for name, size in _sizes(made).items():
                    total[name] += size
                yield source, made
                if linked and not options.in_place and not arguments.dry_run:
                    print_error(f"{made.path}: its other names keep the old content; --inplace writes to all of them")


def _look_at_target(source: str, destination: str) -> bool:
    """Return whether the file that a copy replaces has more names. Raises FileNotFoundError for a lost device."""
    if destination == _STREAM or is_remote(destination):
        return False
    if os.path.isdir(destination):
        destination = os.path.join(destination, os.path.basename(source))
    check_no_lost_device(destination)
    try:
        st = os.stat(destination)
    except OSError:
        return False
    return stat.S_ISREG(st.st_mode) and st.st_nlink > 1


def _copy(copies: Copies, source: str, destination: str, options: CopyOptions, progress: OnProgress) -> Copied:
    if _STREAM not in (source, destination):
        return copies.copy(source, destination, options, progress)
    if source == _STREAM:
        if sys.stdin is None:  # an empty file would take the place of what is there
            raise OSError(errno.EBADF, "is closed", "standard input")
        return copies.copy_in(sys.stdin.fileno(), destination, options, progress)
    sys.stdout.flush()
    return copies.copy_out(source, sys.stdout.fileno(), STDOUT, options, progress)


def _check_streams(arguments: argparse.Namespace, sources: list[str], destination: str) -> None:
    """Raise ValueError for what a stream cannot do."""
    if _STREAM not in (*sources, destination):
        return
    if len(sources) > 1 or sources == [destination]:
        raise ValueError("- is standard input or output, and the other path a file: copy - FILE, or copy FILE -")
    wrong = ["--preserve", "--overlay", "--reserve", "--dry-run", "--track", "--extents-from", "--jobs", "--workers"]
    if not is_remote(sources[0]) and not is_remote(destination):
        wrong.append("--compress")
    if destination == _STREAM:
        wrong += ["--inplace", "--fsync", "--verbose", "--json"]
    for option in wrong:
        if getattr(arguments, option[2:].replace("-", "_")):
            raise ValueError(f"{option} and - do not go together")
    if arguments.reflink == "always":
        raise ValueError("--reflink=always and - do not go together")


def _sizes(made: Copied) -> dict[str, int]:
    return {"size": made.size, "written": made.written}


def _hint(option: str) -> str | None:
    trees = option in ("--archive", "--recursive") if option.startswith("--") else set(option) & set("arR")
    return "for trees use 'sparsesync sync -a'" if trees else None


def _rate(text: str) -> int | None:
    """Return the bytes per second of a rate as rsync has it, None for no limit, for argparse."""
    from ..rsync.command import parse_bwlimit

    rate = parse_bwlimit(text)
    if rate is None and not re.fullmatch("0+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no rate: KiB per second, or as 500k, 2m, 1.5g; 0 is no limit")
    return rate


def _work(source: str, holes: str) -> int:
    """Return the bytes to be read for a copy of a file: its allocated size, or all of it if its map is not believed."""
    st = os.stat(source)
    if stat.S_ISREG(st.st_mode) and not looks_sparse(st):
        return st.st_size
    if not stat.S_ISREG(st.st_mode) and not stat.S_ISBLK(st.st_mode):
        return 0
    fd = open_source(source)
    try:
        return allocated(st) if believes(fd, holes) else file_size(fd)
    finally:
        os.close(fd)
