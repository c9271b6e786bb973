"""sparsesync: sparse files cost what their data costs.

The public API. The functions are in :mod:`api`, the classes where they are made. All are imported when they are first
used, so that ``import sparsesync`` and the start of the program cost nearly nothing.
"""

__version__ = "0.2.0"

# Known to type checkers by its name. To import it from typing takes as long as to start Python.
TYPE_CHECKING = False

_PUBLIC = {
    "copyfile": "api.copying",
    "copy": "api.copying",
    "copy2": "api.copying",
    "copytree": "api.directories",
    "dig": "api.mapping",
    "equal": "api.trees",
    "exclude_patterns": "api.trees",
    "extents": "api.mapping",
    "is_sparse": "api.mapping",
    "map": "api.mapping",
    "migrate": "api.migrations",
    "move": "api.directories",
    "punch": "api.mapping",
    "scan": "api.trees",
    "sync": "api.transfers",
    "verify": "api.trees",
    "Error": "engine.errors",
    "Difference": "comparison.difference",
    "LinkError": "engine.errors",
    "MigrationError": "migration.called.result",
    "MigrationResult": "migration.called.result",
    "NoSpaceError": "engine.errors",
    "RsyncTooOldError": "rsync.program",
    "Seeded": "seeding.result",
    "Segment": "engine.files.extents",
    "Session": "api.session",
    "Sparse": "engine.tree.scan",
    "SyncResult": "seeding.result",
    "SyncCancelledError": "seeding.result",
    "SyncTimeoutError": "seeding.result",
    "RsyncError": "seeding.result",
    "Done": "seeding.embedded",
    "Tally": "engine.content.compare",
    "TruncatedError": "engine.errors",
}
"""Each public name, and the module it is in."""

_KINDS = {
    "LoginError": "engine.errors",
    "MigrationCancelledError": "migration.called.result",
    "MigrationTimeoutError": "migration.called.result",
    "NoAgentError": "embedding",
    "ProtocolError": "engine.errors",
    "Stopped": "embedding",
}
"""Kinds of public exceptions, which are not public, but found by their names by what makes them again, as pickle."""

if TYPE_CHECKING:
    from .api.copying import copy, copy2, copyfile
    from .api.directories import copytree, move
    from .api.mapping import dig, extents, is_sparse, map, punch
    from .api.migrations import migrate
    from .api.session import Session
    from .api.transfers import sync
    from .api.trees import equal, exclude_patterns, scan, verify
    from .comparison.difference import Difference
    from .engine.content.compare import Tally
    from .engine.errors import Error, LinkError, NoSpaceError, TruncatedError
    from .engine.files.extents import Segment
    from .engine.tree.scan import Sparse
    from .migration.called.result import MigrationError, MigrationResult
    from .rsync.program import RsyncTooOldError
    from .seeding.embedded import Done
    from .seeding.result import RsyncError, Seeded, SyncCancelledError, SyncResult, SyncTimeoutError

__all__ = [
    "Difference",
    "Done",
    "Error",
    "LinkError",
    "MigrationError",
    "MigrationResult",
    "NoSpaceError",
    "RsyncError",
    "RsyncTooOldError",
    "SyncCancelledError",
    "SyncTimeoutError",
    "TruncatedError",
    "Seeded",
    "Segment",
    "Session",
    "Sparse",
    "SyncResult",
    "Tally",
    "__version__",
    "copy",
    "copy2",
    "copyfile",
    "copytree",
    "dig",
    "equal",
    "exclude_patterns",
    "extents",
    "is_sparse",
    "map",
    "migrate",
    "move",
    "punch",
    "scan",
    "sync",
    "verify",
]


if not TYPE_CHECKING:  # with it a type checker would take any name for a public one

    def __getattr__(name: str) -> object:
        module = _PUBLIC.get(name) or _KINDS.get(name)
        if module is not None:
            from importlib import import_module

            value = getattr(import_module("." + module, __name__), name)
            globals()[name] = value
            return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
