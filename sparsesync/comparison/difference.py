"""What a comparison finds: the one type that both ways to compare have in common."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Optional

Kind = Literal["content", "missing", "extra", "type", "link", "device", "mode", "owner"]
"""In what two names differ."""


class Difference(NamedTuple):
    """One difference between A and B.

    ``path``: relative to the roots, and empty for the roots themselves.
    ``kind``: "content", "missing" (in B), "extra" (in B), "type", "link" (another symlink target) or "device" (another
    device number); where attributes are compared also "mode", and "owner" (another owner or group).
    ``offset``: that of the first byte that differs, for "content".
    """

    path: str
    kind: Kind
    offset: Optional[int] = None

    def asdict(self) -> dict[str, Any]:
        """Return the fields by name, for JSON."""
        return self._asdict()


def of_attributes(path: str, a: tuple[int, int, int], b: tuple[int, int, int]) -> Iterator[Difference]:
    """Yield the differences of two files in mode, owner and group."""
    if a[0] != b[0]:
        yield Difference(path, "mode")
    if a[1:] != b[1:]:
        yield Difference(path, "owner")
