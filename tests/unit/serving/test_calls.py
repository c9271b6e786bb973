"""The calls of a process that serves one directory: below it, or refused."""

from __future__ import annotations

import errno
import os
import traceback
from collections.abc import Callable
from pathlib import Path

from sparsesync.serving import calls
from sparsesync.serving.beneath import Root
from tests.support.intruder import make


def in_a_process(served: Path, check: Callable[[Path], None]) -> None:
    child = os.fork()
    if not child:
        status = 1
        try:
            os.chdir(served)
            calls.build(Root(str(served)))
            check(served)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def leads_out(call: Callable[[], object]) -> bool:
    try:
        call()
    except OSError as error:
        return error.errno == errno.EXDEV
    return False


def check(served: Path) -> None:
    inside = os.open("in/f", os.O_RDONLY)
    assert os.path.samestat(os.stat("in/f"), os.fstat(inside)) and os.path.isdir("sub") and not os.path.exists("none")
    assert os.stat(served / "f").st_size and os.lstat("out").st_mode & 0o170000 == 0o120000
    assert os.readlink("file").endswith("/outside/secret") and os.path.realpath("in/f") == "./sub/f"
    os.mkdir("new/")
    os.mkdir(served / "new/below")
    assert os.statvfs("sub").f_bsize and os.path.isdir("new/below")
    with os.scandir(os.open("sub", os.O_RDONLY)) as entries:
        assert sorted(entry.name for entry in entries) == ["f", "out"]
    assert os.listdir("/proc/self/fd") and os.open(os.devnull, os.O_RDWR) > 0
    top = os.open("/", os.O_PATH)
    assert os.path.samestat(os.fstat(top), os.stat(served)) and os.path.samestat(os.stat("/./f"), os.stat("f"))
    assert not os.path.exists(served.parent / "outside") and not os.path.exists("/etc/passwd")
    for call in (
        lambda: os.open("file", os.O_RDONLY), lambda: os.stat("out/secret"), lambda: os.lstat("up/outside/secret"),
        lambda: os.readlink("up/served/in"), lambda: os.statvfs("out"), lambda: os.mkdir("out/new"),
        lambda: os.open("..", os.O_PATH, dir_fd=inside), lambda: os.stat("/../outside"),
        lambda: os.listdir("sub"), lambda: os.unlink("f"), lambda: os.rename("f", "g"), lambda: os.chmod("f", 0o777),
        lambda: os.utime("f"), lambda: os.link("f", "g"), lambda: os.truncate("f", 0), lambda: os.chdir("sub"),
    ):  # fmt: skip
        assert leads_out(call)


def test_a_path_is_below_or_refused(tmp_path: Path) -> None:
    in_a_process(make(tmp_path), check)
