"""The remote end's main loop: a :class:`~.host.LocalHost` served over a connection, until the client goes away.

The client starts this engine over ssh by sending it (see :mod:`sparsesync.hosts.loader`). It greets, tells
what it can do, and takes CALL frames. Each names an operation and its arguments. :data:`OPERATIONS` says what each
takes, which is checked, and how the host's answer goes over the wire: any number of ITEM and TROUBLE frames, then one
DONE or FAIL. ``receive`` and ``send`` turn the connection into a transfer (:mod:`transfer.receiver`,
:mod:`transfer.sender`) for as long as that takes. What an operation does is the host's; there is none here.

Whoever may log in may do all that his user may, as with rsync: the agent checks what it is told for sense, and
paths below a destination for leading out of it, but it is no guard against its own user. What may be used of a host is
for an :class:`~.access.Access` to say, which sees all arguments first.

All of the engine is here. What an operation needs is imported when it is asked for, and then compiled, if it has come
as source: half of it is never needed, and the client waits.
"""

import contextlib
import os
import sys
import warnings
from itertools import islice
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from .access import Access
from .errors import LinkError, ProtocolError
from .files.claims import HOLES
from .host import LocalHost
from .queries.registry import QUERIES, checked
from .roles import LocalDestination, Opening, SourceSettings
from .text import escape_name
from .transfer.records import SpaceNeed
from .wire import protocol
from .wire.capabilities import Digest, capabilities, choose_files
from .wire.fields import (
    NAME_RULES,
    PATH,
    PERMISSIONS,
    SIZE,
    anything,
    arguments,
    digits,
    flag,
    get,
    integer,
    listed,
    maybe,
    one_of,
    row,
    text,
)
from .wire.link import Link
from .wire.streams import Meeting, join

if TYPE_CHECKING:
    from .transfer.outgoing import OutgoingFile

_BATCH_ITEMS = 500

_HOLES = one_of(*HOLES)
_WORD = text(100)
_WINDOW = maybe(integer(-1 << 31, 1 << 31))
_SETTINGS = row(flag, flag, flag, flag, _HOLES, flag, flag, flag, _WINDOW)
"""A :class:`~.roles.SourceSettings`."""
_OPENING = row(
    flag, flag, flag, maybe(PERMISSIONS), *[flag] * 7, maybe(PATH), flag, flag, maybe(PATH), listed(PATH),
    integer(0, 1 << 31), _WINDOW, flag,
)  # fmt: skip
"""An :class:`~.roles.Opening`."""
_SPARSE = one_of("auto", "always")
_COPY_OPTIONS = row(
    one_of("content", "mode", "new-mode", "all"), flag, flag, one_of("auto", "always", "never"), _SPARSE, _HOLES,
    flag, flag, flag, flag,
)  # fmt: skip
"""A :class:`~.content.copy_file.CopyOptions`."""
_SCAN_OPTIONS = row(flag, flag, flag, SIZE, listed(PATH), flag, _HOLES, maybe(NAME_RULES))
"""A :class:`~.tree.scan.ScanOptions`."""


class Operation(NamedTuple):
    """The arguments that an operation ``takes``, and the function that does it.

    ``serve`` returns the content of the DONE frame, or None.
    """

    takes: Dict[str, Any]
    serve: Callable[..., Optional[Dict[str, Any]]]


