"""What of a host the client of an agent may use, and where the paths that it names are.

:class:`Access` is the whole of it: the client is the agent's own user, and a leading ``~`` is his home, as the shell
has it for rsync. Where a key is for one directory only, sparsesync.serving has a narrower one; it is no part of the
engine, since it is never sent anywhere.
"""

from typing import Any, Dict, Optional

from .files.status import home


class Access:
    """Access to all of a host.

    ``told``: what the agent's greeting tells of a narrower one.
    ``only_new``: files are made, and none that is there is replaced or written to.
    """

    told: Optional[Dict[str, Any]] = None
    only_new = False

    def greeted(self, hello: Dict[str, Any]) -> None:
        """Take notice of the client's greeting. Raises ProtocolError for a client that cannot be served."""

    def call(self, operation: str, given: Dict[str, Any]) -> Dict[str, Any]:
        """Return the checked arguments of an operation as it is to use them. Raises OSError if it may not."""
        if "path" in given:
            given["path"] = home(given["path"])
        for rows in ("files", "parts"):
            if rows in given:
                given[rows] = [[home(path), *rest] for path, *rest in given[rows]]
        return given

    def query(self, query: str, given: Dict[str, Any]) -> Dict[str, Any]:
        """Return the checked arguments of a query, as :meth:`call`."""
        for name in ("source", "path"):
            if name in given:
                given[name] = home(given[name])
        return given

    def wanted(self, path: str) -> str:
        """Return the path of a file that a transfer wants, as :meth:`call`."""
        return home(path)
