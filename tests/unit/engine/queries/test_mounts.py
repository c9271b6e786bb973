"""Where a path is, whatever it is called: the kernel's table of mounts, as proc_pid_mountinfo(5) has it."""

from __future__ import annotations

import os

from pyfakefs.fake_filesystem import FakeFilesystem

from sparsesync.engine.queries.mounts import locate, location_key, mounts, namespaces
from tests.support.fake import lay_out

MOUNTINFO = r"""21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 21 8:2 /subvolumes/data /srv rw shared:2 master:1 - btrfs /dev/sda2 rw,subvol=/subvolumes/data
31 21 8:3 / /mnt/a\040b rw - xfs /dev/sda3 rw
32 21 8:1 /srv/old /bound rw - ext4 /dev/sda1 rw
33 30 0:50 / /srv rw - tmpfs tmpfs rw
"""


def test_the_table_as_the_kernel_writes_it(fs: FakeFilesystem) -> None:
    lay_out(fs, "/proc", contents={"self/mountinfo": MOUNTINFO, "7/mountinfo": "21 1 8:1 / / rw", "8/mountinfo": ""})
    found = mounts()
    assert list(found) == ["21", "30", "31", "32", "33"]
    assert found["31"] == ("8:3", "/", "/mnt/a b", "xfs", "/dev/sda3", "rw")
    assert found["30"][:4] == ("8:2", "/subvolumes/data", "/srv", "btrfs")
    assert mounts("7") == mounts("8") == mounts("9") == {}


def test_one_place_has_many_names(fs: FakeFilesystem) -> None:
    lay_out(fs, "/proc", contents={"self/mountinfo": MOUNTINFO})
    table = mounts()
    assert locate("/srv/old/x", [table["21"]]) == locate("/bound/x", table.values()) == ("8:1", "/srv/old/x")
    assert locate("/srv/x", [table["21"], table["30"]]) == ("8:2", "/subvolumes/data/x")
    assert locate("/srv/x", table.values()) == ("0:50", "/x")  # what was mounted later lies over it
    assert locate("/srvx", table.values()) == ("8:1", "/srvx")
    assert locate("/x", [table["31"]]) is None
    lay_out(fs, "", "mnt/a b/c/")
    fs.create_symlink("/link", "/mnt/a b")
    assert location_key("/link/c") == location_key("/mnt/a b/c/") == "8:3 /c"
    fs.remove_object("/proc/self/mountinfo")
    assert location_key("/link/c") == ""


def test_each_namespace_is_asked_once(fs: FakeFilesystem) -> None:
    for process, namespace in (("self", 1), ("1", 1), ("20", 2), ("21", 2), ("22", 3), ("23", None)):
        lay_out(fs, f"/proc/{process}", contents={"mountinfo": f"21 1 8:{process[-1:]} / / rw - ext4 /dev/x rw\n"})
        if namespace:
            fs.create_symlink(f"/proc/{process}/ns/mnt", f"mnt:[{namespace}]")
    lay_out(fs, "/proc", "sys/")
    seen = [table["21"].device for table in namespaces()]
    assert len(os.listdir("/proc")) == 7 and len(seen) == 3 and seen[0] == "8:f" and "8:2" in seen
