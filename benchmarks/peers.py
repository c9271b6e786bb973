"""The peers: which programs they need, who packages those, and how each is told to do the same work.

A command line is what a skilled user of the program would write, with nothing switched off that the others have and
nothing waited for that the others do not wait for. One peer differs and cannot be told otherwise: bmaptool flushes the
copy to the disk, and makes its map in a step of its own. Where two programs share the work they are a shell's
pipeline, and their bytes and times are those of both; but qemu-nbd, and the ssh that leads to it, go into the
background, and only their time is known.
"""

from __future__ import annotations

import contextlib
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from shlex import quote

import sparsesync

from .inputs import GIB

PACKAGES = {
    "bmaptool": "bmap-tools",
    "bsdtar": "libarchive-tools",
    "cp": "coreutils",
    "du": "coreutils",
    "filefrag": "e2fsprogs",
    "find": "findutils",
    "nbdcopy": "libnbd-bin",
    "qemu-img": "qemu-utils",
    "qemu-nbd": "qemu-utils",
    "rsync": "rsync",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
    "ssh-keygen": "openssh-client",
    "strace": "strace",
    "tar": "tar",
    "xcp": "xcp of cargo",
    "xfs_io": "xfsprogs",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "mkfs.btrfs": "btrfs-progs",
    "ip": "iproute2",
    "tc": "iproute2",
}
"""Each program with the Debian package that has it: the peers, and what makes their surroundings."""

# How each is asked for its version.
_VERSION = {"ssh": "-V", "xfs_io": "-V", "filefrag": "-V"}
PEERS = [
    "bmaptool",
    "bsdtar",
    "cp",
    "du",
    "filefrag",
    "find",
    "nbdcopy",
    "qemu-img",
    "rsync",
    "ssh",
    "tar",
    "xcp",
    "xfs_io",
]

OURS = "sparsesync"

MINUTES = 8 * GIB
HOURS = 500 * GIB
"""From these apparent sizes on rsync takes minutes, and hours; nbdcopy takes minutes only from the second on."""

Command = Callable[[Path, Path], list[str]]


def sparsesync_command(*arguments: str | Path) -> list[str]:
    """The command line of our program: as installed beside this Python, or else, if it is not, from where we are."""
    installed = Path(sys.executable).with_name("sparsesync")
    words = [str(installed)] if installed.exists() else [sys.executable, "-m", "sparsesync"]
    return [*words, *map(str, arguments)]


def shell(script: str, **words: str | Path) -> list[str]:
    """A shell command; ``{name}`` in the script is the word of that name, quoted."""
    return ["sh", "-c", script.format(**{name: quote(str(word)) for name, word in words.items()})]


def program(name: str) -> str:
    """The program that the contender of a name is: its first word."""
    return name.split()[0]


def missing(names: set[str]) -> dict[str, str]:
    """Of some contenders' names the programs that are not installed, each with the package that would bring it."""
    programs = {program(name) for name in names}
    return {name: PACKAGES[name] for name in sorted(programs & set(PACKAGES)) if shutil.which(name) is None}