class Agent:
    """The server of one connection, with what a transfer keeps between calls."""

    def __init__(self, link: Link, access: Optional[Access] = None) -> None:
        self.link = link
        self.access: Access = access or Access()
        self.host: LocalHost = LocalHost()
        only_new = self.access.only_new
        self.destination: LocalDestination = self.host.destination(resume=not only_new, only_new=only_new)
        self.held: contextlib.ExitStack = contextlib.ExitStack()
        """What lasts as long as the connection."""
        self.meeting: Meeting = self.held.enter_context(Meeting())

    def serve(self) -> None:
        """Greet the client, and answer until the connection ends.

        Raises ProtocolError if the client breaks the protocol.
        """
        self.link.write(protocol.MAGIC)
        ours = capabilities()
        told = {} if self.access.told is None else {"served": self.access.told}
        python = "%d.%d.%d" % sys.version_info[:3]
        self.link.send_json(protocol.HELLO, protocol=protocol.VERSION, python=python, **ours, **told)
        hello = self.link.read()
        if hello.kind != protocol.HELLO:
            raise ProtocolError("the client sent no greeting")
        value = hello.json()
        version = get(value, "protocol", integer(0, 1 << 31))
        if version != protocol.VERSION:
            raise ProtocolError("the client speaks version {} of the protocol".format(version))
        self.access.greeted(value)
        try:
            self.host = LocalHost(Digest(get(value, "digest", _WORD), bytes.fromhex(get(value, "salt", _WORD))))
        except (ImportError, KeyError, ValueError):
            raise ProtocolError("the client chose an unknown digest") from None
        self.link.files = choose_files(ours, value)
        self.link.timeout = get(value, "timeout", maybe(_is_timeout))
        if self.link.timeout:
            self.link.keep_alive(self.link.timeout / 3, working=True)
        while True:
            frame = self.link.read()
            if frame.kind != protocol.CALL:
                raise ProtocolError("an unexpected frame of kind {}".format(frame.kind))
            call = frame.json()
            name, given = get(call, "op", _WORD), get(call, "arguments", anything)
            if name not in OPERATIONS:
                raise ProtocolError("unknown operation {!r}".format(name))
            operation = OPERATIONS[name]
            try:
                result = operation.serve(self, **self.access.call(name, arguments(given, operation.takes)))
                if result is not None:
                    self.link.send_json(protocol.DONE, **result)
            except LinkError:
                raise
            except (OSError, ValueError, OverflowError) as error:
                self.link.fail(protocol.FAIL, error)

    def trouble(self, error: OSError) -> None:
        """Report the error of one file to the client, while an operation goes on."""
        self.link.fail(protocol.TROUBLE, error)


def _record(method: Callable[..., Any]) -> Callable[..., Dict[str, Any]]:
    """Serve a method that has one answer."""

    def serve(agent: Agent, **given: Any) -> Dict[str, Any]:
        return {"answer": method(agent, **given)}

    return serve


def _query(agent: Agent, query: str, arguments: Dict[str, Any]) -> Dict[str, Any]:
    given = agent.access.query(query, checked(query, arguments))
    if query == "run":
        given["given_up"] = agent.link.is_cut
    return {"answer": agent.host.query(query, **given)}


def _contents(agent: Agent, parts: List[Tuple[str, int, int]], full: bool) -> List[List[Any]]:
    return agent.host.contents(parts, full)


def _lock(agent: Agent, path: str, parents: bool) -> Dict[str, Any]:
    agent.held.enter_context(agent.host.locked(path, parents))
    return {"answer": None}


def _look(agent: Agent, files: List[Tuple[str, str]], settings: List[Any]) -> List[Any]:
    source = agent.host.source(SourceSettings(*settings))
    try:
        return list(source.look(files))
    finally:
        source.close()


def _mode(agent: Agent, path: str) -> Optional[int]:
    return agent.host.source(SourceSettings()).ask_mode(path)()


def _measure(agent: Agent, path: str, settings: List[Any]) -> Tuple[int, int]:
    source = agent.host.source(SourceSettings(*settings))
    try:
        return source.measure(path)
    finally:
        source.close()


def _extents(agent: Agent, path: str, name: str, settings: List[Any]) -> Dict[str, Any]:
    source = agent.host.source(SourceSettings(*settings))
    try:
        for batch in _batched(source.extents(path, name)):
            agent.link.send_json(protocol.ITEM, parts=batch)
    finally:
        source.close()
    return {}


