"""The far end's main loop: operations by name, until the client goes away.

The client starts this engine over ssh by sending it its sources (see :mod:`sparsesync.hosts.ssh`). It greets, tells
what it can do, and takes CALL frames. Each names an operation, one of the ``_op_`` methods of :class:`Agent`, and its
arguments, which :data:`ARGUMENTS` checks; the answer is any number of ITEM and TROUBLE frames and one DONE or FAIL.
``receive`` and ``send`` turn the connection into a transfer (:mod:`transfer.receiver`, :mod:`transfer.sender`) for as
long as that takes.

Whoever may log in may do all that his user may, as with rsync: the agent checks what it is told for sense, and
paths below a destination for leading out of it, but it is no guard against its own user.
"""

import os
import sys
import warnings
from itertools import islice
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from .content.compare import Tally
from .content.copy_file import open_source
from .errors import LinkError, ProtocolError, blame
from .files.beneath import Sources, look_at
from .files.claims import HOLES, file_size
from .files.extents import layers
from .files.status import at, home, measure
from .queries.presets import preset_patterns
from .queries.registry import QUESTIONS, ask, checked
from .text import printable
from .transfer.copy_destination import CopyPlace
from .transfer.destination import Place
from .transfer.outgoing import Outgoing, outgoing
from .transfer.receiver import Receiver
from .transfer.records import Need
from .transfer.sender import Sender
from .tree.block_map import checksums
from .tree.manifest import contents, digests, manifest
from .tree.manifest_wire import batches
from .tree.scan import scan
from .wire import protocol
from .wire.capabilities import Compressor, Digest, capabilities, choose_files
from .wire.fields import (
    MODE,
    PATH,
    PERMISSIONS,
    SIZE,
    anything,
    arguments,
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
from .wire.rate_limit import Pace

_BATCH = 500

_HOLES = one_of(*HOLES)
_BLOCK = integer(512, 1 << 30)
_WORD = text(100)
_SCAN = {
    "path": PATH, "measured": flag, "holes": _HOLES, "one_file_system": maybe(flag), "every_link": maybe(flag),
    "every_file": maybe(flag), "min_size": maybe(SIZE), "prune": maybe(listed(PATH)), "follow": maybe(flag),
}  # fmt: skip
_PLACE = {
    "path": PATH, "single": maybe(PATH), "make": maybe(MODE), "like": maybe(PERMISSIONS),
    "mkpath": maybe(flag), "inplace": maybe(flag),
    "perms": maybe(flag), "group": maybe(flag), "implied_dirs": maybe(flag), "backup": maybe(flag),
    "fsync": maybe(flag), "partial_dir": maybe(PATH), "resume": maybe(flag), "preallocate": maybe(flag),
}  # fmt: skip
_SEND = {
    "follow": flag, "listed": flag, "sparse": one_of("auto", "always"),
    "compressor": maybe(row(one_of("zlib", "zstd"), maybe(integer(-1000, 1000)))),
    "bwlimit": maybe(integer(1, 1 << 62)), "with_attributes": flag, "live": flag, "holes": _HOLES, "reserve": flag,
}  # fmt: skip
ARGUMENTS = {
    "ask": {"question": one_of(*QUESTIONS), "arguments": anything},
    "lock": {"path": PATH, "parents": flag},
    "contents": {"parts": listed(row(PATH, SIZE, SIZE)), "full": flag},
    "stat": {"path": PATH},
    "look": {
        "files": listed(row(PATH, PATH)), "follow": flag, "listed": flag, "holes": _HOLES, "reserved": flag,
    },
    "scan": _SCAN,
    "layers": {"path": PATH, "holes": _HOLES},
    "checksums": {"path": PATH, "block": _BLOCK, "holes": _HOLES},
    "preset": {"preset": _WORD, "sources": listed(PATH)},
    "directory": {},
    "manifest": {"path": PATH, "full": flag, "holes": _HOLES},
    "digests": {"path": PATH, "block": integer(1, 1 << 30), "ranges": listed(row(PATH, SIZE, SIZE))},
    "place": _PLACE,
    "copy_place": {
        "path": PATH, "name": PATH, "into": flag, "keep": one_of("content", "mode", "all"), "inplace": flag,
        "fsync": maybe(flag), "preallocate": maybe(flag),
    },
    "measure": {"path": PATH, "holes": _HOLES, "reserve": flag},
    "expect": {"needs": listed(row(PATH, SIZE))},
    "space": {},
    "touch": {"names": listed(PATH)},
    "states": {"names": listed(PATH)},
    "receive": {},
    "send": _SEND,
}  # type: Dict[str, Dict[str, Any]]  # fmt: skip
"""The operations, and what each takes."""


class Agent:
    """Serves one connection. What a transfer needs between calls is kept here."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.place: Optional[Place] = None
        self._lock = -1

    def serve(self) -> None:
        """Greet, and answer until the connection ends. Raises ProtocolError if the client makes no sense."""
        self.link.write(protocol.MAGIC)
        ours = capabilities()
        self.link.send_json(
            protocol.HELLO, protocol=protocol.VERSION, python="%d.%d.%d" % sys.version_info[:3], **ours
        )
        hello = self.link.read()
        if hello.kind != protocol.HELLO:
            raise ProtocolError("the client does not say hello")
        value = hello.json()
        version = get(value, "protocol", integer(0, 1 << 31))
        if version != protocol.VERSION:
            raise ProtocolError("the client speaks version {} of the protocol".format(version))
        try:
            self.digest = Digest(get(value, "digest", _WORD), bytes.fromhex(get(value, "salt", _WORD)))
        except (ImportError, KeyError, ValueError):
            raise ProtocolError("the client chose a digest that is not to be had") from None
        self.link.files = choose_files(ours, value)
        self.link.timeout = get(value, "timeout", maybe(_is_timeout))
        if self.link.timeout:
            self.link.keep_alive(self.link.timeout / 3, working=True)
        while True:
            frame = self.link.read()
            if frame.kind != protocol.CALL:
                raise ProtocolError("a frame of kind {} came out of turn".format(frame.kind))
            call = frame.json()
            name, given = get(call, "op", _WORD), get(call, "arguments", anything)
            if name not in ARGUMENTS:
                raise ProtocolError("there is no operation {!r}".format(name))
            try:
                result = getattr(self, "_op_" + name)(**arguments(given, ARGUMENTS[name]))
                if result is not None:
                    self.link.send_json(protocol.DONE, **result)
            except LinkError:
                raise
            except (OSError, ValueError, OverflowError) as error:
                self.link.fail(protocol.FAIL, error)

    def _trouble(self, error: OSError) -> None:
        self.link.fail(protocol.TROUBLE, error)

    def _op_ask(self, question: str, arguments: Dict[str, Any]) -> Dict[str, Any]:
        """A question of :mod:`queries.registry`."""
        given = checked(question, arguments)
        for name in ("source", "path"):
            if name in given:
                given[name] = home(given[name])
        if question == "run":
            given["given_up"] = self.link.is_cut
        return {"answer": ask(question, **given)}

    def _op_lock(self, path: str, parents: bool) -> Dict[str, Any]:
        """Take the lock of a destination, for as long as the connection lasts."""
        from .queries.probe import lock

        self._lock = lock(home(path), make=True, parents=parents)
        return {}

    def _op_contents(self, parts: List[Tuple[str, int, int]], full: bool) -> Dict[str, Any]:
        """Digests of the content of parts of files."""
        return {"digests": [contents(home(path), offset, length, self.digest, full) for path, offset, length in parts]}

    def _op_stat(self, path: str) -> Dict[str, Any]:
        mode, exists = at(home(path))
        return {"mode": mode, "exists": exists}

    def _op_look(
        self, files: List[Tuple[str, str]], follow: bool, listed: bool, holes: str, reserved: bool
    ) -> Dict[str, Any]:
        with Sources(follow, listed) as sources:
            found = look_at([(home(path), name) for path, name in files], sources, holes, reserved)
            return {"found": list(found)}

    def _op_scan(self, path: str, measured: bool, holes: str, **options: Any) -> Dict[str, Any]:
        for file in scan(path, parallel=True, holes=holes, on_error=self._trouble, **options):
            data = count = 0
            if measured:
                try:
                    data, count = measure(file.path, holes)
                except OSError as error:
                    self._trouble(error)
                    continue
            self.link.send_json(
                protocol.ITEM, path=file.path, stat=list(file.st[:10]), size=file.size, allocated=file.allocated,
                data=data, extents=count,
            )  # fmt: skip
        return {}

    def _op_layers(self, path: str, holes: str) -> Dict[str, Any]:
        """The size of a file, its extents and what is reserved."""
        return self._mapped(path, lambda fd, start, size: layers(fd, start, size, holes))

    def _op_checksums(self, path: str, block: int, holes: str) -> Dict[str, Any]:
        """The size of a file, and what a block map lists."""
        return self._mapped(path, lambda fd, start, size: checksums(fd, size, block, holes))

    def _mapped(self, path: str, parts: Callable[[int, int, int], Iterator[Any]]) -> Dict[str, Any]:
        fd = open_source(path)
        try:
            with blame(path):
                size = file_size(fd)
                self.link.send_json(protocol.ITEM, size=size)
                rest = parts(fd, 0, size)
                batch = list(islice(rest, _BATCH))
                while batch:
                    self.link.send_json(protocol.ITEM, parts=batch)
                    batch = list(islice(rest, _BATCH))
        finally:
            os.close(fd)
        return {}

    def _op_preset(self, preset: str, sources: List[str]) -> Dict[str, Any]:
        return {"places": list(preset_patterns(preset, sources))}

    def _op_directory(self) -> Dict[str, Any]:
        """What relative paths are relative to."""
        return {"path": os.getcwd()}

    def _op_manifest(self, path: str, full: bool, holes: str) -> Dict[str, Any]:
        tally = Tally()
        for batch in batches(manifest(path, self.digest, full, holes, tally)):
            if isinstance(batch, OSError):
                self._trouble(batch)
            else:
                self.link.send_json(protocol.ITEM, events=batch)
        return {"read": tally.read, "believed": tally.believed}

    def _op_digests(self, path: str, block: int, ranges: List[Tuple[str, int, int]]) -> Dict[str, Any]:
        """Digests of ranges of files below a root: an item for each, None for a file in trouble."""
        for name, offset, length in ranges:
            found = None  # type: Optional[str]
            try:
                found = digests(path, name, offset, length, block, self.digest).hex()
            except OSError as error:
                self._trouble(error)
            self.link.send_json(protocol.ITEM, digests=found)
        return {}

    def _op_place(self, path: str, **options: Any) -> Dict[str, Any]:
        """Open the destination of a transfer."""
        self._leave_place()
        self.place = Place(home(path), **options)
        return {}

    def _leave_place(self) -> None:
        if self.place is not None:
            self.place.close()
            self.place = None

    def _at(self) -> Place:
        if self.place is None:
            raise ProtocolError("there is no destination yet")
        return self.place

    def _op_copy_place(self, path: str, **options: Any) -> Dict[str, Any]:
        """Open the destination of a copy."""
        self._leave_place()
        self.place = place = CopyPlace(home(path), resume=True, **options)
        return {"path": place.file}

    def _op_measure(self, path: str, holes: str, reserve: bool) -> Dict[str, Any]:
        spec = outgoing(home(path), "", Sources(follow=True), holes=holes, reserve=reserve).spec
        return {"size": spec.size, "data": spec.data}

    def _op_expect(self, needs: List[Tuple[str, int]]) -> Dict[str, Any]:
        self._at().expect(Need(name, size, None) for name, size in needs)
        return {}

    def _op_space(self) -> Dict[str, Any]:
        return {"space": self._at().space()}

    def _op_touch(self, names: List[str]) -> Dict[str, Any]:
        self._at().touch(names)
        return {}

    def _op_states(self, names: List[str]) -> Dict[str, Any]:
        return {"states": list(self._at().states(names))}

    def _op_receive(self) -> None:
        Receiver(self.link, self.digest, self._at(), lambda result: None).run()

    def _op_send(
        self,
        follow: bool,
        listed: bool,
        sparse: str,
        with_attributes: bool,
        live: bool,
        holes: str,
        reserve: bool,
        compressor: Optional[Tuple[str, Optional[int]]] = None,
        bwlimit: Optional[int] = None,
    ) -> None:
        self.link.pace = Pace(bwlimit) if bwlimit else None
        squeeze = None if compressor is None else Compressor(compressor[0], compressor[1])

        def make(path: str, name: str) -> Outgoing:
            return outgoing(
                home(path), name, sources, with_attributes=with_attributes, live=live, holes=holes, reserve=reserve
            )

        with Sources(follow, listed) as sources:
            Sender(self.link, self.digest, compressor=squeeze, sparse=sparse, reserve=reserve).send_wanted(make)


def _is_timeout(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < 1e6


def _show_warning(message: Any, *rest: Any, **more: Any) -> None:
    sys.stderr.write("sparsesync: {}\n".format(printable(str(message))))


def main() -> int:
    """Serve on standard input and output; returns the exit status. Says what is wrong on standard error."""
    source, sink = os.dup(0), os.dup(1)
    # Whatever prints from here on must not end up between frames.
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    link = Link(source, sink, name="the client")
    warnings.showwarning = _show_warning
    try:
        Agent(link).serve()
    except ProtocolError as error:
        sys.stderr.write("sparsesync agent: {}\n".format(printable(str(error))))
        return 1
    except LinkError:
        return 0  # the client has gone, as it does when it is done
    return 0

