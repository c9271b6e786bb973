"""What a comparison finds: the one type that both ways to compare have in common."""

from typing import NamedTuple, Optional


class Difference(NamedTuple):
    """One difference between A and B.

    ``path``: relative to the roots, and empty for the roots themselves.
    ``kind``: "content", "missing" (in B), "extra" (in B), "type", "link" (another symlink target) or "device" (another
    device number).
    ``offset``: that of the first byte that differs, for "content".
    """

    path: str
    kind: str
    offset: Optional[int] = None
