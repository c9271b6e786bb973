"""What is measured to another host: a first copy, a touched file, and one of which 1 % changed, over three links.

A container engine's storage, and a nightly snapshot, which is measured on one machine too, end the list.

Both hosts are this machine, and so both ends share its processors; at both our program has the Python that runs this,
with the libraries of the extra ``fast`` if they are there. "sparsesync sync" is the wrapper, with the rsync it runs;
"sparsesync copy" has no rsync. ``ssh cat`` of a file that has the data and no hole is not a peer: it makes no copy of
the file, and is the least that sending the data through ssh can cost. So is ``rsync -z`` of that file on a slow link,
where compression decides.

rsync sends what its compression leaves of the holes, or all of them. On the loopback that is the 100 GiB of
the case that this program is for, once in all; on the slower links the file is smaller.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from . import cases_parallel, inputs, peers
from .inputs import GIB, MIB, Layout, Wrong
from .links import LINKS, NEEDS, Host, Link, host
from .places import filesystem, inodes
from .runner import Case, Contender, Prepared

STATES = {"first": "copy", "touch": "copy again, only touched,", "1%": "copy again, 1 % of the data changed,"}

_PLAIN = "sparsesync copy to a plain Python"
_CAT, _DENSE = "ssh cat of the data", "rsync -z of the data"
_FULL = ["rsync -S", "rsync -Sz", "tar | ssh tar", "qemu-img to qemu-nbd by ssh"]


def all_cases(seed: int, quick: bool) -> list[Case]:
    """Every case with another host, in the order they run."""
    found = []
    for link in LINKS:
        if link.rate is None:
            layout = Layout(10 * GIB, 95 * MIB, 95) if quick else Layout(100 * GIB, 950 * MIB, 950)
        else:
            layout = Layout(GIB, 16 * MIB, 16) if quick else Layout(GIB // 2, 64 * MIB, 64)
        found += [_transfer(link, layout, state, seed) for state in STATES]
    storage = Layout(5 * GIB, 48 * MIB, 48) if quick else Layout(10 * GIB, 95 * MIB, 95)
    found += [_moby(state, storage, 2_000 if quick else 20_000, seed) for state in ("first", "final")]
    images = Layout(10 * GIB, 95 * MIB, 95) if quick else Layout(100 * GIB, 950 * MIB, 950)
    found += [_nightly(where, images, seed) for where in ("local", "ssh")]
    return [*found, _again("files/ssh/again", 1_000 if quick else 5_000, seed), cases_parallel.streams(seed, quick)]


def _commands(there: Host, source: Path, dense: Path, copy: Path, state: str) -> dict[str, list[str]]:
    rsh, name = there.rsh, str(source)
    to = f"host:{copy.parent}/"
    inplace = [] if state == "first" else ["--inplace"]
    python = sys.executable
    ours = {
        "sparsesync sync": ["sync", f"--seed-python={python}", "-a", *inplace, "-e", rsh, name, to],
        "sparsesync sync -z": ["sync", f"--seed-python={python}", "-az", *inplace, "-e", rsh, name, to],
        "sparsesync copy": ["copy", "--python", python, "-p", *inplace, "-e", rsh, name, to],
    }
    commands = {contender: peers.sparsesync_command(*words) for contender, words in ours.items()}
    # Whose Python has no package at all.
    plain = there.client.with_name("python")
    plain.write_text(f'#!/bin/sh\nexec {python} -S "$@"\n')
    plain.chmod(0o755)
    commands[_PLAIN] = peers.sparsesync_command("copy", "--python", plain, "-p", "-e", rsh, name, to)
    commands["rsync -S"] = ["rsync", "-aS", *inplace, "-e", rsh, name, to]
    commands["rsync -Sz"] = ["rsync", "-aSz", *inplace, "-e", rsh, name, to]
    words: dict[str, str | Path] = {
        "directory": source.parent, "name": source.name, "into": copy.parent, "source": source, "copy": copy,
        "client": there.client, "dense": dense,
    }  # fmt: skip
    far_tar = f"tar -C {copy.parent} -xSf -"
    commands["tar | ssh tar"] = peers.shell(
        "tar -C {directory} -cSf - {name} | ssh -F {client} host {far_tar}", far_tar=far_tar, **words
    )
    commands["qemu-img to qemu-nbd by ssh"] = _nbd(there, source, copy)
    commands[_CAT] = peers.shell("ssh -F {client} host {cat} < {dense}", cat=f"cat > {copy}", **words)
    commands[_DENSE] = ["rsync", "-az", "-e", rsh, str(dense), f"host:{copy}"]
    return commands


def _nbd(there: Host, source: Path, copy: Path) -> list[str]:
    """qemu-img writes to a qemu-nbd at the other end; a command and a forwarded socket share one login."""
    near, far, control = (there.client.parent / name for name in ("near", "far", "control"))
    size = os.stat(source).st_size
    serve = f"rm -f {copy} && truncate -s {size} {copy} && qemu-nbd --fork -f raw -k {far} {copy}"
    return peers.shell(
        "rm -f {near} {far}; ssh -F {client} -M -S {control} -fNL {near}:{far} host &&"
        " ssh -F {client} -S {control} host {serve} &&"
        " qemu-img convert -n --target-is-zero -f raw -O raw {source} nbd+unix:///?socket={near};"
        " s=$?; ssh -F {client} -S {control} -O exit host 2>/dev/null; exit $s",
        client=there.client, control=control, near=near, far=far, serve=serve, source=source,
    )  # fmt: skip


def _transfer(link: Link, layout: Layout, state: str, seed: int) -> Case:
    names = ["sparsesync sync", "sparsesync sync -z", "sparsesync copy", *_FULL, _CAT, _DENSE]
    # tar and qemu-img cannot update a file, and write all of it again. The baselines are those of a first copy.
    names = [name for name in names if state == "first" or name not in (_CAT, _DENSE)]
    names += [_PLAIN] if state == "first" else []
    if link.rate is None:
        names = [name for name in names if not name.endswith("-z") and name != _DENSE]

    @contextlib.contextmanager
    def opened(work: Path) -> Iterator[Prepared]:
        with filesystem("ext4", work, "6G") as top, host(link, work / "host") as there:
            source, dense, old, copy = top / "source" / "file", top / "dense", top / "old", top / "copy" / "file"
            for directory in (source.parent, copy.parent):
                directory.mkdir()
            inputs.make_file(source, layout, seed)
            if state == "first":
                inputs.pack(source, dense)
            else:
                subprocess.run(["cp", "-p", "--reflink=never", source, old], check=True)
                inputs.change(source, 0.01 if state == "1%" else 0.0, seed)

            def before(contender: str) -> None:
                copy.unlink(missing_ok=True)
                if state != "first":
                    subprocess.run(["cp", "-p", "--reflink=never", old, copy], check=True)

            def check(contender: str, output: Path) -> int:
                # Who did nothing left the time of the old one. qemu-img keeps none, and tar whole seconds.
                any_time = state == "first" or "qemu" in contender
                if not any_time and int(copy.stat().st_mtime) != int(source.stat().st_mtime):
                    raise Wrong("its time is not the source's")
                return inputs.check(dense if contender in (_CAT, _DENSE) else source, copy)

            skipped = {}
            if layout.size >= peers.MINUTES:
                # Each would take as long as that one.
                like = ["rsync -Sz"] if state == "1%" else ["rsync -S", "rsync -Sz"]
                reads = f"reads {inputs.iec(layout.size)} of hole: rsync -S does so with 1 % changed"
                skipped = dict.fromkeys(like, reads)
            commands = _commands(there, source, dense, copy, state)
            yield Prepared(
                [
                    Contender(
                        name,
                        commands[name],
                        once=name.startswith("rsync -S") and layout.size >= peers.MINUTES,
                        baseline=name in (_CAT, _DENSE),
                    )
                    for name in names
                    if name not in skipped
                ],
                before=before,
                top=top,
                check=check,
                wire=there.wire,
                far=there.accounts,
                skipped=skipped,
                facts={"shaped by": there.shaped_by},
            )

    speed = "through ssh" if link.rate is None else f"through ssh at {link.name}bit/s and {link.round_trip * 1000:g} ms"
    axes = {
        "link": link.name, "rate": link.rate, "state": state, "data": layout.data, "apparent": layout.size,
    }  # fmt: skip
    needs = (*NEEDS, "mkfs.ext4", "rsync")
    what = f"{STATES[state]} {layout} {speed}"
    return Case(f"ssh/{link.name}/{state}", what, tuple(names), opened, axes, needs)


def _moby(state: str, layout: Layout, files: int, seed: int) -> Case:
    """The storage of a container engine: one big sparse file among many small ones, with attributes and links.

    First to an empty destination; then, with the services stopped, what has changed since.
    """
    rsync = "rsync -aHAXS"

    @contextlib.contextmanager
    def opened(work: Path) -> Iterator[Prepared]:
        with filesystem("ext4", work, "6G", *inodes(3 * files)) as top, host(LINKS[0], work / "host") as there:
            source, old, copy = top / "source", top / "old", top / "copy"
            inputs.make_tree(source, files, seed)
            pool = source / "devicemapper" / "devicemapper"
            pool.mkdir(parents=True)
            inputs.make_file(pool / "data", layout, seed)
            os.chown(pool / "data", 1000, 1000)
            os.setxattr(pool / "data", "user.bench", b"kept")
            os.link(pool / "data", pool / "link")
            # What was written a moment ago is left for the final pass.
            os.utime(pool / "data", (1.7e9, 1.7e9))
            again = ["cp", "-a", "--reflink=never", "--sparse=auto"]
            if state == "final":
                subprocess.run([*again, source, old], check=True)
                inputs.change(pool / "data", 0.01, seed)
                inputs.change_tree(source, files // 100, seed)

            def before(contender: str) -> None:
                shutil.rmtree(copy, ignore_errors=True)
                if state == "final":
                    subprocess.run([*again, old, copy], check=True)
                else:
                    copy.mkdir()

            def check(contender: str, output: Path) -> int:
                allocated = inputs.check_tree(source, copy)
                data, link = (copy / "devicemapper" / "devicemapper" / name for name in ("data", "link"))
                if not os.path.samefile(data, link):
                    raise Wrong("the hard link is another file")
                if "user.bench" not in os.listxattr(data) or os.getxattr(data, "user.bench") != b"kept":
                    raise Wrong("the extended attribute is lost")
                return allocated

            ends = ["-e", there.rsh, f"{source}/", f"host:{copy}/"]
            quiet = ["-q", "--python", sys.executable]
            final = ["--final"] if state == "final" else []
            options = ["--numeric-ids", "--one-file-system"]
            yield Prepared(
                [
                    Contender("sparsesync migrate", peers.sparsesync_command("migrate", *quiet, *final, *ends)),
                    Contender(rsync, ["rsync", "-aHAXS", *options, *ends], once=layout.size >= peers.MINUTES),
                ],
                before=before, check=check, top=top, wire=there.wire, far=there.accounts,
            )  # fmt: skip

    what = f"migrate a tree of {files} files and one of {layout} through ssh, with attributes and links: " + (
        "the final pass, after 1 % of the data and of the files changed" if state == "final" else "the first pass"
    )
    needs = (*NEEDS, "mkfs.ext4", "rsync")
    return Case(f"moby/{state}", what, ("sparsesync migrate", rsync), opened, {"files": files}, needs)


def _nightly(where: str, layout: Layout, seed: int) -> Case:
    """A snapshot beside yesterday's, as rsnapshot and others make it, after 1 % of an image changed.

    What is counted as allocated is what the filesystem has less, once all of it is on the disk.
    """
    names = ("sparsesync sync", "rsync -S")

    @contextlib.contextmanager
    def opened(work: Path) -> Iterator[Prepared]:
        with contextlib.ExitStack() as stack:
            top = stack.enter_context(filesystem("btrfs", work, "6G"))
            there = stack.enter_context(host(LINKS[0], work / "host")) if where == "ssh" else None
            source, yesterday, today = top / "source", top / "snapshots" / "1", top / "snapshots" / "0"
            for directory in (source, yesterday):
                directory.mkdir(parents=True)
            inputs.make_file(source / "image", layout, seed)
            subprocess.run(["cp", "-p", "--reflink=never", source / "image", yesterday], check=True)
            changed = inputs.change(source / "image", 0.01, seed)
            free = 0

            def before(contender: str) -> None:
                nonlocal free
                shutil.rmtree(today, ignore_errors=True)
                free = _free(top)

            def check(contender: str, output: Path) -> int:
                inputs.check(source / "image", today / "image")
                return free - _free(top)

            ends = [f"{source}/", f"{today}/"]
            ours = ["sync", "-a", "--link-dest=../1"]
            if there is not None:
                ends = ["-e", there.rsh, ends[0], f"host:{ends[1]}"]
                ours.insert(1, f"--seed-python={sys.executable}")
            yield Prepared(
                [
                    Contender(names[0], peers.sparsesync_command(*ours, *ends)),
                    Contender(names[1], ["rsync", "-aS", "--link-dest=../1", *ends], once=layout.size >= peers.MINUTES),
                ],
                before=before,
                check=check,
                top=top,
                wire=there.wire if there else None,
                far=there.accounts if there else None,
                facts={"blocks changed": changed},
            )

    needs = ("mkfs.btrfs", "rsync", *(NEEDS if where == "ssh" else ("root",)))
    how = "through ssh" if where == "ssh" else "on this machine"
    what = f"a snapshot of {layout} by --link-dest, 1 % of the data changed, on btrfs, {how}"
    return Case(f"nightly/{where}", what, names, opened, {"data": layout.data, "apparent": layout.size}, needs)


def _again(name: str, files: int, seed: int) -> Case:
    """Sparse files that are there already: what it costs to find that there is nothing to do."""

    @contextlib.contextmanager
    def opened(work: Path) -> Iterator[Prepared]:
        with filesystem("ext4", work, "4G", *inodes(2 * files)) as top, host(LINKS[0], work / "host") as there:
            source, copy = top / "source", top / "copy"
            inputs.make_tree(source, files, seed, sparse=files)
            subprocess.run(["cp", "-a", source, copy], check=True)
            ends = ["-a", "-e", there.rsh, f"{source}/", f"host:{copy}/"]
            ours = peers.sparsesync_command("sync", f"--seed-python={sys.executable}", *ends)
            yield Prepared(
                [Contender("sparsesync sync", ours), Contender("rsync", ["rsync", *ends])],
                before=lambda contender: None,
                top=top,
                check=lambda contender, output: inputs.check_tree(source, copy),
                wire=there.wire,
                far=there.accounts,
            )  # fmt: skip

    what = f"sync {files} sparse files through ssh again, with nothing to do, on ext4"
    return Case(name, what, ("sparsesync sync", "rsync"), opened, {"files": files}, (*NEEDS, "mkfs.ext4", "rsync"))


def _free(top: Path) -> int:
    """Return the bytes that are free in a filesystem, with all that is to be written or removed done."""
    subprocess.run(["btrfs", "subvolume", "sync", top], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["btrfs", "filesystem", "sync", top], check=True, stdout=subprocess.DEVNULL)
    space = os.statvfs(top)
    return space.f_bfree * space.f_frsize
