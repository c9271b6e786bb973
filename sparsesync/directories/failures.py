"""What rsync could not copy, as shutil tells it: (source, destination, reason) of each file.

rsync has no other way to say it than lines for people. They begin in few ways, and name a path in quotes, in which
what cannot be printed is a backslash, # and three octal digits. Where a path is below neither end, the whole tree is
named, and the reason has the line with the path.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

_FAILURE = re.compile(
    r"(?:rsync: |ERROR: |file has vanished: |symlink has no referent: |skipping non-regular file |could not |cannot )"
)
_DANGLING = "symlink has no referent: "
_SPECIAL = "skipping non-regular file "
_ATTRIBUTE = re.compile(r"rsync: (?:\[\w+\] )?\S*(?:xattr|acl|xal)\S* .*\(95\)")
"""EOPNOTSUPP, which shutil.copystat ignores: a filesystem has no such attributes."""


class Failure(NamedTuple):
    """``name``: relative to the tree, "" for all of it."""

    name: str
    reason: str


class Failures:
    """What is said in a run of rsync. It is called with each line.

    ``roots``: the absolute paths by which both ends may be named.
    ``dangling``: symlinks that lead nowhere are failures.
    """

    def __init__(self, roots: list[str], dangling: bool) -> None:
        self._roots = sorted((root.rstrip("/") + "/" for root in roots), key=len, reverse=True)
        self._dangling = dangling
        self.found: list[Failure] = []
        self.ignored: bool = False
        """Something was said that is no failure here, and is one to rsync."""
        self.attributes: list[str] = []
        self.told: list[str] = []
        """What is neither: of the remote shell, and of ourselves."""
        self.listed: list[str] = []

    def __call__(self, stream: str, line: str) -> None:
        """Take a line of "stdout" or "stderr"."""
        if stream == "stdout" and line.strip():
            self.listed.append(line)
        if stream == "stdout" and not line.startswith(_SPECIAL):
            return
        if line.startswith(_DANGLING) and not self._dangling:
            self.ignored = True
        elif _ATTRIBUTE.fullmatch(line):
            self.attributes.append(line)
        elif _FAILURE.match(line):
            name = self._name(line)
            shown = "is neither a file, a directory nor a symlink" if line.startswith(_SPECIAL) else line
            self.found.append(Failure(name, shown))
        elif line.strip() and not line.startswith(("rsync error: ", "rsync warning: ")):
            self.told.append(line)

    def _name(self, line: str) -> str:
        quoted = re.search(r'"(.*)"', line)
        if quoted is None:
            return ""
        path = os.fsdecode(re.sub(rb"\\#(\d{3})", lambda code: bytes([int(code[1], 8) & 255]), os.fsencode(quoted[1])))
        if line.startswith(_SPECIAL):
            return path
        for root in self._roots:
            if path.startswith(root):
                return _finished(path[len(root) :]) if "mkstemp" in line else path[len(root) :]
        return ""


def _finished(name: str) -> str:
    """Return the name that a temporary file of rsync was for."""
    above, last = os.path.split(name)
    temporary = re.fullmatch(r"\.(.+)\.[A-Za-z0-9]{6}", last, re.DOTALL)
    return os.path.join(above, temporary[1]) if temporary else name