def _scan(agent: Agent, path: str, options: List[Any], measured: bool, zeros: bool) -> Dict[str, Any]:
    from .tree.scan import ScanOptions

    found = agent.host.scan(path, ScanOptions(*options), measured=measured, zeros=zeros, on_error=agent.trouble)
    for file, data, count, empty in found:
        agent.link.send_json(
            protocol.ITEM, path=file.path, stat=list(file.st[:10]), size=file.size, allocated=file.allocated,
            data=data, extents=count, zeros=empty,
        )  # fmt: skip
    return {}


def _mapped(method: str) -> Callable[..., Dict[str, Any]]:
    """Serve a method that gives the size of a file, and parts of it."""

    def serve(agent: Agent, **given: Any) -> Dict[str, Any]:
        with getattr(agent.host, method)(**given) as (size, parts):
            agent.link.send_json(protocol.ITEM, size=size)
            for batch in _batched(parts):
                agent.link.send_json(protocol.ITEM, parts=batch)
        return {}

    return serve


def _batched(parts: Iterator[Any]) -> Iterator[List[Any]]:
    batch = list(islice(parts, _BATCH_ITEMS))
    while batch:
        yield batch
        batch = list(islice(parts, _BATCH_ITEMS))


def _manifest(
    agent: Agent, path: str, full: bool, holes: str, rules: Optional[List[Any]] = None, attributes: bool = False
) -> Dict[str, Any]:
    from .content.compare import Tally
    from .tree.manifest_wire import batches

    tally = Tally()
    for batch in batches(agent.host.manifest(path, full, holes, tally, rules, attributes)):
        if isinstance(batch, OSError):
            agent.trouble(batch)
        else:
            agent.link.send_json(protocol.ITEM, events=batch)
    return {"read": tally.read, "believed": tally.believed}


def _digests(agent: Agent, path: str, block: int, ranges: List[Tuple[str, int, int]]) -> Dict[str, Any]:
    for found in agent.host.digests(path, block, ranges, agent.trouble):
        agent.link.send_json(protocol.ITEM, digests=None if found is None else found.hex())
    return {}


def _open(agent: Agent, path: str, opening: List[Any]) -> Optional[str]:
    return agent.destination.open(path, Opening(*opening))


def _find(agent: Agent, path: str, opening: List[Any]) -> Optional[str]:
    return agent.destination.find(path, Opening(*opening))


def _open_copy(agent: Agent, path: str, name: str, options: List[Any]) -> str:
    from .content.copy_file import CopyOptions

    return agent.destination.open_copy(path, name, CopyOptions(*options))


def _expect(agent: Agent, needs: List[Tuple[str, int]]) -> None:
    agent.destination.expect(SpaceNeed(name, size, None) for name, size in needs)


def _receive(agent: Agent) -> None:
    from .transfer.receiver import Receiver

    Receiver(agent.link, agent.host.digest, agent.destination.place, lambda result: None).run()


def _send(
    agent: Agent,
    settings: List[Any],
    sparse: str,
    compressor: Optional[Tuple[str, Optional[int]]] = None,
    bwlimit: Optional[int] = None,
) -> None:
    from .transfer.sender import Sender
    from .wire.compression import Compressor
    from .wire.rate_limit import RateLimit

    agent.link.pace = RateLimit(bwlimit) if bwlimit else None
    squeeze = None if compressor is None else Compressor(compressor[0], compressor[1])
    source = agent.host.source(SourceSettings(*settings))

    def make(path: str, name: str) -> "OutgoingFile":
        return source.open(agent.access.wanted(path), name)

    try:
        reserve = source.settings.reserve
        Sender(agent.link, agent.host.digest, compressor=squeeze, sparse=sparse, reserve=reserve).send_wanted(make)
    finally:
        source.close()


