"""Command lines of rsync, two and three options at a time, and what each leaves: through rsync and through sparsesync.

:func:`lines` draws the options; :func:`start` makes what both begin with; :func:`differs` runs one line both ways, each
below a copy of its own with the same paths relative to it, and tells how the outcomes differ.
"""

from __future__ import annotations

import collections
import os
import random
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.sync import MIB, OLD, difference, run, snapshot, sparse

OPTIONS = """
-a -a -a -r -rt -rlt -rltp -R -d -m -x -l -L --copy-unsafe-links --safe-links --munge-links -k -K -H -H
--no-implied-dirs
-p -E -A -X --chmod=F640,D750 --chmod=u+rwX,go-w -o -g -D -t -O -J --numeric-ids --usermap=0:1 --chown=12:34 -U
-S -W --no-W --preallocate --inplace --append --append-verify -y -B1024 --checksum-choice=md5 -z
--compress-choice=lz4
--fsync --partial --partial-dir=.part --temp-dir={top}/tmp --delay-updates -b --backup-dir={top}/bak --suffix=.old
--compare-dest={top}/alt --copy-dest={top}/alt --link-dest={top}/alt -c -I --ignore-existing --size-only -u --existing
-@2 --max-size=1M --min-size=10 --delete --delete-before --delete-delay --delete-after --delete-excluded --force
--max-delete=1 --ignore-errors --remove-source-files -C -F --filter=-_/a/*.img --exclude=*.img --exclude=/a
--include=*/ --exclude-from={top}/rules --include-from={top}/rules --files-from={top}/list -n -i -v -vv --stats
--out-format=%i_%n%L --mkpath --whole-file --no-times --no-r --timeout=60 --bwlimit=100M --iconv=UTF-8,UTF-8
-s --old-args --trust-sender --qsort --super --prune-empty-dirs --no-inc-recursive --copy-links
""".split()  # noqa: SIM905
"""What is drawn from; {top} is the directory all of a run is in, and an underscore in a filter a space."""
_REMOTE_ONLY = (
    "-s",
    "--old-args",
    "--trust-sender",
    "-z",
    "--compress-choice=lz4",
    "--timeout=60",
    "--iconv=UTF-8,UTF-8",
)
_SOURCES = ["src/", "src/", "src/", "src", "src/a src/top.img", "src/top.img", "src/a/", "src/./a", "src/a/*"]
_DESTINATIONS = ["dst/", "dst/", "dst", "new", "new/", "dst/a/"]
_WIRES = re.compile(
    rb"(sent [0-9,.]+ bytes .*|.*speedup is .*|Total bytes .*|File list .*|Literal data.*|Matched data.*"
    rb"|total: matches.*)"
)


def lines(seed: int, count: int) -> Iterator[tuple[str, list[str], str, str]]:
    """Yield (way, options, sources, destination); "local", "push" and "pull" in turn, -r in some way in most."""
    draw = random.Random(seed)
    for number in range(count):
        way = ("local", "push", "pull")[number % 3]
        known = [each for each in OPTIONS if way != "local" or each not in _REMOTE_ONLY]
        options = draw.sample(known, draw.choice([2, 2, 3]))
        if draw.random() < 0.8 and "-a" not in options:
            options.insert(0, draw.choice(["-a", "-a", "-rt", "-rlpt"]))
        yield way, options, draw.choice(_SOURCES), draw.choice(_DESTINATIONS)


