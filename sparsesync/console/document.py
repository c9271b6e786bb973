"""What a program reads of a command: one JSON object, which begins and ends the same for each command.

::

    {"schema": "sparsesync/scan/1",          which command's, and the version of its fields
    "files": [                               the command's own fields
    {"path": "disk.img", ...},
    {"path": "data", ...}
    ], "total": {...},
    "status": 0, "failure": null}            the exit status, and what the command failed for

Each item of a list has a line of its own, and is written as soon as it is known. So memory does not grow with a list,
neither here nor in a program that reads line by line. A command that fails on the way still ends its object: so does
:func:`~..commands.main.main`, which knows the status. Only where writing itself has failed the object has no end.

The fields of each are described in schemas/, by JSON Schema. A command whose fields change in a way that breaks
programs gets the next version.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import Any, TextIO

from .messages import format_error


def schema(name: str) -> str:
    """Return what the object of a command says of its form."""
    return f"sparsesync/{name}/1"


def ending(error: BaseException) -> tuple[int, str]:
    """Return the exit status of most commands that an exception ends, and what there is to be said of it."""
    if isinstance(error, Exception):
        return 1, format_error(error)
    code = error.code if isinstance(error, SystemExit) else None
    return code if isinstance(code, int) else 128 + signal.SIGINT, "interrupted"


class Document:
    """The object of a command, while it is written. ``out``: where to; None: to standard output.

    ``failure``: what kept a command that came to its end from all that was named; None if nothing did.
    """

    def __init__(self, name: str, out: TextIO | None = None) -> None:
        self.failure: str | None = None
        self._out = out or sys.stdout
        self._begin = f'{{"schema": {json.dumps(schema(name))}'
        self._names = {"schema"}
        self._close = self._next = ""
        """What ends the list that is open, and what stands before its next item."""
        self._broken = False

    def open_list(self, name: str) -> None:
        """Begin with a list."""
        self._field(name, "[")
        self._close, self._next = "\n]", "\n"

    def item(self, item: object) -> None:
        """Write an item of the list that is open."""
        self.items(json.dumps(item))

    def items(self, text: str) -> None:
        """Write items of the list that is open, which are JSON already, with a comma and a newline between them."""
        self._write(self._next + text)
        self._next = ",\n"

    def add(self, fields: dict[str, Any]) -> None:
        """Write fields of the object, but those that it has."""
        for name, value in fields.items():
            if name not in self._names:
                self._field(name, json.dumps(value))

    def end(self, status: int, failure: str | None = None) -> None:
        """End the object. ``failure``: what ended the command before it was done, or :attr:`failure`."""
        if self._broken:
            return
        self.add({"status": status, "failure": failure})
        self._write("}\n")

    def _field(self, name: str, value: str) -> None:
        self._names.add(name)
        before, self._begin, self._close = self._begin + self._close, "", ""
        self._write(f"{before}, {json.dumps(name)}: {value}")

    def _write(self, text: str) -> None:
        self._broken = True
        self._out.write(text)
        self._broken = False
