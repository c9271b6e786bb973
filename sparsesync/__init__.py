"""sparsesync: sparse files cost what their data costs.

The public API. Everything here is defined in a room below and imported when it is first
used, so that ``import sparsesync`` and the start of the program cost nearly nothing::

    copyfile, copy, copy2      shutil's functions, with holes    hosts/copies.py
    scan                       find sparse files                 scanning.py
    Sparse                     a file that was found             engine/tree/scan.py
    extents                    where the data of a file is       engine/files/extents.py
    verify, Difference         compare files and trees           comparison/direct.py
    Tally                      what was read for that            engine/content/compare.py
    exclude_patterns           exclude files for rsync           exclude.py
    sync, SyncResult           seed, then run rsync              seeding/run.py
    NoSpaceError               engine/errors.py
    TruncatedError             engine/errors.py
    RsyncTooOldError           seeding/run.py
    LinkError                  engine/errors.py
"""

__version__ = "0.1.0"

# Known to type checkers by its name. To import it from typing takes as long as to start Python.
TYPE_CHECKING = False

_ROOMS = {
    "copyfile": "hosts.copies",
    "copy": "hosts.copies",
    "copy2": "hosts.copies",
    "TruncatedError": "engine.errors",
    "NoSpaceError": "engine.errors",
    "LinkError": "engine.errors",
    "extents": "engine.files.extents",
    "scan": "scanning",
    "Sparse": "engine.tree.scan",
    "verify": "comparison.direct",
    "Difference": "comparison.direct",
    "Tally": "engine.content.compare",
    "exclude_patterns": "exclude",
    "sync": "seeding.run",
    "SyncResult": "seeding.run",
    "RsyncTooOldError": "seeding.run",
}

if TYPE_CHECKING:
    from .comparison.direct import Difference, verify
    from .engine.content.compare import Tally
    from .engine.errors import LinkError, NoSpaceError, TruncatedError
    from .engine.files.extents import extents
    from .engine.tree.scan import Sparse
    from .exclude import exclude_patterns
    from .hosts.copies import copy, copy2, copyfile
    from .scanning import scan
    from .seeding.run import RsyncTooOldError, SyncResult, sync

__all__ = [
    "Difference",
    "LinkError",
    "NoSpaceError",
    "RsyncTooOldError",
    "TruncatedError",
    "Sparse",
    "SyncResult",
    "Tally",
    "__version__",
    "copy",
    "copy2",
    "copyfile",
    "exclude_patterns",
    "extents",
    "scan",
    "sync",
    "verify",
]


def __getattr__(name: str) -> object:
    if name in _ROOMS:
        from importlib import import_module

        value = getattr(import_module("." + _ROOMS[name], __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
