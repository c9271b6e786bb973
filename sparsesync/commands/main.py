"""The ``sparsesync`` command line: which command it is, and what becomes of errors and signals.

Only the module of the command that is chosen is imported, so that none pays for another. ``sync`` does not go through
argparse, but for its help: its arguments are rsync's, and rsync is to be the one who reads them.

Results go to standard output; troubles to standard error, one line each with the path and,
where there is something to be done, what. No trouble ends in a traceback: see :func:`main`.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import warnings
from collections.abc import Callable, Container, Iterable, Sequence
from typing import TYPE_CHECKING, NoReturn

from ..console import streams
from ..console.messages import print_error
from . import TROUBLE

if TYPE_CHECKING:
    import argparse

COMMANDS = {
    "scan": "find the sparse files below paths",
    "map": "show where the data of a file is",
    "copy": "copy files, holes as holes",
    "dig": "make holes of what is zeros in files, in place",
    "exclude": "write an exclude file for rsync that leaves out the sparse files",
    "track": "list, check and drop what copy --track and sync --seed-track keep",
    "verify": "compare two files or trees, reading only data",
    "migrate": "move a host's data: look, plan, sync while services run, stop them, sync, verify",
    "sync": "run rsync, with sparse files put in place first; its arguments are rsync's",
    "serve": "answer a key that is for one directory only: the forced command of an authorized_keys file",
}
"""Each command, which is the module of that name, and what it does."""


_COERCED = frozenset(["C.UTF-8", "C.utf8", "UTF-8"])

_MEANT = {
    "compare cmp diff check": "verify",
    "cp move mv backup": "copy",
    "du find list ls": "scan",
    "help": "--help",
    "ignore": "exclude",
    "punch sparsify": "dig",
    "rsync": "sync",
    "show": "map",
    "version": "--version",
}
"""What people type who know other programs, and what they mean."""


def main(argv: Sequence[str] | None = None, in_place_of_rsync: bool = False) -> int:
    """Run the command line ``argv`` (``sys.argv[1:]`` by default), and return the exit status.

    ``in_place_of_rsync``: whoever asks for help wants rsync's.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    streams.prepare()
    _give_up_coercion()
    warnings.showwarning = _show_warning
    ends: dict[signal.Signals, Callable[..., NoReturn]] = {signal.SIGTERM: _end, signal.SIGHUP: _end}
    replaced = [signal.SIG_DFL]
    if argv[:1] == ["migrate"]:
        # Ctrl-\ is what people press where Ctrl-C seems dead: that too must not leave services stopped.
        ends[signal.SIGQUIT] = _end
    elif argv[:1] == ["sync"]:
        # rsync hears them also where its caller ignores or blocks them: nohup, a job in a script's background.
        ends[signal.SIGINT] = signal.default_int_handler
        replaced.append(signal.SIG_IGN)
        ends[signal.SIGUSR1] = _end
        # It asks rsync how far it is, and there is none yet.
        signal.signal(signal.SIGVTALRM, lambda number, frame: None)
    for number, handler in ends.items():
        if signal.getsignal(number) in replaced:
            signal.signal(number, handler)
    if signal.SIGINT in ends:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ends)
    sys.unraisablehook = _raise_again
    try:
        if argv[:1] == ["sync"] and (in_place_of_rsync or argv[1:] != ["--help"]):
            from . import sync

            _collect_garbage()
            return sync.run(argv[1:])
        rest: list[str] = []
        if argv[:1] == ["migrate"] and "--" in argv:
            dashes = argv.index("--")
            argv, rest = argv[:dashes], argv[dashes + 1 :]
        try:
            chosen = next((word for word in argv if word in COMMANDS), None)
            if argv and argv[0] not in COMMANDS and not argv[0].startswith("-"):
                _refuse(argv[0])
            # Nobody who begins with a command will ask for the others.
            asked = parser(argv[:1] if argv[:1] == [chosen] else COMMANDS, (chosen,))
            if argv[:1] == ["sync"]:
                from .sync import show_help

                show_help(asked, argv)
            arguments, unknown = asked.parse_known_args(argv)
            if unknown:
                arguments.parser.refuse(unknown)
        except SystemExit:  # after --help there may be something to flush
            sys.stdout.flush()
            raise
        arguments.rsync_options = rest
        arguments.words = argv[1:]
        return _run(arguments, argv[0])
    except KeyboardInterrupt:
        if argv[:1] == ["sync"]:
            from ..rsync.program import Status

            return Status.SIGNAL
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader has gone (| head)
        streams.give_up_output()
        return 128 + signal.SIGPIPE
    except (OSError, ValueError) as error:
        print_error(error)
        if isinstance(error, OSError) and error.filename == streams.STDOUT:
            streams.give_up_output()
        return 2 if argv[:1] == ["verify"] else TROUBLE


