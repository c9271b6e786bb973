"""What a comparison finds: the one type that both ways to compare have in common."""

from typing import NamedTuple, Optional


class Difference(NamedTuple):
    """One thing that is not the same in A and B.

    ``path`` is relative to the roots, and empty for the roots themselves. ``kind``
    is ``"content"`` (then ``offset`` is that of the first byte that differs), ``"missing"`` (in B),
    ``"extra"`` (in B), ``"type"``, ``"link"`` (another symlink target) or ``"device"``
    (another device number).
    """

    path: str
    kind: str
    offset: Optional[int] = None
