"""Where paths lead, by openat2 and component by component."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sparsesync.serving.beneath import OutsideError, Root
from tests.support.intruder import make

INSIDE = {
    "": ".", "/": ".", "~": ".", "~/": ".", "~/f": "f", "//sub//f": "sub//f", "/sub/": "sub/", "in/f": "in/f",
    "new/deep": "new/deep", "./f": "./f", "~x": "./~x", "~/~/x": "./~/x", "sub/back": "sub/back", "f/more": "f/more",
}  # fmt: skip
OUTSIDE = [
    "..", "../outside", "sub/../f", "/..", "~/..", "out", "out/", "out/new/deep", "sub/out/secret", "file", "up",
    "up/x", "dangling", "twice", "twice/x", "loop", "null", "magic/x",
]  # fmt: skip


@pytest.fixture(params=["by the kernel", "by components"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Root:
    served = make(tmp_path)
    for name, target in (("sub/back", "../f"), ("loop", "loop"), ("magic", "/proc/self/cwd"), ("null", "/dev/null")):
        os.symlink(target, served / name)
    return Root(str(served), kernel=request.param == "by the kernel")


def test_a_path_leads_inside_or_is_refused(root: Root) -> None:
    assert {path: root.within(path) for path in INSIDE} == INSIDE
    for path in OUTSIDE:
        with pytest.raises(OutsideError) as refused:
            root.within(path)
        assert refused.value.filename == path


def test_what_is_opened_is_what_was_looked_at(root: Root) -> None:
    fd = root.open("in/f", os.O_RDONLY | os.O_CLOEXEC)
    assert os.read(fd, 6) == b"inside" and os.path.samestat(os.fstat(fd), os.stat(f"{root.path}/sub/f"))
    os.close(fd)
    with pytest.raises(OutsideError):
        root.open("file", os.O_RDONLY)
    link = root.open("file", os.O_PATH | os.O_NOFOLLOW)
    assert os.readlink("", dir_fd=link).endswith("/outside/secret")
    os.close(link)
    os.close(root.open("made", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    assert os.stat(f"{root.path}/made").st_mode & 0o777 == 0o600


def test_a_pattern_matches_inside_only(root: Root) -> None:
    assert [*root.matching("*/f")] == ["in/f", "sub/f"]
    assert [*root.matching("s?b/[b-f]*")] == ["sub/back", "sub/f"]
    assert [*root.matching("*/secret")] == ["flip/secret"] and [*root.matching("none*")] == []


def test_a_device_is_none_of_the_directory(root: Root) -> None:
    try:
        os.mknod(f"{root.path}/device", 0o20600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("devices are root's to make")
    with pytest.raises(OutsideError, match="is a device"):
        root.within("device")
