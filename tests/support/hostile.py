"""A remote shell that leads to an enemy: ``python -m tests.support.hostile LIE HOST COMMAND``.

It is the real agent, which does one thing that no agent does (:data:`LIES`); rsync at the remote end is the real one.
Most lies are told in one operation, so that what comes before it is as it should be.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any, Callable

from sparsesync.engine.agent import OPERATIONS, Agent
from sparsesync.engine.errors import LinkError
from sparsesync.engine.wire import protocol
from sparsesync.engine.wire.link import Link
from sparsesync.hosts.loader import READY

DIGITS = b"1" * 400


class Enemy(Agent):
    def item(self, **values: Any) -> None:
        self.link.send_json(protocol.ITEM, **values)

    def raw(self, kind: int, payload: bytes) -> None:
        self.link.write(protocol.encode(kind, payload))

    def wanted(self) -> list[list[Any]]:
        """All that the receiver asks for at first."""
        return list(self.link.read().json()["files"])

    def announce(self, number: int = 1, **values: Any) -> None:
        file = {"name": "x", "size": 1 << 20, "data": 4096, "mode": 0o644, "mtime_ns": 10**18, "parents": [],
                "attributes": None, **values}  # fmt: skip
        self.link.send_json(protocol.FILE, id=number, **file)

    def wait(self) -> None:
        while True:
            self.link.read()


def _fully(enemy: Enemy, names: list[str]) -> dict[str, Any]:
    xattrs = dict.fromkeys(names, "AAAA")
    return {"mode": 0o644, "uid": 0, "gid": 0, "atime_ns": 0, "mtime_ns": 0, "xattrs": xattrs}


def _many_files(enemy: Enemy, path: str, **options: Any) -> None:
    long = "y" * 3900
    for number in range(8000):
        stat = [0o100644, number, 1, 1, 0, 0, 9, 0, 0, 0]
        enemy.item(path=f"{path}/{number}{long}", stat=stat, size=1 << 30, allocated=0, data=0, extents=0, zeros=0)
    enemy.link.send_json(protocol.DONE)


def _number(enemy: Enemy, **options: Any) -> None:
    enemy.raw(protocol.ITEM, b'{"path":"/x","size":' + DIGITS + b"}")


def _lists(enemy: Enemy, **options: Any) -> None:
    for _ in range(3):
        enemy.raw(protocol.ITEM, b'{"events":[' + b",".join([b"[[[[[[[[]]]]]]]]"] * 60_000) + b"]}")


def _million_announced(enemy: Enemy) -> None:
    enemy.wanted()
    for number in range(1, 1_000_000):
        enemy.announce(number, name="x" * 4000)


def _attributes(enemy: Enemy) -> None:
    for number, *_ in enemy.wanted():
        enemy.announce(number, attributes=_fully(enemy, [f"user.{n}" for n in range(3000)]))


def _long_reason(enemy: Enemy) -> None:
    for number, *_ in enemy.wanted():
        enemy.link.send_json(protocol.SKIP, id=number, reason="x" * 1_000_000)


def _names(enemy: Enemy) -> None:
    for number, *_ in enemy.wanted():
        enemy.announce(number, name="../../../outside")
        packed = protocol.pack_ranges([(0, 4)])
        enemy.link.write(protocol.data_head(number, 0, packed, 4), b"evil")
        enemy.link.write(protocol.encode_finish(number, enemy.host.digest.of(packed + b"evil")))
    enemy.link.write(protocol.encode(protocol.END))
    enemy.wait()


def _closed(enemy: Enemy, **values: Any) -> None:
    number = enemy.link.read().json()["id"]
    result = {"reason": "no", "space": None, "data": 0, "sent": 0, "errno": None}
    result.update(at_source=False, allocated=0, **values)
    enemy.link.send_json(protocol.CLOSED, id=number, **result)
    enemy.wait()


def _states(enemy: Enemy) -> None:
    for _ in range(1_000_000):
        enemy.link.send_json(protocol.STATE, id=1, basis=True)


def _blocks(enemy: Enemy, **options: Any) -> None:
    enemy.item(events=[["e", "", "-", (1 << 63) - 1, "", 0]])
    while True:
        enemy.item(events=[["b", "A" * 32]])


def _parts(enemy: Enemy, **options: Any) -> None:
    enemy.item(size=(1 << 63) - 1)
    enemy.item(parts=[[0, (1 << 63) - 1, True], [5, 5, True]])


def _trickle(link: Link) -> None:
    for byte in protocol.MAGIC + protocol.encode_json(protocol.HELLO, protocol=protocol.VERSION):
        os.write(1, bytes([byte]))
        time.sleep(0.3)


def _pings(link: Link) -> None:
    link.write(protocol.MAGIC)
    while True:
        link.write(protocol.encode(protocol.PING))


def _banner(link: Link) -> None:
    while True:
        link.write(b"Welcome! " * 1000)


def _echo(link: Link) -> None:
    os.write(1, b"123")
    while os.read(0, 1 << 16):
        pass


def _swallow(link: Link) -> None:
    os.set_blocking(0, True)
    while os.read(0, 1 << 16):
        pass
    time.sleep(60)


def _busy(enemy: Enemy, **options: Any) -> None:
    assert enemy.link._pinger
    enemy.link._pinger.set()
    while True:
        enemy.link.write(protocol.encode(protocol.PING))
        time.sleep(0.1)


LIES: dict[str, tuple[str, Callable[..., Any]]] = {
    "many files": ("scan", _many_files),
    "number": ("scan", _number),
    "lists": ("manifest", _lists),
    "blocks": ("manifest", _blocks),
    "parts": ("layers", _parts),
    "million announced": ("send", lambda enemy, **options: _million_announced(enemy)),
    "attributes": ("send", lambda enemy, **options: _attributes(enemy)),
    "long reason": ("send", lambda enemy, **options: _long_reason(enemy)),
    "names": ("send", lambda enemy, **options: _names(enemy)),
    "closed": ("receive", lambda enemy: _closed(enemy, data=1 << 64)),
    "states": ("receive", _states),
    "busy": ("open", _busy),
    "busy for long": ("look", _busy),
    "busy sending": ("send", lambda enemy, **options: _busy(enemy)),
    "busy receiving": ("receive", _busy),
}
"""Where each lie is told, and how."""

GREETINGS: dict[str, Callable[[Link], None]] = {
    "trickle": _trickle, "pings": _pings, "banner": _banner, "echo": _echo, "swallow": _swallow,
}  # fmt: skip


def _line() -> bytes:
    made = b""
    while not made.endswith(b"\n"):
        made += os.read(0, 1 << 16)
    return made


def main(lie: str, *command: str) -> None:
    if "--server" in " ".join(command):
        os.execvp("sh", ["sh", "-c", " ".join(command[1:])])
    try:
        if lie in GREETINGS:
            GREETINGS[lie](Link(os.dup(0), os.dup(1)))
            return
        _line()
        os.write(1, READY)
        _line()
        enemy = Enemy(Link(os.dup(0), os.dup(1)))
        where, how = LIES[lie]
        OPERATIONS[where] = OPERATIONS[where]._replace(serve=how)
        enemy.serve()
    except (OSError, LinkError):
        pass  # the other end has had enough


if __name__ == "__main__":
    main(*sys.argv[1:])
