"""A client of ``serve`` that wants what is outside of the directory that its key is for.

Each session is a string of bytes that was made up: well-formed calls of every operation, with paths that lead out,
frames of transfers, and now and then a byte that is another one. It is played to an agent in a process of its own. More
than the test suite has time for: ``python -m tests.support.intruder 1000``.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparsesync.engine import agent
from sparsesync.engine.content.copy_file import CopyOptions
from sparsesync.engine.errors import LinkError, ProtocolError
from sparsesync.engine.queries.registry import QUERIES
from sparsesync.engine.roles import Opening, SourceSettings
from sparsesync.engine.tree.scan import ScanOptions
from sparsesync.engine.wire import protocol
from sparsesync.engine.wire.capabilities import Digest
from sparsesync.engine.wire.link import Link
from sparsesync.serving import calls, walls
from sparsesync.serving.beneath import Root
from sparsesync.serving.rules import MODES, Served

SECRET = b"what nobody may have with this key"
SECRET_SIZE = 7654321
"""Bytes: a size that nothing else has."""

ENGINE = "engine"
_TIMEOUT_SECONDS = 20


def make(top: Path) -> Path:
    """Make a directory to be served, with links that lead out of it to what is beside it, and return it."""
    served, outside = top / "served", top / "outside"
    (served / "sub").mkdir(parents=True)
    (outside / "below").mkdir(parents=True)
    for path in (outside / "secret", outside / "below/f"):
        with open(path, "wb") as file:
            file.write(SECRET)
            file.truncate(SECRET_SIZE)
        os.utime(path, (1, 1))
    for name in ("f", "sub/f"):
        with open(served / name, "wb") as file:
            file.truncate(1 << 20)
            file.write(b"inside")
    for name, target in (
        ("out", str(outside)), ("sub/out", "../../outside"), ("file", str(outside / "secret")), ("up", ".."),
        ("in", "sub"), ("dangling", str(outside / "new")), ("twice", "sub/../../outside"),
    ):  # fmt: skip
        os.symlink(target, served / name)
    (served / "flip").mkdir()
    (served / "flip/secret").write_bytes(b"inside")
    return served


def snapshot(top: Path) -> dict[str, Any]:
    """Return all that there is outside."""
    return {
        str(path): (path.lstat()[:4], path.lstat().st_size, path.lstat().st_mtime_ns, path.lstat().st_ctime_ns)
        for path in [top / "outside", *(top / "outside").rglob("*")]
    }


@contextlib.contextmanager
def racing(served: Path) -> Iterator[None]:
    """Replace a directory by a symlink that leads out, and the other way round, all the time."""
    over, aside, link, flip = threading.Event(), served / ".aside", served / ".link", served / "flip"

    def turn() -> None:
        os.symlink(served.parent / "outside", link)
        os.rename(flip, aside)
        os.rename(link, flip)
        time.sleep(0.0002)
        os.unlink(flip)
        os.rename(aside, flip)
        time.sleep(0.0002)

    def race() -> None:
        while not over.is_set():
            try:
                turn()
            except OSError:  # a client has made something in between
                for path in (link, aside, flip):
                    if path.is_symlink():
                        path.unlink()
                    else:
                        shutil.rmtree(path, ignore_errors=True)
                flip.mkdir(exist_ok=True)
                (flip / "secret").write_bytes(b"inside")

    racer = threading.Thread(target=race)
    racer.start()
    try:
        yield
    finally:
        over.set()
        racer.join()


class Intruder:
    """Makes up sessions. ``walled``: the kernel is there too, so that paths of the system can be tried."""

    def __init__(self, chance: random.Random, top: Path, walled: bool) -> None:
        self.chance = chance
        self.inside = ["f", "sub", "sub/f", "in/f", "new", "in/new", "."]
        self.outside = outside = str(top / "outside")
        self.paths = [
            "../outside", "../outside/secret", "sub/../../outside/secret",
            "out", "out/", "out/secret", "out/below", "sub/out/secret", "file", "up/outside/secret", "dangling",
            "twice/secret", f"./../{'x/../' * 3}outside", outside, f"{outside}/secret", f"{outside}/new",
            f"//{outside}", "~", "~/../outside", f"~{outside}", "~root/.ssh", "..", "./..", "sub/..", "up", "up/", "",
            "f/..", f"/proc/self/root{outside}/secret", "/proc/self/cwd/../outside/secret",
            *["flip", "flip/secret", "flip/", "flip/below"] * 2,
        ]  # fmt: skip
        if walled:
            self.paths += ["/", "/etc/passwd", "/proc/1/environ"] * 2

    def session(self) -> bytes:
        """Return all that one client sends."""
        chance = self.chance
        hello = protocol.encode_json(
            protocol.HELLO, protocol=protocol.VERSION, digest="blake2b", salt="00", files=100, timeout=None,
            engine=ENGINE,
        )  # fmt: skip
        sent = b"import os; os.system('touch ../outside/code')\n" + hello
        for _ in range(chance.randint(1, 6)):
            name = chance.choice([*agent.OPERATIONS, "open", "open_copy", "open_copy", "scan"])
            sent += protocol.encode_json(protocol.CALL, op=name, arguments=self.arguments(name))
            if name in ("open", "open_copy") and chance.random() < 0.7:
                sent += protocol.encode_json(protocol.CALL, op="receive", arguments={}) + self._pushed()
            if name == "send":
                sent += self._pulled()
        if chance.random() < 0.2:
            at = chance.randrange(len(hello), len(sent))
            sent = sent[:at] + bytes([chance.randrange(256)]) + sent[at + chance.randint(0, 2) :]
        return sent

    def arguments(self, name: str) -> dict[str, Any]:
        made = {argument: self._argument(name, argument) for argument in agent.OPERATIONS[name].takes}
        if name == "query":
            made["arguments"] = self._query(made["query"])
        if self.chance.random() < 0.05:
            made[self.chance.choice(["path", "more", "source"])] = self._path()
        return {argument: value for argument, value in made.items() if value is not None}

    def _path(self) -> str:
        return self.chance.choice(self.paths if self.chance.random() < 0.5 else self.inside)

    def _paths(self) -> list[str]:
        return [self._path() for _ in range(self.chance.randint(0, 3))]

    def _argument(self, operation: str, argument: str) -> Any:
        chance = self.chance
        if argument in ("path", "name", "source"):
            return self._path()
        if argument in ("files", "parts", "ranges"):
            more: list[Any] = [self._path()] if argument == "files" else [0, 65536]
            return [[path, *more] for path in self._paths()]
        if argument == "needs":
            return [[path, 1] for path in self._paths()]
        if argument in ("names", "paths"):
            return self._paths()
        if argument == "holes":
            return [[0, 4096]] if operation == "dig" else chance.choice(["auto", "trust", "read"])
        if argument == "settings":
            follow, listed, attributes, live = (chance.random() < 0.5 for _ in range(4))
            return [*SourceSettings(follow, listed, attributes, live)]
        if argument == "options" and operation == "scan":
            return [*ScanOptions(every_file=True, follow=chance.random() < 0.5, prune=self._paths())]
        if argument == "options":
            return [*CopyOptions(chance.choice(["content", "all"]), inplace=chance.random() < 0.5)]
        if argument == "opening":
            return [*Opening(
                chance.random() < 0.5, chance.random() < 0.5, mkpath=chance.random() < 0.5, perms=chance.random() < 0.5,
                inplace=chance.random() < 0.3, partial_dir=chance.choice([None, self._path()]),
                temp_dir=chance.choice([None, self._path()]), bases=self._paths(), fuzzy=chance.randint(0, 2),
            )]  # fmt: skip
        return {
            "full": True, "measured": True, "parents": True, "asks": chance.random() < 0.5, "size": 1 << 20,
            "block": 4096, "preset": "system", "query": chance.choice([*QUERIES]), "sparse": "auto",
        }.get(argument)  # fmt: skip

    def _query(self, query: str) -> dict[str, Any]:
        outside = self.outside
        known: dict[str, dict[str, Any]] = {
            "run": {"command": f"cat {outside}/secret; touch {outside}/run"}, "host": {"rsync": f"{outside}/secret"},
            "kernel": {"wanted": ["overlay"]}, "probe": {"path": self._path()}, "entry": {"path": self._path()},
            "remove": {"path": self._path(), "latest": 1 << 62}, "in_use": {"sources": self._paths()},
            "make_directory": {"path": self._path(), "exist_ok": True},
            "trial": {"path": self._path(), "examples": [["file", "-", "a", self._path(), 0]]},
        }  # fmt: skip
        if query in ("sizes", "sparse", "forbidden"):
            return {"paths": self._paths()}
        return known.get(query, {"source" if query in ("stores", "survey", "suggested") else "path": self._path()})

    def _pushed(self) -> bytes:
        sent = b""
        for number in range(1, self.chance.randint(2, 4)):
            sent += protocol.encode_json(
                protocol.FILE, id=number, name=self._path(), size=4096, data=4096, mode=0o4777, mtime_ns=1, parents=[],
                attributes=None,
            )  # fmt: skip
            packed, content = protocol.pack_ranges([(0, 4096)]), b"evil" * 1024
            guard = Digest("blake2b", b"\0").guard(self.chance.random() < 0.3)
            guard.update(packed)
            guard.update(content)
            sent += protocol.data_head(number, 0, packed, 4096) + content
            sent += protocol.encode_finish(number, guard.digest())
        return sent + protocol.encode(protocol.END)

    def _pulled(self) -> bytes:
        files = [[number, self._path(), self._path(), False] for number in range(1, 4)]
        files += [[number, path, path.rpartition("/")[2], False] for number, path in enumerate(self._paths(), 4)]
        return protocol.encode_json(protocol.WANT, files=files) + protocol.encode_json(protocol.WANT, files=[])


def play(root: Root, mode: str, sent: bytes, walled: bool) -> tuple[int, bytes]:
    """Play a session to an agent, and return the agent's exit status and what it answered."""
    ours, theirs = socket.socketpair()
    ours.settimeout(_TIMEOUT_SECONDS)
    child = os.fork()
    if not child:
        status = 99
        try:
            ours.close()
            os.fchdir(root.fd)
            if walled:  # and there is Landlock; else the rest has to do
                walls.build(root.fd, mode != "read-only")
            calls.build(root)
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115
            link = Link(theirs.fileno(), os.dup(theirs.fileno()), name="the client", line=True)
            try:
                agent.Agent(link, Served(root, mode, ENGINE, "1")).serve()
            except ProtocolError:
                status = 1
            except LinkError:
                status = 0
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(status)
    theirs.close()
    answered = b""
    with ours, contextlib.suppress(OSError):
        ours.sendall(sent)
        ours.shutdown(socket.SHUT_WR)
        while more := ours.recv(1 << 16):
            answered += more
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), answered


