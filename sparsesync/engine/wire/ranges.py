"""Arithmetic with the ranges of a file: lists of (offset, length) in bytes, ascending, none empty, none over another.

Cut at the blocks that digests are taken of (:func:`blocks`); put together again where they touch (:func:`merged`); and
what is left of them without some of their parts (:func:`without`).
"""

from typing import Iterator, List

from .protocol import Range


def blocks(ranges: List[Range], block: int) -> Iterator[Range]:
    """Yield the ranges, cut at every multiple of ``block`` bytes."""
    for offset, length in ranges:
        end = offset + length
        while offset < end:
            count = min(block - offset % block, end - offset)
            yield offset, count
            offset += count


def merged(ranges: List[Range]) -> List[Range]:
    """Return ascending ranges with neighbours merged."""
    merged: List[Range] = []
    for offset, length in ranges:
        if merged and merged[-1][0] + merged[-1][1] == offset:
            merged[-1] = (merged[-1][0], merged[-1][1] + length)
        else:
            merged.append((offset, length))
    return merged


def without(ranges: List[Range], same: List[Range]) -> List[Range]:
    """Return merged ranges without ``same``, merged ranges each of which lies inside one of them."""
    left: List[Range] = []
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
