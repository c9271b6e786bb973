"""What type checkers make of the public interface. mypy reads it, and unit/test_public.py has pyright read it, too.

Whatever is marked as an error has to be one: a mark that is not needed is an error itself.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import sparsesync


def copies(path: Path, raw: bytes, fd: int) -> None:
    a: str = sparsesync.copyfile("a", "b")
    b: Path = sparsesync.copyfile(raw, path, reflink="always", holes="read", sparse="auto")
    c: bytes = sparsesync.copyfile(fd, raw)
    d: str = sparsesync.copy(path, "b")
    e: str | Path = sparsesync.copy2("host:a", path, rsh=["ssh", "-p", "22"])
    f: bytes = sparsesync.copy2(path, raw, progress=lambda count: None)
    shutil.copytree("a", "b", copy_function=sparsesync.copy2)
    g: str | os.PathLike[str] = sparsesync.copytree(path, "host:b", ignore=shutil.ignore_patterns("*.tmp"), rsh="ssh")
    h: str | os.PathLike[str] = sparsesync.move("host:a", path, python="python3")
    i: str = sparsesync.copy("a", "b", overlay=True)
    j: bytes = sparsesync.copy2(raw, raw, overlay=True, fsync=True)
    k: str = sparsesync.Session().copy2("a", "b", overlay=True)
    print(a, b, c, d, e, f, g, h, i, j, k)

    sparsesync.copyfile("a", "b", reflink="yes")  # type: ignore[arg-type]
    sparsesync.copyfile("a", 3)  # type: ignore[type-var]
    sparsesync.copy2("a", "b", sparse="never")  # type: ignore[call-overload]
    sparsesync.copyfile("a", "b", rsh=3)  # type: ignore[arg-type]


def walks(path: Path, entry: os.DirEntry[str]) -> None:
    found: Generator[sparsesync.Sparse, None, None] = sparsesync.scan(entry, prune=path, on_error=print)
    for file in found:
        name: str = file.path
        saved: int = file.saved
        print(name, saved, file.size - file.allocated, file.st.st_mtime, json.dumps(file.asdict()), {file: 1})
    found.close()
    tallies = sparsesync.Tally(), sparsesync.Tally()
    differences: Generator[sparsesync.Difference, None, None] = sparsesync.verify("a", path, tallies=tallies)
    for each in differences:
        at: int | None = each.offset
        print(each.path, at, each.kind == "content", each.asdict(), tallies[0].read, tallies[1].asdict())
    differences.close()
    with open(path, "rb") as opened:
        extents: Iterator[tuple[int, int]] = sparsesync.extents(opened.fileno(), holes="trust")
        print(sum(length for _, length in extents))
    patterns: list[str] = sparsesync.exclude_patterns(["a", path], preset="docker", format="rsync")
    print(patterns, sparsesync.exclude_patterns(b"a"))

    sparsesync.scan("a", holes="maybe")  # type: ignore[arg-type]
    sparsesync.exclude_patterns("a", format="zip")  # type: ignore[arg-type]
    for file in sparsesync.scan("a"):
        file.size = 3  # type: ignore[misc]


def runs(path: Path) -> None:
    result: sparsesync.SyncResult = sparsesync.sync([path, "a"], "host:b", ["-a"])
    seeded: list[sparsesync.Seeded] = list(result.seeded)
    print(result.status, [(each.name, each.size - each.data, each.asdict()) for each in seeded])


def migrations(path: Path) -> None:
    result: sparsesync.MigrationResult = sparsesync.migrate(path, "host:b", ["--delete"], final=True, verify="full")
    stops: list[str] = [text for level, _, text in result.findings if level == "stop"]
    passed: sparsesync.SyncResult | None = result.sync
    print(result.ok, stops, passed, result.failure, json.dumps(result.asdict()), {result: 1})
    try:
        sparsesync.migrate("a", "b", check=True, output=print)
    except sparsesync.MigrationError as error:
        print(error.status, error.result)

    sparsesync.migrate("a", "b", verify="half")  # type: ignore[arg-type]


def errors() -> None:
    try:
        sparsesync.sync("a", "b")
    except sparsesync.LinkError as error:
        host: str | None = error.host
        again: bool = error.retryable
        lost: ConnectionError = error
        print(host, again, lost)
    except sparsesync.NoSpaceError as error:
        print(error.needed - error.free, error.filename, error.errno)
    except (sparsesync.TruncatedError, sparsesync.RsyncTooOldError):
        pass
    except sparsesync.Error as error:
        print(str(error))


def others() -> None:
    version: str = sparsesync.__version__
    print(version)
    sparsesync.nonexistent()  # type: ignore[attr-defined]
