"""An enemy at the other end: every field of every frame, and what of it reaches the command line."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import pytest

from sparsesync.engine.agent import OPERATIONS, Agent
from sparsesync.engine.content.copy_file import CopyOptions
from sparsesync.engine.errors import LinkError, ProtocolError
from sparsesync.engine.files.beneath import Sources
from sparsesync.engine.transfer.limits import ANNOUNCED_BYTES, Reasons
from sparsesync.engine.transfer.outgoing import OutgoingFile, outgoing
from sparsesync.engine.transfer.place.copy_destination import CopyDestination
from sparsesync.engine.transfer.place.destination import Destination
from sparsesync.engine.transfer.receiver import Receiver
from sparsesync.engine.transfer.records import FileResult
from sparsesync.engine.transfer.sender import Sender
from sparsesync.engine.tree.scan import ScanOptions
from sparsesync.engine.wire import protocol
from sparsesync.engine.wire.capabilities import capabilities
from sparsesync.engine.wire.link import Link, peer_error
from sparsesync.engine.wire.protocol import Frame
from sparsesync.hosts import ssh
from sparsesync.hosts.remote import RemoteHost
from tests.support.answers import (
    ANSWERS,
    CLOSED,
    ERROR,
    FILE,
    FLAG,
    MISSING,
    NAME,
    NONE,
    NUMBER,
    SCANNED,
    SIGNED,
    SIZE,
    TEXT,
    Liar,
    optional,
    rows,
)
from tests.support.filesystems import sparse_file
from tests.support.transfers import DIGEST, Peer, against

MIB = 1 << 20


ATTRIBUTES: dict[str, Any] = {
    "mode": 0o644, "uid": 0, "gid": 0, "atime_ns": 0, "mtime_ns": 0, "xattrs": {"user.a": "AAAA"},
}  # fmt: skip
BAD_XATTRS: list[Any] = [
    None, [], {"user.a": None}, {"user.a": "AAA"}, {"user.a": "A" * 87_388}, {"user.a": "!!!!"}, {"": "AAAA"},
    {"x" * 256: "AAAA"}, {"a\0": "AAAA"}, {"\ud800": ""}, {f"user.{n}{'x' * 200}": "" for n in range(330)},
]  # fmt: skip
BAD_ATTRIBUTES: list[Any] = [
    1, [], {}, {**ATTRIBUTES, "more": 1},
    *({**ATTRIBUTES, name: bad} for name in ("mode", "uid", "gid") for bad in NUMBER if bad is not MISSING),
    *({**ATTRIBUTES, name: bad} for name in ("atime_ns", "mtime_ns") for bad in SIGNED if bad is not MISSING),
    *({**ATTRIBUTES, "xattrs": bad} for bad in BAD_XATTRS),
]  # fmt: skip

ERRORS = {
    "errno": optional([*NUMBER, 4096]), "strerror": TEXT, "filename": optional(TEXT), "value": FLAG,
}  # fmt: skip

TO_RECEIVER: dict[tuple[int, str], tuple[dict[str, Any], dict[str, list[Any]]]] = {
    (protocol.FILE, ""): (FILE, {
        "id": NUMBER, "name": NAME, "size": SIZE, "data": SIZE, "mode": [*NUMBER, 0o10000], "mtime_ns": SIGNED,
        "parents": [*NONE, 1, "x", {}, [-1], [True], [0o10000], [None]], "attributes": BAD_ATTRIBUTES,
    }),
    (protocol.SKIP, "pull"): ({"id": 1, "reason": "no"}, {"id": [*NUMBER, 2], "reason": TEXT}),
    (protocol.ABORT, "file"): ({"id": 1, "reason": "no"}, {"id": [*NUMBER, 2], "reason": TEXT}),
}  # fmt: skip
TO_SENDER: dict[tuple[int, str], tuple[dict[str, Any], dict[str, list[Any]]]] = {
    (protocol.STATE, ""): ({"id": 1, "basis": True}, {"id": [*NUMBER, 0, 2], "basis": FLAG}),
    (protocol.CLOSED, ""): (CLOSED, {
        "id": [*NUMBER, 0, 2], "data": SIZE, "sent": SIZE, "reason": [*NONE, *optional(TEXT)],
        "space": [1, [], [1], [1, 2, 3], [-1, 1], [1, 1 << 63], [True, 1], "ab"],
        "errno": optional([*NUMBER, 4096]), "at_source": FLAG, "allocated": SIZE,
    }),
    (protocol.WANT, "pull"): ({"files": [[1, "f", "f", False]]}, {
        "files": [*NONE, 1, "x", {}, [1], [[]],
                  *([[*row, False]] for row in ([1, "f"], [1, "f", "f", "f"], [2, "f", "f"])),
                  *([[True, "f", "f", True]], [[1, "f", "f"]]),
                  *([[1, bad, "f", True]] for bad in NAME[2:]), *([[1, "f", bad, True]] for bad in NAME[2:]),
                  *([[1, "f", "f", bad]] for bad in FLAG[1:]),
                  [[n, "f", "f", False] for n in range(1, 100)]],
    }),
}  # fmt: skip


def frame(kind: int, good: dict[str, Any], field: str, bad: Any) -> bytes:
    values = {**good, field: bad}
    if bad is MISSING:
        del values[field]
    return protocol.encode_json(kind, **values)


def cases(frames: Any) -> list[Any]:
    return [
        pytest.param(kind, where, good, field, values, id=f"{kind}-{where}-{field}")
        for (kind, where), (good, fields) in frames.items()
        for field, values in fields.items()
    ]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Destination]:
    (tmp_path / "target").mkdir()
    made = CopyDestination(str(tmp_path / "target"), "f", CopyOptions("all"), resume=True)
    yield made
    made.close()


def received(
    place: Destination, script: Callable[[Peer], Any], wants: Any = None
) -> tuple[list[FileResult], list[Exception]]:
    results: list[FileResult] = []

    def run(link: Link) -> None:
        Receiver(link, DIGEST, place, results.append).run(None if wants is None else iter(wants))

    return results, against(run, script)


@pytest.mark.parametrize(("kind", "where", "good", "field", "values"), cases(TO_RECEIVER))
def test_what_a_receiver_is_told(
    tmp_path: Path, place: Destination, kind: int, where: str, good: dict[str, Any], field: str, values: list[Any]
) -> None:
    for bad in values:

        def script(peer: Peer) -> None:
            if where == "file":
                peer.say(protocol.FILE, **FILE)
            peer.write(frame(kind, good, field, bad))  # noqa: B023
            peer.all()

        wants = [("/f", "f")] if where == "pull" else None
        results, (error,) = received(place, script, wants)
        assert isinstance(error, ProtocolError) and results == [], bad
        assert os.listdir(tmp_path / "target") == []


@pytest.mark.parametrize(("kind", "where", "good", "field", "values"), cases(TO_SENDER))
def test_what_a_sender_is_told(
    tmp_path: Path, kind: int, where: str, good: dict[str, Any], field: str, values: list[Any]
) -> None:
    source = sparse_file(tmp_path / "f", MIB, [(0, 4096)])
    for bad in values:
        results: list[FileResult] = []

        def run(link: Link) -> None:
            sender = Sender(link, DIGEST, results.append)  # noqa: B023
            if where == "pull":
                sender.send_wanted(lambda path, name: outgoing(path, name, Sources()))
            else:
                sender.send(iter([outgoing(str(source), "f", Sources())]))

        def script(peer: Peer) -> None:
            if where != "pull":
                peer.json(protocol.FILE)
            peer.write(frame(kind, good, field, bad))  # noqa: B023
            peer.all()

        (error,) = against(run, script)
        assert isinstance(error, ProtocolError) and results == [], bad


def test_errors_of_the_other_end() -> None:
    assert isinstance(peer_error(ERROR), OSError)
    for field, values in ERRORS.items():
        for bad in values:
            with pytest.raises(ProtocolError, match=field):
                peer_error(json.loads(frame(protocol.FAIL, ERROR, field, bad)[protocol.HEAD.size :]))


HELLO_OF_AGENT: dict[str, Any] = {"protocol": protocol.VERSION, "python": "3.6.0", **capabilities()}
BAD_HELLO: dict[str, list[Any]] = {
    "protocol": [*NUMBER, 1], "python": optional(TEXT),
    "digests": [*NONE, 1, [], "x", {}, {"sha256": "x"}, {"sha256": True}, {"sha256": -1}, {"sha256": 1 << 64},
                {"x" * 30: 1}, {f"{n}": 1 for n in range(30)}],
    "compressors": [*NONE, 1, {}, "zlib", [1], [None], ["x" * 30], ["zlib"] * 30],
    "files": [*NUMBER, 0],
}  # fmt: skip


@pytest.mark.parametrize("field", BAD_HELLO)
def test_a_hello_of_an_agent(field: str) -> None:
    agent = ssh.Connection.__new__(ssh.Connection)
    agent.host = "far"
    agent.link = SimpleNamespace(timeout=None, send_json=lambda kind, **values: None)  # type: ignore[assignment]
    agent._agree(Frame(protocol.HELLO, memoryview(json.dumps(HELLO_OF_AGENT).encode())), None)
    for bad in BAD_HELLO[field]:
        payload = frame(protocol.HELLO, HELLO_OF_AGENT, field, bad)[protocol.HEAD.size :]
        with pytest.raises(ProtocolError):
            agent._agree(Frame(protocol.HELLO, memoryview(payload)), None)


def test_announcements_are_bounded_by_their_bytes(tmp_path: Path) -> None:
    """At both ends, and an honest sender of names as long as can be gets through."""
    (tmp_path / "target").mkdir()
    place = Destination(str(tmp_path / "target"))
    told = 0

    def enemy(peer: Peer) -> None:
        nonlocal told
        peer.ignore()
        for number in range(1, 1000):
            announced = frame(protocol.FILE, FILE, "name", "\udcff" * 4000).replace(b'"id":1', b'"id":%d' % number)
            announced = protocol.encode(protocol.FILE, announced[protocol.HEAD.size :])
            peer.write(announced)
            told += len(announced)

    _, (error,) = received(place, enemy)
    assert isinstance(error, ProtocolError) and "announced" in str(error) and told < ANNOUNCED_BYTES + MIB
    place.close()

    source = sparse_file(tmp_path / "f", MIB, [(0, 4096)])
    under_way, most, over = {}, 0, 0
    sources = Sources()

    def files() -> Iterator[OutgoingFile]:
        for number in range(300):
            yield outgoing(str(source), f"{number}" + "\udcff" * 2000, sources)

    def receiver(peer: Peer) -> None:
        nonlocal most, over
        for kind, payload in iter(peer.hear, None):  # type: ignore[misc]
            if kind == protocol.FILE:
                number = json.loads(payload)["id"]
                under_way[number] = len(payload)
                most = max(most, sum(under_way.values()))
                peer.say(protocol.STATE, id=number, basis=False)
            elif kind == protocol.FINISH:
                number = protocol.read_tail(memoryview(payload))[0]
                del under_way[number]
                over += 1
                peer.say(protocol.CLOSED, **{**CLOSED, "id": number, "reason": None})
            elif kind == protocol.END:
                peer.say(protocol.DONE)

    assert against(lambda link: Sender(link, DIGEST).send(files()), receiver) == []
    assert over == 300 and MIB // 2 < most <= ANNOUNCED_BYTES


def test_a_receiver_that_reads_no_more_and_talks_nonsense(tmp_path: Path) -> None:
    """Without a timeout the sender would wait to write without end."""
    source = sparse_file(tmp_path / "f", 64 * MIB, [(0, 64 * MIB)])
    over = threading.Event()

    def receiver(peer: Peer) -> None:
        peer.say(protocol.STATE, id=1, basis=False)
        peer.say(protocol.STATE, id=77, basis=False)
        peer.say(protocol.HELLO)
        peer.write(b"\xff" * 100)
        over.wait(60)

    def send(link: Link) -> None:
        with Sources() as sources:
            try:
                Sender(link, DIGEST).send(iter([outgoing(str(source), "f", sources)]))
            finally:
                over.set()

    (error,) = against(send, receiver)
    assert isinstance(error, ProtocolError) and over.is_set()


def test_what_is_wanted_is_bounded_by_its_characters(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    place = Destination(str(tmp_path / "target"))
    most = 0

    def script(peer: Peer) -> None:
        nonlocal most
        wanted: dict[int, int] = {}
        while True:
            files = peer.json(protocol.WANT)["files"]
            wanted.update({number: len(path) + len(name) for number, path, name, _ in files})
            most = max(most, sum(wanted.values()))
            for number, *_ in files:
                peer.say(protocol.SKIP, id=number, reason="no")
                del wanted[number]
            if not files:
                break
        peer.write(protocol.encode(protocol.END))
        peer.all()

    results, errors = received(place, script, [("/" + "x" * 4000, "y" * 4000)] * 500)
    place.close()
    assert errors == [] and len(results) == 500 and most < 2 * MIB

    def enemy(peer: Peer) -> None:
        # Taken one by one, and this end announces none of them before it has been told what to do with the first.
        for number in range(1, 3000):
            peer.say(protocol.WANT, files=[[number, "x" * 4096, "y" * 4096, False]])

    source = sparse_file(tmp_path / "f", MIB, [(0, 4096)])
    with Sources() as sources:
        wanted = functools.partial(outgoing, str(source), "f", sources)
        (error,) = against(lambda link: Sender(link, DIGEST).send_wanted(lambda path, name: wanted()), enemy)
    assert isinstance(error, LinkError)


def test_reasons_are_kept_as_long_as_there_is_room() -> None:
    reasons = Reasons()
    kept = [reasons.keep(f"{number:04}" * 2048) for number in range(1000)]
    assert kept[0] == "0000" * 2048 and sum(map(len, set(kept))) < 2 * MIB and kept[-1] is kept[-2]


# What an agent answers


@pytest.mark.parametrize("op", ANSWERS)
def test_what_an_agent_answers(op: str) -> None:
    ask, good, fields = ANSWERS[op]
    ask(Liar(good))
    for field, values in fields.items():
        for bad in values:
            answer = {**good, field: bad}
            if bad is MISSING:
                del answer[field]
            with pytest.raises(ProtocolError):  # noqa: PT012
                ask(Liar(answer))
                pytest.fail(f"{field}: {bad!r:.100}")


def test_parts_of_a_file() -> None:
    def layers(parts: Any, size: Any = 100) -> list[Any]:
        with RemoteHost(Liar({"size": size}, {"parts": parts})).layers("/x", "auto") as (_, found):  # type: ignore[arg-type]
            return list(found)

    assert layers([[0, 9, True]]) == [(0, 9, True)]
    wrong = [[row] for row in rows([0, 9, True], SIZE, [*SIZE, 0, 101], FLAG)]
    nothing: list[Any] = [1, {}, None, [[9, 9, True], [0, 1, True]], *wrong]
    for bad in nothing:
        with pytest.raises(ProtocolError):
            layers(bad)
    for size in SIZE:
        with pytest.raises(ProtocolError):
            layers([], None if size is MISSING else size)


def test_files_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found waits on a disk, so that there is a limit to it."""
    monkeypatch.setattr("sparsesync.hosts.remote._MAX_NAME_CHARACTERS", 100)
    with pytest.raises(ProtocolError, match="too many files"):
        list(RemoteHost(Liar(*[SCANNED] * 100)).scan("/x", ScanOptions()))  # type: ignore[arg-type]


