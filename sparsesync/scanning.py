"""What the public ``scan`` does: :func:`engine.tree.scan.scan`, and the same on another host."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from typing import Any

from .engine.errors import OnError
from .engine.tree import scan as here
from .engine.tree.scan import Sparse
from .hosts.base import PathLike
from .hosts.pool import HostPool, is_remote


def scan(
    path: PathLike,
    *,
    one_file_system: bool = False,
    every_link: bool = False,
    every_file: bool = False,
    min_size: int = 0,
    prune: Collection[str] = (),
    follow: bool = False,
    holes: str = "auto",
    on_error: OnError = None,
    rsh: str | None = None,
    python: str | None = None,
) -> Iterator[Sparse]:
    """Yield as :func:`sparsesync.api.scan`."""
    options: dict[str, Any] = {
        "one_file_system": one_file_system, "every_link": every_link, "every_file": every_file,
        "min_size": min_size, "follow": follow, "holes": holes, "on_error": on_error,
    }  # fmt: skip
    if is_remote(path):
        return _scan_there(path, prune, rsh, python, options)
    return here.scan(os.fspath(path), prune=prune, **options)


def _scan_there(
    path: PathLike, prune: Collection[str], rsh: str | None, python: str | None, options: dict[str, Any]
) -> Iterator[Sparse]:
    with HostPool(rsh, python) as hosts:
        host, below, prefix = hosts.locate(path)
        pruned = [name[len(prefix) :] for name in prune if name.startswith(prefix)]
        for found in host.scan(below, prune=pruned, **options):
            yield found.file._replace(path=prefix + found.file.path)