def start(top: Path) -> None:
    """Make a tree of every kind of file, an older destination with some of them, and what options name."""
    for name in ("src/a/b", "src/c", "src/empty", "dst/a/b", "dst/extra", "alt/a", "tmp", "bak"):
        (top / name).mkdir(parents=True)
    for number, name in enumerate(["a/b/img", "a/disk one.img", "c/link1", "top.img", "a/-x", "a/[b].img"]):
        sparse(top / "src" / name, seed=number + 1)
    sparse(top / "src/a/hole", extents=())
    sparse(top / os.fsdecode(b"src/c/\xff\n\\#012"), seed=6)
    os.link(top / "src/c/link1", top / "src/a/link2")
    (top / "src/plain").write_bytes(b"plain" * 100)
    (top / "src/nothing").write_bytes(b"")
    (top / "src/a/dense").write_bytes(os.urandom(1) * 300_000)
    (top / "src/a/grown").write_bytes(b"g" * 50_000)
    (top / "src/.rsync-filter").write_text("- *.o\n")
    (top / "src/a/x.o").write_bytes(b"object")
    os.link(top / "src/plain", top / "src/c/hard")
    os.symlink("top.img", top / "src/sym")
    os.symlink("../c", top / "src/a/dir")
    os.symlink("/nowhere", top / "src/a/away")
    os.mkfifo(top / "src/c/fifo")
    os.chmod(top / "src/top.img", 0o4751)
    os.chmod(top / "src/a/b/img", 0o600)
    os.chmod(top / "src/a", 0o750)
    os.chmod(top / "src/a/b", 0o2775)
    os.chown(top / "src/a/b/img", 1234, 4321)
    os.setxattr(top / "src/top.img", "user.color", b"red")
    for path in ("src", "alt"):
        age(top / path, OLD)
    sparse(top / "dst/top.img", seed=9)
    shutil.copy2(top / "src/a/b/img", top / "dst/a/b/img")
    os.chmod(top / "dst/a/b/img", 0o644)
    (top / "dst/a/hole").write_bytes(b"not a hole" * 1000)
    (top / "dst/a/grown").write_bytes(b"g" * 20_000)
    (top / "dst/a/dense").write_bytes(b"older")
    sparse(top / "dst/extra/gone", MIB)
    (top / "dst/c").symlink_to("a")
    os.link(top / "dst/top.img", top / "dst/extra/other")
    age(top / "dst", OLD - 5000)
    os.utime(top / "dst/a/b/img", (OLD, OLD))
    os.utime(top / "dst/a/dense", (OLD + 5000, OLD + 5000))
    for name in ("top.img", "a/disk one.img"):
        shutil.copy2(top / "src" / name, top / "alt" / name)
    (top / "rules").write_text("- /a/b/\n- fifo\n")
    (top / "list").write_text("a\ntop.img\nc/link1\nplain\n")
    for name in ("rules", "list", "tmp", "bak", "alt", "alt/a", "."):
        os.utime(top / name, (OLD, OLD))


def age(top: Path, when: int) -> None:
    """Give a tree a time. rsync compares whole seconds, so what is made within one may keep its own or not."""
    for directory, names, files in os.walk(top):
        for name in files + names:
            os.utime(os.path.join(directory, name), (when, when), follow_symlinks=False)
    os.utime(top, (when, when))


def differs(top: Path, line: tuple[str, list[str], str, str], rsh: str, seed: list[str]) -> dict[str, object]:
    """Run ``line`` with rsync and with sparsesync; return what is not the same: files, status, lines."""
    way, options, sources, destination = line
    outcomes = []
    for kind in ("rsync", "ours"):
        work = top / "work"
        shutil.rmtree(work, ignore_errors=True)
        run("cp", "-a", "--sparse=always", str(top / "start"), str(work))
        words = [word.format(top=work) for word in options]
        words = [word.replace("_", " ") if word.startswith(("--filter", "--out")) else word for word in words]
        paths = [*sources.split(), destination]
        if way == "local":
            paths = [each for path in paths for each in (_expand(work, path) if "*" in path else [path])]
        elif way == "push":
            paths = [each for path in paths[:-1] for each in _expand(work, path)] + [f"h:{work}/{destination}"]
        else:
            # With -R the directories above would be sent, and those are others' too.
            paths = [f"h:{work}/./{path.replace('/./', '/')}" for path in paths[:-1]] + [destination]
        words = ([] if way == "local" else ["-e", rsh]) + words
        program = ["rsync"] if kind == "rsync" else [sys.executable, "-m", "sparsesync", "sync", *seed]
        before = time.time() - 0.05
        done = run(*program, *words, *paths, cwd=work)
        lines = [line for line in re.split(rb"[\r\n]+", done.stdout) if not _WIRES.fullmatch(line)]
        outcomes.append((snapshot(work, before), done.returncode, collections.Counter(lines), done))
    (tree, status, said, first), (our_tree, our_status, our_said, second) = outcomes
    found: dict[str, object] = {}
    if status != our_status:
        found["status"] = (status, our_status, first.stderr[-300:], second.stderr[-300:])
    trees = difference(our_tree, tree)
    if trees:
        found["tree"] = trees
    if said != our_said:
        found["lines"] = (said - our_said, our_said - said)
    found["said"] = second.stderr if found else b""
    return {key: value for key, value in found.items() if key != "said" or len(found) > 1}


def _expand(work: Path, path: str) -> list[str]:
    return sorted(os.path.relpath(each, work) for each in work.glob(path)) if "*" in path else [path]