# A client against the agent

HELLO = {"protocol": protocol.VERSION, "digest": "sha256", "salt": "00", "timeout": None, "files": 100}


def served(script: Callable[[Peer], None]) -> list[Exception]:
    def play(peer: Peer) -> None:
        assert peer.end.recv(len(protocol.MAGIC)) == protocol.MAGIC
        peer.json(protocol.HELLO)
        peer.say(protocol.HELLO, **HELLO)
        script(peer)
        with contextlib.suppress(OSError):
            peer.end.shutdown(1)
        peer.all()

    return against(lambda link: Agent(link).serve(), play)


@pytest.mark.parametrize("op", OPERATIONS)
def test_arguments_that_no_client_sends(op: str) -> None:
    """One clear line each, and the connection goes on; nothing is called."""
    odd: list[Any] = [1 << 80, -1, "\ud800\0", ["\0", 3], [[]], {"a": {"b": []}}, 1.5]

    takes = OPERATIONS[op].takes

    def script(peer: Peer) -> None:
        for given in ({"__class__": 1}, {"self": 1}, *({name: value} for name in takes for value in odd)):
            if op == "query" and isinstance(given.get("arguments"), dict):
                given["query"] = "sizes"
            peer.say(protocol.CALL, op=op, arguments=given)
            told = peer.json(protocol.FAIL)
            assert told["value"] and "argument" in told["strerror"] and "\n" not in told["strerror"]
        peer.say(protocol.CALL, op="mode", arguments={"path": "/"})
        assert peer.json(protocol.DONE)["answer"] & 0o40000

    (error,) = served(script)
    assert "ended" in str(error)


