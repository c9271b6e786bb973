"""Calls that share a login: to a real sshd, which counts the logins, and to a shell here, which does so too."""

from __future__ import annotations

import contextlib
import inspect
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import sparsesync
from sparsesync import Session
from tests.support.filesystems import command, same_content, sparse_file
from tests.support.shells import local_shell, script
from tests.support.sshd import Sshd, sshd

MIB = 1 << 20

pytestmark = pytest.mark.ssh


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    top.mkdir()
    for number in range(3):
        sparse_file(top / f"f{number}", (number + 2) * MIB, [(MIB, 8192)])
    return top


class Shell:
    """A remote shell that leads here, and how often it was called."""

    def __init__(self, top: Path) -> None:
        self.log = top / "log"
        self.rsh = local_shell(top / "rsh", f"echo >> {self.log}")

    def logins(self) -> int:
        return len(self.log.read_text().splitlines())


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
def session(shell: Shell) -> Iterator[Session]:
    with Session(rsh=shell.rsh) as made:
        yield made


def test_all_calls_take_one_login(sshd_server: Sshd, tree: Path, tmp_path: Path) -> None:
    before = sshd_server.logins()
    with Session(rsh=sshd_server.rsh) as session:
        every_call(session, tree, tmp_path)
    assert sshd_server.logins() == before + 1


def test_sync_and_what_overlaps_take_no_other_login(sshd_server: Sshd, tree: Path, tmp_path: Path) -> None:
    before = sshd_server.logins()
    with Session(rsh=sshd_server.rsh) as session:
        for found in session.scan(f"host:{tree}"):
            session.copy(found.path, tmp_path)
        early = session.scan(f"host:{tree}")
        next(early)
        early.close()

        def cancel(stream: str, line: str) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            session.sync(f"host:{tree}/", tmp_path / "none", ["-av"], output=cancel)
        # With options of its own, as with a silence of so many seconds, it has another agent and the same login.
        pulled = session.sync(f"host:{tree}/", tmp_path / "pulled", ["-a", "--timeout=60"], check=True)
        assert len(pulled.seeded) == 3 and pulled.wire > 0
        assert session.equal(tmp_path / "pulled", f"host:{tree}")
    assert sshd_server.logins() == before + 1
    with pytest.raises(ValueError, match="the session is closed"):
        session.sync(f"host:{tree}/", tmp_path / "later", ["-a"])


