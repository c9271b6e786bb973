"""The pages of the manual: sparsesync(1), and one for each command.

What a command is given comes from its parser, what its exit status says from docs/exit-status.md. Text that neither has
is in man/, by the name of the page, in the language of man(7); it follows the options.

argparse-manpage, as Debian 12 has it, loses a usage that is written by hand, and has no place for text of ours.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from sparsesync import __version__
from sparsesync.commands.main import COMMANDS, parser

ROOT = Path(__file__).parents[1]
TEXTS = ROOT / "release" / "man"
STATUSES = ROOT / "docs" / "exit-status.md"


def write(folder: Path) -> list[Path]:
    """Write all pages into a folder, which is made, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {"sparsesync": _main_page(), **{f"sparsesync-{name}": _page(name) for name in COMMANDS}}
    paths = [folder / f"{title}.1" for title in made]
    for path, text in zip(paths, made.values()):
        path.write_text(text, encoding="utf-8")
    return paths


def _main_page() -> str:
    lines = _head("sparsesync", "sparse files cost what their data costs")
    lines += [".B sparsesync", r"\fICOMMAND\fR \fR[\fIOPTIONS\fR] \fIPATH\fR...", ".SH COMMANDS"]
    for name, does in COMMANDS.items():
        lines += [".TP", rf"\fBsparsesync\-{name}\fR(1)", _escape(does)]
    lines += [*_text("sparsesync"), *_statuses("scan"), *_see_also("")]
    return "\n".join(lines) + "\n"


def _page(name: str) -> str:
    (subparsers,) = (action for action in parser([name])._actions if isinstance(action, argparse._SubParsersAction))
    command = subparsers.choices[name]
    lines = _head(f"sparsesync-{name}", COMMANDS[name])
    lines += [
        rf".B sparsesync {name}",
        _escape(_synopsis(command)),
        ".SH DESCRIPTION",
        _escape(command.description or ""),
    ]
    for group in command._action_groups:
        told = [action for action in group._group_actions if action.help not in (None, argparse.SUPPRESS)]
        if told:
            title = {"positional arguments": "arguments", "optional arguments": "options"}.get(str(group.title))
            lines.append(f".SH {(title or str(group.title)).upper()}")
        for action in told:
            lines += [".TP", *_action(command, action)]
    lines += [*_text(f"sparsesync-{name}"), *_statuses(name), *_see_also(name)]
    return "\n".join(lines) + "\n"


def _head(title: str, does: str) -> list[str]:
    heading = f'.TH "{_escape(title.upper())}" "1" "" "sparsesync {__version__}" "sparsesync"'
    return [heading, ".SH NAME", rf"{_escape(title)} \- {_escape(does)}", ".SH SYNOPSIS"]


def _synopsis(command: argparse.ArgumentParser) -> str:
    """Return what follows the command's name in its usage, where not all options are named."""
    if command.usage:
        return command.usage.partition(f"{command.prog} ")[2]
    formatter = command._get_formatter()
    return " ".join(["[OPTIONS]", *(_value(formatter, action) for action in command._get_positional_actions())])


def _value(formatter: argparse.HelpFormatter, action: argparse.Action) -> str:
    return formatter._format_args(action, str(action.metavar or action.dest.upper()))


def _action(command: argparse.ArgumentParser, action: argparse.Action) -> Iterator[str]:
    """Yield two lines: what is typed, and what it does."""
    formatter = command._get_formatter()
    value = "" if action.nargs == 0 else _escape(_value(formatter, action))
    if action.option_strings:
        yield ", ".join(rf"\fB{_escape(name)}\fR" + rf" \fI{value}\fR" * bool(value) for name in action.option_strings)
    else:
        yield rf"\fI{value}\fR"
    yield _escape(formatter._expand_help(action))


def _text(title: str) -> list[str]:
    path = TEXTS / f"{title}.man"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _statuses(name: str) -> Iterator[str]:
    yield ".SH EXIT STATUS"
    for status, meaning in statuses(name):
        yield from (".TP", rf"\fB{_escape(status)}\fR", re.sub("`([^`]+)`", r"\\fB\1\\fR", _escape(meaning)))


def statuses(name: str) -> list[tuple[str, str]]:
    """Return each exit status of a command, and what it says, as docs/exit-status.md has them."""
    rows = [
        line.strip("|\n").split("|") for line in STATUSES.read_text(encoding="utf-8").splitlines() if line[:1] == "|"
    ]
    head, _, *rest = [[cell.strip() for cell in row] for row in rows]
    (column,) = (index for index, cell in enumerate(head) if f"`{name}`" in cell)
    return [(row[0], row[column]) for row in rest if row[column]]


def _see_also(name: str) -> Iterator[str]:
    others = ["sparsesync", *(f"sparsesync-{other}" for other in COMMANDS if other != name)] if name else []
    others += ["rsync"] if name in ("", "sync", "migrate") else []
    yield ".SH SEE ALSO"
    yield ",\n".join(rf".BR {_escape(other)} (1)" for other in others).replace(",\n", " ,\n")


def _escape(text: str) -> str:
    """Return text as troff(1) prints it, as it is."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{escaped}" if escaped[:1] in (".", "'") else escaped
