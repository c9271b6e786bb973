"""sparsesync: sparse files cost what their data costs.

The public API. Everything here is defined in a room below and imported when it is first
used, so that ``import sparsesync`` and the start of the program cost nearly nothing::

    copyfile, copy, copy2      shutil's functions, with holes    copying.py
    scan                       find sparse files                 scanning.py
    Sparse                     a file that was found             engine/scan.py
    extents                    where the data of a file is       engine/extents.py
    verify, Difference         compare files and trees           compare.py
    Tally                      what was read for that            engine/delta.py
    exclude_patterns           exclude files for rsync           exclude.py
    sync, SyncResult           seed, then run rsync              wrapper.py
    NoSpaceError               engine/fileio.py
    TruncatedError             engine/delta.py
    RsyncTooOldError           wrapper.py
    LinkError                  engine/protocol.py
"""

__version__ = "0.1.0"

# Known to type checkers by its name. To import it from typing takes as long as to start Python.
TYPE_CHECKING = False

_ROOMS = {
    "copyfile": "copying",
    "copy": "copying",
    "copy2": "copying",
    "TruncatedError": "engine.delta",
    "NoSpaceError": "engine.fileio",
    "LinkError": "engine.protocol",
    "extents": "engine.extents",
    "scan": "scanning",
    "Sparse": "engine.scan",
    "verify": "compare",
    "Difference": "compare",
    "Tally": "engine.delta",
    "exclude_patterns": "exclude",
    "sync": "wrapper",
    "SyncResult": "wrapper",
    "RsyncTooOldError": "wrapper",
}

if TYPE_CHECKING:
    from .compare import Difference, verify
    from .copying import copy, copy2, copyfile
    from .engine.delta import Tally, TruncatedError
    from .engine.extents import extents
    from .engine.fileio import NoSpaceError
    from .engine.protocol import LinkError
    from .engine.scan import Sparse
    from .exclude import exclude_patterns
    from .scanning import scan
    from .wrapper import RsyncTooOldError, SyncResult, sync

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
