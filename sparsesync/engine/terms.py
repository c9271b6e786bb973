"""What the two ends of a transfer have agreed on before they meet.

How large the blocks are whose digests are compared, and how much of a digest is sent; how much may be under way, so
that each end knows what the other may send without being asked again; and what became of a file. The sender
(:mod:`send`) and the receiver (:mod:`receive`) both hold the other to it.
"""

from typing import Any, Dict, Iterator, List

from .extents import Extent
from .place import Result
from .protocol import ProtocolError, get

BLOCK = 64 * 1024
"""The block that digests are compared by first, and that the guard is made of."""

FINE = 4096
"""The block that is compared where a BLOCK differs: the filesystems' own."""

_DIGEST_SIZE = {BLOCK: 16, FINE: 8}

FILES_AHEAD = 1024
"""The most files that are announced and not yet closed."""

WANTS_AHEAD = 2048
"""From how many files that are asked for and not yet announced no more are asked for."""

WANTS = 64
"""The most files in one WANT frame."""

LONGEST_NAME = 4096
"""The longest name of a file that any engine sends: PATH_MAX, in characters."""


def digest_size(block: int) -> int:
    """How many bytes of a block's digest are sent. Raises ProtocolError for a block that is not compared."""
    if block not in _DIGEST_SIZE:
        raise ProtocolError("digests of blocks of {} bytes are asked for".format(block))
    return _DIGEST_SIZE[block]


def blocks(ranges: List[Extent], block: int) -> Iterator[Extent]:
    """Ranges cut at every multiple of ``block``."""
    for offset, length in ranges:
        end = offset + length
        while offset < end:
            count = min(block - offset % block, end - offset)
            yield offset, count
            offset += count


def merged(ranges: List[Extent]) -> List[Extent]:
    """Ascending ranges, neighbours as one."""
    merged: List[Extent] = []
    for offset, length in ranges:
        if merged and merged[-1][0] + merged[-1][1] == offset:
            merged[-1] = (merged[-1][0], merged[-1][1] + length)
        else:
            merged.append((offset, length))
    return merged


def without(ranges: List[Extent], same: List[Extent]) -> List[Extent]:
    """Merged ranges less merged ones, each of which lies inside one of them."""
    left: List[Extent] = []
    cuts = iter(same)
    cut = next(cuts, None)
    for offset, length in ranges:
        end = offset + length
        while cut is not None and cut[0] < end:
            if cut[0] > offset:
                left.append((offset, cut[0] - offset))
            offset = cut[0] + cut[1]
            cut = next(cuts, None)
        if offset < end:
            left.append((offset, end - offset))
    return left


def read_result(value: Dict[str, Any], name: str, size: int) -> Result:
    """The result that a CLOSED frame carries."""
    space = get(value, "no_space", list, optional=True)
    if space is not None and [type(number) for number in space] != [int, int]:
        raise ProtocolError("a control frame has no proper 'no_space'")
    return Result(
        name,
        size,
        get(value, "data", int),
        get(value, "sent", int),
        get(value, "left", str, optional=True),
        None if space is None else (space[0], space[1]),
        get(value, "errno", int, optional=True),
        bool(get(value, "at_source", bool, optional=True)),
    )