@pytest.mark.parametrize("op", ["", "__class__", "nothing", "Mode", "mode ", "_mode", "x" * 1000, None, 1, ["mode"]])
def test_operations_that_there_are_not(op: Any) -> None:
    (error,) = served(lambda peer: peer.say(protocol.CALL, op=op, arguments={}))
    assert isinstance(error, ProtocolError) and len(str(error)) < 200


# The command line

REPORTING = """
import sys
from sparsesync.commands.main import main
try:
    status = main()
except SystemExit as ended:
    status = ended.code
with open("/proc/self/status") as told, open("memory", "w") as report:
    report.writelines(line.split()[1] for line in told if line.startswith("VmHWM:"))
sys.exit(status)
"""
TOP = Path(__file__).parents[2]


def run(tmp_path: Path, *argv: str) -> tuple[int, str, int]:
    """Run the command; its status, what it complained of, and the memory it took in bytes."""
    environ = {**os.environ, "PYTHONPATH": str(TOP)}
    done = subprocess.run([sys.executable, "-c", REPORTING, *argv], cwd=tmp_path, env=environ, capture_output=True,
                          text=True, errors="surrogateescape", timeout=60)  # fmt: skip
    report = tmp_path / "memory"
    if not report.exists():  # it became rsync
        return done.returncode, done.stderr, 0
    memory = int(report.read_text()) << 10
    report.unlink()
    return done.returncode, done.stderr, memory


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> int:
    """The memory of an honest run."""
    top = tmp_path_factory.mktemp("usual")
    sparse_file(top / "f", MIB, [(0, 4096)])
    rsh = str(top / "rsh")
    Path(rsh).write_text('#!/bin/sh\nshift; exec sh -c "$*"\n')
    os.chmod(rsh, 0o755)
    status, told, memory = run(top, "sync", "-a", "-e", rsh, "far:f", "g")
    assert (status, told) == (0, "")
    return memory