def attack(top: Path, sessions: int, seed: int) -> Counter[str]:
    """Play sessions, and return how many ended how. Raises AssertionError if something outside was reached."""
    served = make(top)
    before = snapshot(top)
    roots = [Root(str(served)), Root(str(served), kernel=False)]
    chance = random.Random(seed)
    ended: Counter[str] = Counter()
    with racing(served):
        for number in range(sessions):
            walled = number % 2 == 0
            mode = chance.choice([*MODES])
            sent = Intruder(chance, top, walled).session()
            status, answered = play(roots[number % 3 == 1], mode, sent, walled)
            assert status in (0, 1), (seed, number, status)
            assert SECRET not in answered and str(SECRET_SIZE).encode() not in answered, (seed, number, answered)
            refused = [b"read-only", b"append-only", b"is outside of", b"for one directory only"]
            for kind in ("answered", *(word.decode() for word in refused if word in answered)):
                ended[kind] += 1
            ended[f"status {status}"] += 1
            ended["walled"] += walled
            ended["sent something"] += b"inside" in answered
            if number % 20 == 0 or number == sessions - 1:
                assert snapshot(top) == before, (seed, number)
    ended["files made inside"] = sum(path.is_file() for path in served.rglob("*"))
    return ended


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        print(dict(attack(Path(place), int(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else 1)))
