"""``sparsesync sync``: what its failures end with. The work is done by :mod:`seeding.run`.

Its arguments do not go through argparse: they are rsync's, and rsync is to be the one who reads them.
"""

from __future__ import annotations

from ..console.messages import format_error, print_error
from ..engine.errors import LinkError, LoginError, NoSpaceError
from ..rsync.command import transfers
from ..rsync.listing import run_refused
from ..rsync.process import RsyncTooOldError, Status
from ..rsync.program import become
from ..seeding.own_options import split_options
from . import TROUBLE

_NOT_FOUND = 127
"""A command that is not there, as a shell says it."""


def run(argv: list[str]) -> int:
    """Run the command with the arguments that follow ``sync``, and return the exit status."""
    try:
        seed, rest = split_options(argv)
    except ValueError as error:
        print_error(error)
        return Status.SYNTAX
    try:
        if not transfers(rest):
            become(rest)
        # A server starts often, and needs none of it.
        from ..seeding import run as seeding

        return seeding.run(rest, seed, replace=True).status
    except NoSpaceError as error:
        print_error(f"{format_error(error)}; nothing was written (--seed-no-space-check to try all the same)")
        return Status.FILE_IO
    except LoginError:
        # The remote shell has said why; the rest is rsync's to say.
        return run_refused(rest)
    except LinkError as error:
        # rsync over the same broken connection would not get far, and over a new one would send every hole.
        print_error(f"{error}; what was received is kept, run the same command again to go on from there")
        return Status.PROTOCOL
    except RsyncTooOldError as error:
        print_error(error)
        return TROUBLE
    except FileNotFoundError as error:
        if error.filename != "rsync":
            raise
        print_error(f"rsync {error.strerror}")
        return _NOT_FOUND
    except SystemExit as ended:
        return Status.SIGNAL if isinstance(ended.code, int) and ended.code > 128 else TROUBLE
