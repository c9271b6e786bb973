"""Sizes as people write and read them, in IEC units: 1 KiB is 1024 bytes."""

from __future__ import annotations

import re

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
# Few commands are given a size: re compiles it when it is first used, and keeps it.
_SIZE = r"(\d+(?:\.\d+)?|\.\d+)\s*(?:([KMGTPE])(?:i?B)?|B)?"


def iec(size: int, digits: int = 0) -> str:
    """Return a size in bytes for people: whole up to MiB, with one decimal from GiB up.

    ``digits``: how many there are instead, with decimals only where they say something.
    """
    value, unit = float(size), 0
    while abs(value) >= 1024 and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    if digits:
        return f"{value:.{digits}g} {_UNITS[unit]}"
    # 1023.96 GiB must not be shown as 1024.0 GiB.
    if round(abs(value), 1 if unit >= 3 else 0) >= 1024 and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    return f"{value:.1f} {_UNITS[unit]}" if unit >= 3 else f"{value:.0f} {_UNITS[unit]}"


def parse_size(text: str) -> int:
    """Return the bytes of a size such as ``4096``, ``64K``, ``1.5MiB``, ``10G``. All units are powers of 1024.

    Raises ValueError for anything else.
    """
    match = re.fullmatch(_SIZE, text.strip(), re.IGNORECASE)
    if match is None:
        raise ValueError(f"{text!r} is not a size; write for instance 4096, 64K, 1.5M or 10G")
    letter = (match[2] or "").upper()
    return int(float(match[1]) * 1024 ** ("KMGTPE".index(letter) + 1 if letter else 0))
