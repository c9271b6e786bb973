"""What a caller's function raises comes to the caller as it was."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import sparsesync
from tests.support.filesystems import sparse_file
from tests.support.shells import local_shell
from tests.support.trees import inside, unprivileged

MIB = 1 << 20

ERRORS = [
    OSError(errno.EIO, "mine"),
    ValueError("mine"),
    BlockingIOError(errno.EAGAIN, "mine"),
    FileNotFoundError(errno.ENOENT, "mine", "my file"),
    TimeoutError("mine"),
    sparsesync.LinkError("mine"),
    sparsesync.TruncatedError("mine"),
]
Told = Callable[[object], None]
HERE: dict[str, Callable[[Told], object]] = {
    "copy": lambda told: sparsesync.copy2("src", "dst", progress=told, reflink="never"),
    "in place": lambda told: sparsesync.copyfile("src", "changed", progress=told, inplace=True),
    "dig": lambda told: sparsesync.dig("zeros", progress=told),
    "equal": lambda told: sparsesync.equal("a/f", "b/f", progress=told),
    "verify": lambda told: [*sparsesync.verify("a", "b", on_error=told)],
    "scan": lambda told: [*sparsesync.scan("a", on_error=told)],
    "exclude": lambda told: sparsesync.exclude_patterns(["a"], on_error=told),
}
THERE: dict[str, Callable[[str, Told], object]] = {
    "push": lambda rsh, told: sparsesync.copyfile("src", f"far:{os.getcwd()}/dst", progress=told, rsh=rsh),
    "pull": lambda rsh, told: sparsesync.copyfile(f"far:{os.getcwd()}/src", "dst", progress=told, rsh=rsh),
    "verify": lambda rsh, told: [*sparsesync.verify("b", f"far:{os.getcwd()}/b", progress=told, rsh=rsh)],
    "scan": lambda rsh, told: [*sparsesync.scan(f"far:{os.getcwd()}/a", on_error=told, rsh=rsh)],
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    sparse_file(tmp_path / "src", 16 * MIB, [(0, 2 * MIB), (8 * MIB, MIB)])
    sparse_file(tmp_path / "changed", 16 * MIB, [(MIB, 2 * MIB)])
    (tmp_path / "dst").write_bytes(b"old")
    for tree in ("a", "b"):
        (tmp_path / tree).mkdir()
        sparse_file(tmp_path / tree / "f", 4 * MIB, [(0, MIB)])
    with inside("a"):
        for _ in range(17):  # to a path that is too long for the kernel
            os.mkdir("d" * 255)
            os.chdir("d" * 255)
    return tmp_path


def raised(call: Callable[[Told], object], error: Exception) -> None:
    was = repr(error), str(error), vars(error).copy()

    def told(what: object) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        call(told)
    assert caught.value is error and (repr(error), str(error), vars(error)) == was
    assert not isinstance(error.__context__, sparsesync.Error)


@pytest.mark.parametrize("call", HERE.values(), ids=HERE)
def test_what_a_callback_raises_is_raised_as_it_was(here: Path, call: Callable[[Told], object]) -> None:
    with contextlib.ExitStack() as stack:
        if call is HERE["verify"]:
            (here / "a/f").chmod(0)
            stack.enter_context(unprivileged(here))
        for error in ERRORS:
            if call is HERE["dig"]:
                (here / "zeros").write_bytes(bytes(MIB))
            raised(call, error)
    assert (here / "dst").read_bytes() == b"old"


@pytest.mark.parametrize("call", THERE.values(), ids=THERE)
def test_what_a_callback_raises_beside_a_connection(here: Path, call: Callable[[str, Told], object]) -> None:
    rsh = local_shell(here / "rsh")
    raised(lambda told: call(rsh, told), ERRORS[0])
    assert (here / "dst").read_bytes() == b"old"
