"""``sparsesync serve``: the forced command of a key that is for one directory only. It is sshd that starts it."""

from __future__ import annotations

import argparse


def add(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    command.add_argument(
        "--restrict-to-path", required=True, metavar="DIR", help="the directory; all that a client names is below it"
    )
    mode = command.add_mutually_exclusive_group()
    mode.add_argument("--read-only", action="store_true", help="nothing is written")
    mode.add_argument(
        "--append-only", action="store_true", help="new files may be made; those that are there stay as they are"
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command, and return the exit status."""
    from ... import __version__
    from ...serving.session import run as serve

    mode = "read-only" if arguments.read_only else "append-only" if arguments.append_only else "read-write"
    return serve(arguments.restrict_to_path, mode, __version__)