@pytest.mark.ssh
@pytest.mark.slow
@pytest.mark.parametrize(
    ("lie", "argv", "status"),
    [
        ("many files", ["scan", "far:/x"], 0),
        ("number", ["scan", "far:/x"], 1),
        ("lists", ["verify", "src", "far:/x"], 2),
        ("blocks", ["verify", "src/f", "far:/x"], 2),
        ("parts", ["map", "far:/x"], 1),
        ("million announced", ["copy", "-q", "far:{}/src/f", "dst"], 1),
        ("attributes", ["sync", "-a", "far:{}/src/", "dst"], 12),
        ("long reason", ["copy", "-q", "far:{}/src/f", "dst"], 1),
        ("names", ["copy", "-q", "far:{}/src/f", "dst/f"], 0),
        ("closed", ["copy", "-q", "src/f", "far:{}/dst"], 1),
        ("states", ["copy", "-q", "src/f", "far:{}/dst"], 1),
        ("busy", ["sync", "-a", "--timeout=1", "src/", "far:{}/dst"], 12),
        ("busy for long", ["sync", "-a", "--timeout=1", "far:{}/src/", "dst"], 12),
        ("busy sending", ["sync", "-a", "--timeout=1", "far:{}/src/", "dst"], 12),
        ("busy receiving", ["sync", "-a", "--timeout=1", "src/", "far:{}/dst"], 12),
        ("trickle", ["sync", "-a", "--timeout=1", "src/", "far:{}/dst"], 0),
        ("pings", ["scan", "far:/x"], 1),
        ("banner", ["scan", "far:/x"], 1),
        ("echo", ["scan", "far:/x"], 1),
    ],
)
def test_a_host_that_is_an_enemy(tmp_path: Path, usual: int, lie: str, argv: list[str], status: int) -> None:
    for directory in ("src", "dst"):
        (tmp_path / directory).mkdir()
    sparse_file(tmp_path / "src/f", MIB, [(0, 4096)])
    rsh = f"{sys.executable} -m tests.support.hostile '{lie}'"
    found, told, memory = run(tmp_path, argv[0], "-e", rsh, *(word.format(tmp_path) for word in argv[1:]))
    assert found == status, told
    assert "Traceback" not in told and told.count("\n") == (lie not in ("many files", "names"))
    assert memory < usual + 64 * MIB
    assert sorted(os.listdir(tmp_path)) == ["dst", "src"]
    assert os.listdir(tmp_path / "dst") in ([], ["f"], [".f.sparsesync-partial"])
    if status:
        assert not (tmp_path / "dst/f").exists()
