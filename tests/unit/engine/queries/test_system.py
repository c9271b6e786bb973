"""What a machine has: told by the kernel's tables, or by modules that could be loaded."""

from __future__ import annotations

import platform

import pytest
from pyfakefs.fake_filesystem import FakeFilesystem

from sparsesync.engine.queries.registry import answer_query
from tests.support.fake import lay_out


@pytest.mark.parametrize(
    ("path", "text", "has"),
    [
        ("/proc/filesystems", "nodev\tproc\n\txfs\nnodev\toverlay\n", {"xfs", "overlay"}),
        ("/proc/devices", "Block devices:\n  7 loop\n", {"loop"}),
        ("/proc/misc", "236 device-mapper\n", {"device-mapper"}),
        ("/lib/modules/R/modules.dep", "kernel/fs/xfs/xfs.ko.xz: kernel/lib/crc.ko\n", {"xfs"}),
        ("/lib/modules/R/modules.dep", "kernel/drivers/md/dm-mod.ko:\n", {"device-mapper"}),
        ("/lib/modules/R/modules.builtin", "kernel/drivers/block/loop.ko\n", {"loop"}),
        ("/lib/modules/R/modules.dep", "kernel/fs/xfs/notxfs.ko: kernel/fs/xfs.ko\n", set()),
    ],
)
def test_what_the_kernel_lacks(fs: FakeFilesystem, path: str, text: str, has: set[str]) -> None:
    wanted = ["xfs", "overlay", "loop", "device-mapper"]
    lay_out(fs, "", contents={path.replace("/R/", f"/{platform.release()}/"): text})
    assert answer_query("host", wanted=wanted, rsync="/no/rsync").lacks == [name for name in wanted if name not in has]


def test_which_kernel_is_running(fs: FakeFilesystem) -> None:
    assert answer_query("host", rsync="/no/rsync").identity == ""
    lay_out(fs, "", contents={"/proc/sys/kernel/random/boot_id": "0-1-2\n"})
    found = answer_query("host", rsync="/no/rsync")
    assert (found.identity, found.rsync, found.lacks) == ("0-1-2", None, [])
