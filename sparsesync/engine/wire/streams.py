"""More connections between two engines that have one already, and how their far ends come into one process.

Where a connection is an ssh, it is one core and one TCP connection, and the link may be faster than either. The engines
stay one at each end: one of them reads the source, one writes the target, and one digest guards all of it. Only DATA
frames are dealt out, each to a **stream** that has room for it (:meth:`~.link.Link.write_data`). All other frames go by
the first connection, where a STREAM frame stands in the place of each that comes by another one::

    first     FILE  DATA  STREAM 1  STREAM 2  DATA  FINISH
    1                     DATA
    2                               DATA

So what is read is what one connection would have carried, in the same order, whichever stream is the faster. What is
ahead of its turn stays in the kernel. A stream that is lost is a lost connection.

The client starts an agent over each further connection, as over the first. That agent hands its two descriptors to the
first one, by a socket of the machine (unix(7)), and from then on only waits for its end::

    client -> first agent      meet            a socket that nobody has the name of, and a secret
    client -> further agent 1  join            connects, sends its descriptors with the secret and its number
    client -> first agent      widen [1, ...]  takes them

Both sides of the socket look whose process the other is. A further agent that gets to another machine of the same name,
or into another container, finds no socket, and there is one stream less. So it is where the
socket's queue is full: any user of the machine may connect to it.
"""

import errno
import os
import struct
import time
from typing import Any, Dict, List, NoReturn, Sequence, Tuple

from ..errors import LinkError
from . import protocol
from .link import Link

_BACKLOG = 64
_SECRET_BYTES = 16
_WAIT_SECONDS = 10.0
"""What is waited for has been sent already."""

_CREDENTIALS = struct.Struct("iII")


class Meeting:
    """The place where the far ends of more connections are handed over. A context manager."""

    def __init__(self) -> None:
        self._name = os.urandom(16).hex()
        self._secret = os.urandom(_SECRET_BYTES)
        self._held: List[Any] = []

    def open(self) -> Tuple[str, str]:
        """Return what :func:`join` has to know: a name, and a secret."""
        if not self._held:
            import socket  # every agent imports this module, and few need that one

            place = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            place.bind(_address(self._name))
            place.listen(_BACKLOG)
            self._held.append(place)
        return self._name, self._secret.hex()

    def __enter__(self) -> "Meeting":
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Let those who have joined end."""
        for each in self._held:
            each.close()

    def widen(self, link: Link, numbers: Sequence[int]) -> None:
        """Give ``link`` the streams that came with these numbers, in their order. Raises OSError."""
        found: Dict[int, Link] = {}
        until = time.monotonic() + _WAIT_SECONDS
        try:
            while not found.keys() >= set(numbers):
                peer = self._accept(until)
                if _is_ours(peer):
                    self._held.append(peer)
                    self._receive(peer, found, link.name)
                else:
                    peer.close()
        finally:
            came = found.keys() >= set(numbers)
            for number, stream in found.items():
                if not came or number not in numbers:
                    stream.close()
        for number in numbers:
            link.add_stream(found[number])

    def _accept(self, until: float) -> Any:
        left = until - time.monotonic()
        if left <= 0 or not self._held:
            raise OSError(errno.ETIMEDOUT, "a connection that has joined did not come")
        self._held[0].settimeout(left)
        peer, _ = self._held[0].accept()
        peer.settimeout(left)
        return peer

    def _receive(self, peer: Any, found: Dict[int, Link], name: str) -> None:
        import array
        import socket

        size = socket.CMSG_SPACE(2 * array.array("i").itemsize)
        message, extra, _, _ = peer.recvmsg(_SECRET_BYTES + 1, size, socket.MSG_CMSG_CLOEXEC)
        fds = array.array("i")
        for level, kind, data in extra:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        secret, number = message[:_SECRET_BYTES], message[_SECRET_BYTES:]
        if secret == self._secret and len(fds) == 2 and number and number[0] not in found:
            found[number[0]] = Link(fds[0], fds[1], name=name)
        else:
            for fd in fds:
                os.close(fd)


def join(link: Link, name: str, secret: str, number: int) -> NoReturn:
    """Hand the descriptors of a link over at a meeting, tell its peer so, and wait until the meeting is over.

    Raises OSError, before the peer is told, if there is no meeting of that name on this machine, if it is somebody
    else's, or if its queue is full. Raises LinkError in the end: the connection was another agent's.
    """
    import array
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as there:
        there.settimeout(_WAIT_SECONDS)  # others may have filled the queue: whoever is on the machine may connect
        there.connect(_address(name))
        if not _is_ours(there):
            raise PermissionError(errno.EPERM, "the first connection's agent is another user's")
        fds = array.array("i", [link.source, link.sink])
        there.sendmsg([bytes.fromhex(secret), bytes([number])], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        link.send_json(protocol.DONE, answer=None)
        link.close()
        there.settimeout(None)
        there.recv(1)
    raise LinkError("the connection was another agent's")


def _address(name: str) -> str:
    return "\0sparsesync-" + name  # of no filesystem: it ends with the process


def _is_ours(peer: Any) -> bool:
    """Return whether the process at the other end of a socket is our own user's."""
    import socket

    _, uid, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return bool(uid == os.geteuid())