@pytest.mark.slow
def test_a_session_whose_login_is_lost_takes_another(sshd_server: Sshd, tree: Path, tmp_path: Path) -> None:
    before = sshd_server.logins()
    with Session(rsh=sshd_server.rsh) as session:
        session.sync(f"{tree}/", f"host:{tmp_path}/one", ["-a"], check=True)
        (login,) = session._connections._logins.values()
        command("ssh", *login.control, "-O", "exit", "host")
        session.sync(f"{tree}/", f"host:{tmp_path}/two", ["-a"], check=True)
    assert sshd_server.logins() == before + 2
    assert sparsesync.equal(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_sync_where_one_session_at_a_time_is_allowed(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = script(tmp_path / "rsync", f'echo "$*" >> {tmp_path}/runs; exec {shutil.which("rsync")} "$@"')
    monkeypatch.setenv("SPARSESYNC_RSYNC", counted)
    with sshd(tmp_path / "sshd", server="MaxSessions 1") as server, Session(rsh=server.rsh) as session:
        session.copyfile(f"host:{tree}/f0", tmp_path / "f0")
        for way in ((f"{tree}/", f"host:{tmp_path}/there/"), (f"host:{tree}/", f"{tmp_path}/here/")):
            assert len(session.sync(*way, ["-a"], check=True, output=lambda stream, line: None).seeded) == 3
        assert (tmp_path / "runs").read_text().count(" --dry-run ") == 2
        session.copyfile(f"host:{tree}/f1", tmp_path / "f1")
    assert sparsesync.equal(tmp_path / "here", tmp_path / "there")


def test_sync_by_another_shell(shell: Shell, session: Session, tree: Path, tmp_path: Path) -> None:
    assert len(session.sync(f"{tree}/", f"host:{tmp_path}/copy", ["-a"], check=True).seeded) == 3
    assert shell.logins() == 3  # the agent, and rsync twice
    with pytest.raises(sparsesync.RsyncError):
        session.sync(f"host:{tree}/none", tmp_path / "b", ["-a"], check=True, output=lambda stream, line: None)


def every_call(session: Session, tree: Path, tmp_path: Path) -> None:
    far = f"host:{tree}"
    assert sorted(found.path for found in session.scan(far)) == [f"{far}/f{number}" for number in range(3)]
    assert session.copy(f"{far}/f1", tmp_path) == str(tmp_path / "f1")
    assert session.copy2(tmp_path / "f1", f"{far}/new") == f"{far}/new"
    session.copyfile(f"{far}/f2", tmp_path / "f2")
    assert same_content(tree / "f2", tmp_path / "f2") and same_content(tree / "f1", tree / "new")
    assert list(session.map(f"{far}/f0")) == list(sparsesync.map(tree / "f0"))
    assert session.equal(tree, far)
    assert [(found.path, found.kind) for found in session.verify(f"{far}/f0", tree / "f1")] == [("", "content")]
    assert session.exclude_patterns([far]) == [f"/tree/{name}" for name in ("f0", "f1", "f2", "new")]
    assert session.copyfile(tree / "f0", tmp_path / "local") == tmp_path / "local"


def test_two_hosts_are_compared_over_two_connections_that_last(shell: Shell, session: Session, tree: Path) -> None:
    for _ in range(2):
        assert session.equal(f"one:{tree}", f"two:{tree}")
    assert [found.kind for found in session.verify(f"one:{tree}/f0", f"two:{tree}/f1")] == ["content"]
    assert shell.logins() == 2
    assert session.equal(f"one:{tree}/f0", f"one:{tree}/f0")
    assert shell.logins() == 3


def test_what_overlaps_has_a_connection_of_its_own(shell: Shell, session: Session, tree: Path, tmp_path: Path) -> None:
    for found in session.scan(f"host:{tree}"):
        copied = session.copy(found.path, tmp_path)
        assert same_content(tree / Path(copied).name, Path(copied))
    assert shell.logins() == 2
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for time in range(5):
                session.copyfile(f"host:{tree}/f{number}", tmp_path / f"{number}-{time}")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert all(same_content(tree / f"f{n}", tmp_path / f"{n}-{time}") for n in range(3) for time in range(5))
    assert shell.logins() <= 3


def test_after_an_exception_the_next_call_connects_anew(
    shell: Shell, session: Session, tree: Path, tmp_path: Path
) -> None:
    session.copyfile(f"host:{tree}/f0", tmp_path / "a")
    with pytest.raises(FileNotFoundError):
        session.copyfile(f"host:{tree}/none", tmp_path / "b")

    def cancel(count: int) -> None:
        raise KeyboardInterrupt

    for end in (f"host:{tree}/f1", tree / "f1"):
        with pytest.raises(KeyboardInterrupt):
            session.copyfile(end, tmp_path / "b" if isinstance(end, str) else f"host:{tmp_path}/b", progress=cancel)
    early = session.scan(f"host:{tree}")
    next(early)
    early.close()  # type: ignore[attr-defined]
    assert not session.equal(f"host:{tree}", tmp_path)  # nothing is read behind the first difference
    session.copyfile(f"host:{tree}/f2", tmp_path / "b")
    assert same_content(tree / "f2", tmp_path / "b")
    assert shell.logins() > 1


def test_a_closed_session(shell: Shell, tree: Path, tmp_path: Path) -> None:
    with Session(rsh=shell.rsh) as session:
        found = session.scan(f"host:{tree}")
        next(found)
        unbegun = session.map(f"host:{tree}/f0")
    for _ in range(2):
        session.close()
    with pytest.raises(ValueError, match="the session is closed"):
        session.copyfile(f"host:{tree}/f0", tmp_path / "a")
    with pytest.raises(ValueError, match="the session is closed"):
        next(unbegun)
    with contextlib.suppress(sparsesync.LinkError):  # some of it has come already
        list(found)


def test_a_method_takes_what_its_function_takes() -> None:
    for name in ("copy", "copy2", "copyfile", "copytree", "equal", "exclude_patterns", "map", "move", "scan", "sync",
                 "verify"):  # fmt: skip
        function, method = getattr(sparsesync, name), getattr(Session, name)
        taken = [*inspect.signature(function).parameters]
        assert [*inspect.signature(method).parameters] == ["self", *(p for p in taken if p not in ("rsh", "python"))]
        assert method.__doc__ == function.__doc__
    with Session() as session, pytest.raises(TypeError, match="rsh and python are the session's"):
        session.copyfile("a", "b", rsh="ssh")
