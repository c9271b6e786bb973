"""What a comparison finds: the one type that both ways to compare have in common."""

from typing import Any, Literal, NamedTuple, Optional

Kind = Literal["content", "missing", "extra", "type", "link", "device"]
"""In what two names differ."""


class Difference(NamedTuple):
    """One difference between A and B.

    ``path``: relative to the roots, and empty for the roots themselves.
    ``kind``: "content", "missing" (in B), "extra" (in B), "type", "link" (another symlink target) or "device" (another
    device number).
    ``offset``: that of the first byte that differs, for "content".
    """

    path: str
    kind: Kind
    offset: Optional[int] = None

    def asdict(self) -> dict[str, Any]:
        """Return the fields by name, for JSON."""
        return self._asdict()
