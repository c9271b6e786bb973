"""What the two ends of a transfer have agreed on before they meet.

How small the blocks are whose digests are compared at last, and how much of a digest is sent; how much may be under
way, so that each end knows what the other may send without being asked again; and what became of a file. The sender
(:mod:`sender`) and the receiver (:mod:`receiver`) both hold the other to it.
"""

from typing import Any, Dict, Sequence

from ..errors import ProtocolError
from ..wire.fields import ERRNO, SIZE, TEXT, TIME, UNSIGNED, Check, flag, get, maybe, row
from ..wire.protocol import BLOCK_BYTES, CONTROL_BYTES
from .records import FileResult

FINE_BYTES = 4096
"""The block that is compared where a BLOCK_BYTES differs: the filesystems' own."""

JOB_BYTES = 1 << 20
"""The most bytes of extents in one job, which are sent before any of the next: :mod:`jobs`."""

JOB_RANGES = 256
"""The most extents in one job, and half of the most gaps."""

_DIGEST_SIZE = {BLOCK_BYTES: 16, FINE_BYTES: 8}

FILES_AHEAD = 1024
"""The most files that are announced and not yet closed."""

ANNOUNCED_BYTES = 2 * CONTROL_BYTES
"""The most bytes of their FILE frames. The sender announces no more while over half of it is taken."""

WANTS_AHEAD = 2048
"""From how many files that are asked for and not yet announced no more are asked for."""

MAX_WANTS = 64
"""The most files in one WANT frame."""

WANTED_BYTES = 1 << 20
"""From how many characters in the names of those files no more are asked for."""

MAX_WANTED_BYTES = 5 * WANTED_BYTES
"""The most there may be: an end without a locale takes each byte for a character."""

IDENTITY: Check = row(UNSIGNED, SIZE, TIME, TIME)
"""A :class:`~.files.status.Identity`."""


def is_known(value: Any) -> bool:
    """Return whether a value is an identity, or none of its numbers."""
    return value == [] or IDENTITY(value)


_REASONS = 1 << 20


def pack_known(known: Sequence[int]) -> bytes:
    """Return the part of the guard that stands for what is not read: the identity of the file that has it."""
    return repr(tuple(known)).encode()


def digest_size(block: int) -> int:
    """Return the bytes that are sent of a block's digest. Raises ProtocolError for an unsupported block size."""
    if block not in _DIGEST_SIZE:
        raise ProtocolError("an invalid block size, {} bytes".format(block))
    return _DIGEST_SIZE[block]


class Reasons:
    """The peer's reasons for files that are left, limited to 1 Mi characters in all, since results are kept."""

    def __init__(self) -> None:
        self._room = _REASONS

    def keep(self, reason: str) -> str:
        """Return ``reason``, or a note that it was not kept once the limit is reached."""
        self._room -= len(reason)
        return reason if self._room >= 0 else "the other end says why, and has said too much to keep all of it"


def read_result(value: Dict[str, Any], name: str, size: int, reasons: Reasons) -> FileResult:
    """Return the result that a CLOSED frame carries."""
    space = get(value, "space", maybe(row(SIZE, SIZE)))
    reason = get(value, "reason", maybe(TEXT))
    return FileResult(
        name,
        size,
        get(value, "data", SIZE),
        get(value, "sent", SIZE),
        None if reason is None else reasons.keep(reason),
        None if space is None else (space[0], space[1]),
        get(value, "errno", maybe(ERRNO)),
        get(value, "at_source", flag),
        get(value, "allocated", SIZE),
        get(value, "refusal", maybe(TEXT)),
        get(value, "there", maybe(IDENTITY)),
    )