def _run(arguments: argparse.Namespace, name: str) -> int:
    """Run a command, and return its exit status. With ``--json`` its object comes to its end, whatever happens."""
    _collect_garbage()
    if not getattr(arguments, "json", False):
        status: int = arguments.run(arguments)
    else:
        from ..console.document import Document, ending

        document = arguments.document = Document(name)
        try:
            status = arguments.run(arguments)
        except BaseException as error:
            status, failure = ending(error)
            try:
                document.end(2 if name == "verify" and status == TROUBLE else status, failure)
                sys.stdout.flush()
            except OSError:  # what ends the command is told all the same
                streams.give_up_output()
            raise
        document.end(status, document.failure)
    sys.stdout.flush()
    return status


def _collect_garbage() -> None:
    """Have garbage looked for from here on, if it was not, but not in what has been imported, nor at the end."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def _refuse(word: str) -> NoReturn:
    """Say that there is no such command, and which one may be meant."""
    from difflib import get_close_matches

    meant = [name for words, name in _MEANT.items() if word in words.split()] or get_close_matches(word, COMMANDS, 1)
    known = f"did you mean {meant[0]}?" if meant else f"there are {', '.join(COMMANDS)}"
    parser((), ()).error(f"{word!r} is no command; {known}")


def _give_up_coercion() -> None:
    """Take back what Python has set where the locale is C (PEP 538): rsync and ssh are to have what we were given."""
    if os.environ.get("LC_CTYPE") in _COERCED:
        with contextlib.suppress(OSError), open("/proc/self/environ", "rb") as given:
            if not any(each.startswith(b"LC_CTYPE=") for each in given.read().split(b"\0")):
                del os.environ["LC_CTYPE"]


def _end(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)  # by way of every "finally", so that no temporary is left


def _raise_again(swallowed: sys.UnraisableHookArgs) -> None:
    """Raise what ends us once more, when a destructor that it was raised in has swallowed it."""
    ends = swallowed.exc_value
    if not isinstance(ends, (SystemExit, KeyboardInterrupt)):
        sys.__unraisablehook__(swallowed)
        return

    def end(number: int, frame: object) -> NoReturn:
        raise ends

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, 0.001)  # the destructor has ended by then


def _show_warning(message: Warning | str, *rest: object, **more: object) -> None:
    print_error(str(message))


def parser(names: Iterable[str] = COMMANDS, whole: Container[str | None] = COMMANDS) -> argparse.ArgumentParser:
    """Return the parser of the commands ``names``, with the arguments of those that are in ``whole``."""
    from importlib import import_module

    from .. import __version__
    from .options import Parser

    parser = Parser(prog="sparsesync", description="Sparse files cost what their data costs.")
    parser.add_argument("--version", action="version", version=f"sparsesync {__version__}")
    # Without "prog" argparse would format a usage, only to know it, and import for that what hardly anybody needs.
    commands = parser.add_subparsers(metavar="COMMAND", required=True, prog="sparsesync")
    for name in names:
        does = COMMANDS[name]
        described = f"{does[0].upper()}{does[1:]}."
        # rsync's --exclude is none of migrate's --exclude-from and --exclude-sparse.
        plain = name not in ("sync", "migrate")
        command = commands.add_parser(
            name, help=does, description=described, add_help=name != "sync", allow_abbrev=plain
        )
        command.set_defaults(parser=command)
        if name in whole:
            import_module("." + name, __package__).add(command)
    return parser