OPERATIONS = {
    "query": Operation({"query": one_of(*QUERIES), "arguments": anything}, _query),
    "lock": Operation({"path": PATH, "parents": flag}, _lock),
    "meet": Operation({}, _record(lambda agent: agent.meeting.open())),
    "join": Operation(
        {"name": digits(16), "secret": digits(16), "number": integer(1, 255)},
        lambda agent, **given: join(agent.link, **given),
    ),
    "widen": Operation(
        {"numbers": listed(integer(1, 255))},
        _record(lambda agent, numbers: agent.meeting.widen(agent.link, numbers)),
    ),
    "contents": Operation({"parts": listed(row(PATH, SIZE, SIZE)), "full": flag}, _record(_contents)),
    "directory": Operation({}, _record(lambda agent: agent.host.directory())),
    "preset": Operation(
        {"preset": _WORD, "source": PATH}, _record(lambda agent, **given: agent.host.preset(**given))
    ),
    "scan": Operation(
        {"path": PATH, "options": _SCAN_OPTIONS, "measured": flag, "zeros": flag}, _scan
    ),
    "layers": Operation({"path": PATH, "holes": _HOLES}, _mapped("layers")),
    "checksums": Operation({"path": PATH, "block": integer(512, 1 << 30), "holes": _HOLES}, _mapped("checksums")),
    "manifest": Operation(
        {"path": PATH, "full": flag, "holes": _HOLES, "rules": maybe(NAME_RULES), "attributes": maybe(flag)}, _manifest
    ),
    "digests": Operation(
        {"path": PATH, "block": integer(1, 1 << 30), "ranges": listed(row(PATH, SIZE, SIZE))}, _digests
    ),
    "look": Operation({"files": listed(row(PATH, PATH)), "settings": _SETTINGS}, _record(_look)),
    "mode": Operation({"path": PATH}, _record(_mode)),
    "measure": Operation({"path": PATH, "settings": _SETTINGS}, _record(_measure)),
    "extents": Operation({"path": PATH, "name": PATH, "settings": _SETTINGS}, _extents),
    "send": Operation(
        {
            "settings": _SETTINGS, "sparse": _SPARSE,
            "compressor": maybe(row(one_of("zlib", "zstd"), maybe(integer(-1000, 1000)))),
            "bwlimit": maybe(integer(1, 1 << 62)),
        },
        _send,
    ),
    "find": Operation({"path": PATH, "opening": _OPENING}, _record(_find)),
    "open": Operation({"path": PATH, "opening": _OPENING}, _record(_open)),
    "open_copy": Operation(
        {"path": PATH, "name": PATH, "options": _COPY_OPTIONS}, _record(_open_copy)
    ),
    "expect": Operation({"needs": listed(row(PATH, SIZE))}, _record(_expect)),
    "space": Operation({}, _record(lambda agent: agent.destination.space())),
    "touch": Operation({"names": listed(PATH)}, _record(lambda agent, names: agent.destination.touch(names))),
    "states": Operation({"names": listed(PATH)}, _record(lambda agent, names: list(agent.destination.states(names)))),
    "dig": Operation(
        {"name": PATH, "size": SIZE, "holes": listed(row(SIZE, SIZE)), "asks": flag},
        _record(lambda agent, **given: agent.destination.dig(**given)),
    ),
    "receive": Operation({}, _receive),
}  # type: Dict[str, Operation]  # fmt: skip
"""The operations."""


def _is_timeout(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < 1e6


def _show_warning(message: Any, *rest: Any, **more: Any) -> None:
    sys.stderr.write("sparsesync: {}\n".format(escape_name(str(message))))


def main() -> int:
    """Serve on standard input and output, and return the exit status. Errors go to standard error."""
    return serve(Access())


def serve(access: Access, line: bool = False) -> int:
    """Serve what ``access`` is to, as :func:`main`. ``line``: the client sends a line first, which is thrown away."""
    source, sink = os.dup(0), os.dup(1)
    # Whatever prints from here on must not end up between frames.
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    link = Link(source, sink, name="the client", line=line)
    warnings.showwarning = _show_warning
    try:
        Agent(link, access).serve()
    except LinkError as error:
        if not error.retryable:
            sys.stderr.write("sparsesync agent: {}\n".format(escape_name(str(error))))
            return 1
        # The client has gone: it is done, or it was ended in the middle of a word.
    return 0
