"""Where the inputs are: a new filesystem in a loop file, or a tmpfs, made for one case and gone after it.

The loop file is sparse and below the work directory, so that a case costs the disk what it writes, and no more than the
filesystem's size. Making one needs root.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}


@dataclass(frozen=True)
class Place:
    """A kind of filesystem, and whether extents may be shared where it can share them."""

    kind: str
    reflink: bool = True

    @property
    def name(self) -> str:
        return self.kind if self.reflink else f"{self.kind}-noreflink"


PLACES = [
    Place("ext4"), Place("xfs"), Place("btrfs"), Place("btrfs", False), Place("tmpfs"),
]  # fmt: skip


def needs(place: Place) -> tuple[str, ...]:
    """The programs, and root, that making it needs."""
    return ("root", *([f"mkfs.{place.kind}"] if place.kind in MAKE else []))


def inodes(files: int) -> list[str]:
    """For mkfs.ext4, with room for as many files."""
    return ["-N", str(files * 11 // 10 + 10_000)]


def command(*argv: str | Path) -> str:
    """Run a command that must succeed; its output. Raises RuntimeError with what it said."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = done.stdout.decode(errors="replace").strip()
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, argv))}: status {done.returncode}: {said}")
    return said


@contextlib.contextmanager
def filesystem(kind: str, work: Path, size: str, *more: str, clones: bool = False) -> Iterator[Path]:
    """A new filesystem of a kind and a size (``4G``), mounted below ``work``; ``more`` goes to its mkfs.

    ``clones``: XFS can share extents too. Else btrfs is the one that can.
    """
    mountpoint, image = work / "mnt", work / "image"
    mountpoint.mkdir()
    with contextlib.ExitStack() as stack:
        stack.callback(mountpoint.rmdir)
        if kind == "tmpfs":
            command("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", mountpoint)
        else:
            stack.callback(image.unlink, missing_ok=True)
            command("truncate", "-s", size, image)
            shared = ["-m", f"reflink={int(clones)}"] if kind == "xfs" else []
            command(*MAKE[kind], *shared, *more, image)
            loop = command("losetup", "-f", "--show", image)
            stack.callback(command, "losetup", "-d", loop)
            command("mount", "-t", kind, "-o", "noatime", loop, mountpoint)
        stack.callback(_unmount, mountpoint)
        yield mountpoint


def _unmount(mountpoint: Path) -> None:
    try:
        command("umount", mountpoint)
    except RuntimeError:
        # Somebody that was killed has not ended yet: out of sight now, and gone with its last file.
        command("umount", "--lazy", mountpoint)
