"""The exceptions: what they are to a caller who knows another base, and what a process pool makes of them."""

from __future__ import annotations

import copy
import errno
import json
import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

import sparsesync
from sparsesync.embedding import NoAgentError, Stopped
from sparsesync.engine.errors import LoginError, ProtocolError, error_path

ERRORS = [
    sparsesync.NoSpaceError(10, 3, "/a b"),
    sparsesync.TruncatedError("x\udcff"),
    sparsesync.TruncatedError(),
    sparsesync.LinkError("the connection has ended", "far"),
    sparsesync.LinkError("no such remote shell", retryable=False),
    LoginError("ssh could not log in", "far", False),
    ProtocolError("cut", "far", True),
    sparsesync.RsyncTooOldError("rsync 3.0.9 is too old"),
    sparsesync.Error("x", 3),
]
MADE_AGAIN = [
    *ERRORS,
    Stopped("no more"),
    NoAgentError("no Python", "far", False),
    sparsesync.SyncCancelledError("x"),
    sparsesync.MigrationError(12, "lost"),
]
ATTRIBUTES = ("errno", "strerror", "filename", "filename2", "needed", "free", "host", "retryable", "note")


def said(error: BaseException) -> tuple[object, ...]:
    attributes = [getattr(error, name, "none") for name in ATTRIBUTES]
    return type(error), str(error), error.args, *attributes


def fail(number: int) -> None:
    raise ERRORS[number]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_is_pickled_and_copied_as_it_is(error: sparsesync.Error, protocol: int) -> None:
    changed = copy.copy(error)
    changed.note = "more"  # type: ignore[attr-defined]
    if isinstance(changed, OSError) and changed.filename is not None:
        changed.filename = b"/by bytes"
    for each in (error, changed):
        again = pickle.loads(pickle.dumps(each, protocol))
        assert said(again) == said(each) == said(copy.copy(each)) == said(copy.deepcopy(each))
        assert "-> None" not in str(again) and "None" not in str(again)


@pytest.mark.parametrize("error", MADE_AGAIN, ids=repr)
def test_an_error_is_made_again_of_its_class_and_its_args(error: sparsesync.Error) -> None:
    """As Celery does with what its backend has as JSON, in a process that has imported no module of ours."""
    assert type(error).__module__ == "sparsesync" and getattr(sparsesync, type(error).__qualname__) is type(error)
    again = type(error)(*json.loads(json.dumps(error.args)))
    assert said(again) == said(error) and vars(again) == vars(error)


def test_a_process_pool_survives_each() -> None:
    with ProcessPoolExecutor(1) as pool:
        for number, error in enumerate(ERRORS):
            came = pool.submit(fail, number).exception()
            assert came is not None and said(came) == said(error)


def test_what_a_caller_catches_who_knows_other_names() -> None:
    assert all(isinstance(error, sparsesync.Error) for error in ERRORS)
    assert issubclass(sparsesync.LinkError, ConnectionError) and not issubclass(sparsesync.LinkError, BrokenPipeError)
    assert issubclass(sparsesync.NoSpaceError, OSError) and issubclass(sparsesync.TruncatedError, OSError)
    assert issubclass(sparsesync.RsyncTooOldError, RuntimeError)
    lost = sparsesync.LinkError("the connection has ended", "far")
    assert (str(lost), lost.host, lost.retryable, lost.filename) == ("far: the connection has ended", "far", True, None)
    assert not ProtocolError("x").retryable and sparsesync.LinkError("x").host is None


def test_a_path_is_put_into_an_error_that_has_a_place_for_it() -> None:
    def through(error: OSError, instead: bool = False) -> str:
        with pytest.raises(OSError) as caught, error_path("given", instead):
            raise error
        assert caught.value is error
        return str(error)

    assert through(OSError(errno.ENOENT, "gone")) == "[Errno 2] gone: 'given'"
    assert through(OSError(errno.ENOENT, "gone", "a")) == "[Errno 2] gone: 'a'"
    assert through(OSError(errno.ENOENT, "gone", "a", None, "b"), True) == "[Errno 2] gone: 'given'"
    assert through(OSError("a text")) == "a text"
    assert through(sparsesync.LinkError("the connection has ended", "far"), True) == "far: the connection has ended"


def test_a_path_in_an_error_is_the_one_that_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_bytes(b"x")
    os.symlink("none/file", "to")
    for src, dst, blamed in (
        ("none", "b", "none"), ("file", "none/b", "none/b"), ("file", "to", "to"), ("file", ".", "."),
        (Path("none"), "b", "none"), ("file", Path("none/b"), "none/b"), ("file", "", ""),
    ):  # fmt: skip
        with pytest.raises(OSError) as caught:
            sparsesync.copyfile(src, dst)
        assert caught.value.filename == blamed and "-> " not in str(caught.value), (src, dst)