def versions() -> dict[str, str]:
    """What each installed program says its version is."""
    found = {"sparsesync": sparsesync.__version__, "python": platform.python_version()}
    for library in ("blake3", "zstandard"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[library] = metadata.version(library)
    for name in PEERS:
        if shutil.which(name):
            done = subprocess.run(
                [name, _VERSION.get(name, "--version")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30
            )
            found[name] = (done.stdout.decode(errors="replace").splitlines() or ["unknown"])[0]
    return found


def copies(reflink: bool) -> dict[str, Command]:
    """How each copies one file to a new name. Without ``reflink`` those that can share extents are told not to."""
    share = "auto" if reflink else "never"
    return {
        OURS: lambda source, copy: sparsesync_command("copy", f"--reflink={share}", source, copy),
        "cp": lambda source, copy: ["cp", f"--reflink={share}", str(source), str(copy)],
        "rsync -S": lambda source, copy: ["rsync", "-S", str(source), str(copy)],
        "tar": lambda source, copy: _archive("tar", source, copy),
        "bsdtar": lambda source, copy: _archive("bsdtar", source, copy),
        "qemu-img": lambda source, copy: ["qemu-img", "convert", "-f", "raw", "-O", "raw", str(source), str(copy)],
        "nbdcopy": lambda source, copy: ["nbdcopy", str(source), str(copy)],
        "bmaptool": _bmap,
    }


def _archive(tool: str, source: Path, copy: Path) -> list[str]:
    # The copy has the source's name in another directory; the runner gives it that.
    return shell(
        f"{tool} -C {{directory}} -cSf - {{name}} | {tool} -C {{into}} -xSf -",
        directory=source.parent, name=source.name, into=copy.parent,
    )  # fmt: skip


def _bmap(source: Path, copy: Path) -> list[str]:
    return shell(
        "bmaptool -q create --no-checksum -o {map} {source} && bmaptool -q copy --bmap {map} {source} {copy}; s=$?;"
        " rm -f {map}; exit $s",
        map=copy.parent / "bmap", source=source, copy=copy,
    )  # fmt: skip


UPDATES: dict[str, Command] = {
    OURS: lambda source, copy: sparsesync_command("copy", "--inplace", "--reflink=never", source, copy),
    "rsync -S --inplace --no-whole-file": lambda source, copy: [
        "rsync", "-S", "--inplace", "--no-whole-file", str(source), str(copy),
    ],
    "rsync -S --inplace": lambda source, copy: ["rsync", "-S", "--inplace", str(source), str(copy)],
    "cp": lambda source, copy: ["cp", "--reflink=never", str(source), str(copy)],
    "qemu-img": lambda source, copy: ["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(source), str(copy)],
    "nbdcopy": lambda source, copy: ["nbdcopy", str(source), str(copy)],
    "bmaptool": _bmap,
}  # fmt: skip
"""How each brings a file to a source's content that has changed; all but the first two write all of it again."""

REPEATS: dict[str, Callable[[Path, Path, Path], list[str]]] = {
    f"{OURS} --track": lambda source, copy, track: sparsesync_command(
        "copy", "--inplace", "--track", track, source, copy
    ),
    f"{OURS} --inplace": lambda source, copy, track: sparsesync_command("copy", "--inplace", source, copy),
    "cp": lambda source, copy, track: ["cp", "--reflink=never", str(source), str(copy)],
}
"""How a file is copied again, that changed a little since it was copied the same way."""

BY_THREADS: dict[str, Callable[[Path, Path, int], list[str]]] = {
    f"{OURS} --jobs ": lambda source, copy, count: sparsesync_command("copy", f"--jobs={count}", source, copy),
    # -W: in any order, without which there is one writer.
    "qemu-img -W -m ": lambda source, copy, count: [
        "qemu-img", "convert", "-W", "-m", str(count), "-f", "raw", "-O", "raw", str(source), str(copy),
    ],
    "nbdcopy --threads ": lambda source, copy, count: [
        "nbdcopy", f"--threads={count}", f"--connections={count}", str(source), str(copy),
    ],
    "xcp --driver parblock -w ": lambda source, copy, count: [
        "xcp", "--driver", "parblock", "--no-progress", "-w", str(count), str(source), str(copy),
    ],
}  # fmt: skip
"""How each copies a file by so many threads; its name ends with the number."""

SCANS: dict[str, Callable[[Path], list[str]]] = {
    OURS: lambda tree: sparsesync_command("scan", tree),
    "sparsesync -0": lambda tree: sparsesync_command("scan", "-0", tree),
    "find -printf %S": lambda tree: ["find", str(tree), "-type", "f", "-printf", "%S %p\\n"],
    "du": lambda tree: ["du", "-s", str(tree)],
    "rsync -n": lambda tree: ["rsync", "-an", f"{tree}/", str(tree.parent / "nowhere")],
}

MAPS: dict[str, Callable[[Path], list[str]]] = {
    OURS: lambda file: sparsesync_command("map", file),
    "sparsesync --format qemu": lambda file: sparsesync_command("map", "--format", "qemu", file),
    "filefrag": lambda file: ["filefrag", "-v", str(file)],
    "qemu-img": lambda file: ["qemu-img", "map", "--output=json", "-f", "raw", str(file)],
    "xfs_io": lambda file: ["xfs_io", "-r", "-c", "seek -a -r 0", str(file)],
}
