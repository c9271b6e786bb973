"""``sparsesync verify``: each difference of two files or trees, as a line or in one JSON object."""

from __future__ import annotations

import argparse
import contextlib
from typing import TYPE_CHECKING

from ..comparison.compare import verify
from ..console.messages import print_line
from ..console.progress import data_bar, progress
from ..console.units import iec
from ..engine.content.compare import Tally
from ..engine.host import LocalHost
from ..engine.tree.scan import ScanOptions
from ..hosts.pool import HostPool, is_remote
from .options import Troubles, add_holes, add_progress, add_remote_end, add_workers, preset_names, workers

if TYPE_CHECKING:
    from ..engine.tree.left_out import NameRules

_DIFFERENCES = {
    "content": "content differs at byte {offset}",
    "missing": "missing in {b}",
    "extra": "only in {b}",
    "type": "of another type in {b}",
    "link": "the symlink leads elsewhere in {b}",
    "device": "another device in {b}",
    "mode": "another mode in {b}",
    "owner": "another owner or group in {b}",
}


def add(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    command.add_argument("a", metavar="A")
    command.add_argument("b", metavar="B")
    command.description = f"{command.description} Times, extended attributes and ACLs are not looked at."
    command.add_argument("--attributes", action="store_true", help="compare modes, owners and groups, too")
    command.add_argument("--full", action="store_true", help="read the holes too")
    command.add_argument(
        "--exclude-from", action="append", default=[], metavar="FILE", help="as rsync's, for both trees"
    )
    command.add_argument(
        "--preset",
        type=lambda given: preset_names(given, none=False),
        metavar="NAME[,NAME...]",
        help="leave out what migrate leaves out of such a tree",
    )
    command.add_argument("--json", action="store_true", help="one JSON object; also what was read, and what believed")
    add_holes(command)
    add_remote_end(command)
    add_workers(command, "compare")
    command.add_argument("-v", "--verbose", action="store_true", help="name what is equal, too")
    add_progress(command, quiet="no progress, and nothing to say if all is equal")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command, and return the exit status."""
    troubles = Troubles()
    tallies = Tally(), Tally()
    different, names, files = False, 0, 0

    def on_equal(path: str, again: bool) -> None:
        nonlocal names, files
        names += 1
        files += not again
        if arguments.verbose and not arguments.json:
            print_line(f"{path or arguments.a}: equal")

    rules = _rules(arguments) if arguments.exclude_from or arguments.preset else None
    with contextlib.ExitStack() as stack:
        executor = workers(arguments, stack)
        if arguments.jobs and arguments.jobs > 1:
            from concurrent.futures import ThreadPoolExecutor

            executor = stack.enter_context(ThreadPoolExecutor(arguments.jobs))
        if arguments.json:
            arguments.document.open_list("differences")
        shown = arguments.quiet, arguments.progress_fd
        total = _work(arguments, rules) if progress(None, *shown).shown else None
        advance = stack.enter_context(data_bar(total, "verifying", *shown))
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
            prefix=arguments.remote_prefix,
            executor=executor,
            rules=rules,
            attributes=arguments.attributes,
            on_equal=on_equal,
        ):
            different = True
            if arguments.json:
                arguments.document.item(difference.asdict())
                continue
            what = _DIFFERENCES[difference.kind].format(offset=difference.offset, b=arguments.b)
            print_line(f"{difference.path or arguments.a}: {what}")
        if arguments.json:
            a, b = ({"read": tally.read, "believed": tally.believed} for tally in tallies)
            arguments.document.add({"a": a, "b": b})
    if not (different or troubles.status or arguments.json or arguments.quiet):
        told, other = (f"{iec(tally.read)} read, {iec(tally.believed)} believed to be holes" for tally in tallies)
        told += "" if told == other else f" in {arguments.a}; {other} in {arguments.b}"
        count = f"{names} name{'' if names == 1 else 's'}"
        count += "" if files == names else f" of {files} file{'' if files == 1 else 's'}"
        print_line(f"equal: {count}; {told}")
    return 2 if troubles.status else int(different)


def _work(arguments: argparse.Namespace, rules: NameRules | None) -> int | None:
    """Return about how many bytes will be compared, None if both trees are on other hosts: nobody logs in twice."""
    local = next((path for path in (arguments.a, arguments.b) if not is_remote(path)), None)
    if local is None:
        return None
    options = ScanOptions(every_link=True, every_file=True, follow=True, rules=rules)
    try:
        found = LocalHost().scan(local, options, on_error=lambda error: None)
        return sum(file.size if arguments.full else min(file.size, file.allocated) for file, *_ in found)
    except OSError:
        return None  # what is wrong is told when it is compared


def _rules(arguments: argparse.Namespace) -> NameRules | None:
    """Return what is left out of both trees. Raises OSError, ValueError."""
    from ..exclude import place_patterns, quoter
    from ..migration.preflight import left_out_places
    from ..rsync.command import parse
    from ..rsync.filters import walk

    words = ["-r"]
    if arguments.preset:
        with HostPool(arguments.rsh, arguments.python, prefix=arguments.remote_prefix) as hosts:
            # What is in it has names, and it has none.
            host, top, _ = hosts.locate(arguments.a + ("./" if arguments.a.endswith(":") else "/"))
            places = list(left_out_places(host, arguments.preset, top))
        words += [f"--exclude={pattern}" for pattern in place_patterns(places, False, quoter(null=True))]
    for path in arguments.exclude_from:
        with open(path, "rb"):
            words.append(f"--exclude-from={path}")
    left_out = walk(parse([*words, "a/", "b/"], {}))
    if left_out is None:
        raise ValueError(f"{', '.join(arguments.exclude_from)}: has rules that only rsync understands")
    return left_out.rules("a/")
