"""What a field of a control frame may be: each has a type and a limit, and is checked here before anybody uses it.

A check is a function from a value that JSON carried to whether it is one. Simple ones are made (:func:`integer`,
:func:`text`) and put together (:func:`listed`, :func:`row`, :func:`maybe`); those that several frames have in common
are constants. :func:`get` takes a field out of a frame by a check::

    number = get(value, "id", NUMBER)

What no check looks at is not used. A bool is no int here, and no number a bool.
"""

import os
import re
from base64 import b64decode
from typing import Any, Callable, Dict, List

from ..errors import ProtocolError
from .protocol import CONTROL_BYTES, LARGEST, MAX_CONTAINERS

Check = Callable[[Any], bool]

MAX_NAME_CHARACTERS = 4096
"""The longest name of a file that any engine sends: PATH_MAX, in characters."""

MAX_TEXT_CHARACTERS = 8192
"""The longest message, in characters: it may quote a name or two."""

_MAX_XATTR_NAME_BYTES = 255
_MAX_XATTR_VALUE_BYTES = 64 * 1024
_MAX_XATTR_NAMES_BYTES = 64 * 1024
"""Bytes: xattr(7), "Filesystem-specific limits"; of all the names of a file together: listxattr(2)."""


def integer(low: int, high: int) -> Check:
    """Return the check for an integer from ``low`` to ``high``."""
    return lambda value: type(value) is int and low <= value <= high


def text(most: int) -> Check:
    """Return the check for a text of at most ``most`` characters."""
    return lambda value: type(value) is str and len(value) <= most


def name(most: int) -> Check:
    """Return the check for a file name or path of at most ``most`` characters, encodable and without NUL."""
    return lambda value: type(value) is str and len(value) <= most and _is_name(value)


def one_of(*words: str) -> Check:
    """Return the check for one of the words."""
    return lambda value: type(value) is str and value in words


def listed(check: Check, most: int = MAX_CONTAINERS) -> Check:
    """Return the check for a list of at most ``most`` items that each pass ``check``."""
    return lambda value: type(value) is list and len(value) <= most and all(map(check, value))


def row(*checks: Check) -> Check:
    """Return the check for a list of one item per check."""
    return lambda value: (
        type(value) is list and len(value) == len(checks) and all([ok(each) for ok, each in zip(checks, value)])
    )


def maybe(check: Check) -> Check:
    """Return the check for None, or what passes ``check``: for a field that may be missing."""
    return lambda value: value is None or check(value)


def flag(value: Any) -> bool:
    """Return whether ``value`` is a boolean."""
    return type(value) is bool


def digits(size: int) -> Check:
    """Return the check for ``size`` bytes in hexadecimal."""
    return lambda value: type(value) is str and re.fullmatch("[0-9a-f]{%d}" % (2 * size), value) is not None


def table(keys: Check, values: Check, most: int) -> Check:
    """Return the check for an object of at most ``most`` fields, whose names and values pass."""
    return lambda value: (
        type(value) is dict and len(value) <= most and all(map(keys, value)) and all(map(values, value.values()))
    )


def anything(value: Any) -> bool:
    """Return whether ``value`` is an object. Its fields are checked where they are used."""
    return type(value) is dict


NUMBER = integer(0, (1 << 32) - 1)
"""A file, as the other frames pack it."""

SIZE = integer(0, LARGEST)
"""A size, an offset or a count."""

SECONDS = integer(-LARGEST - 1, LARGEST)
TIME = integer((-LARGEST - 1) * 10**9, (LARGEST + 1) * 10**9)
"""A time in nanoseconds: some filesystems have 64 bits for the seconds alone."""

UNSIGNED = integer(0, (1 << 64) - 1)
"""The number of a device or an inode."""

ID = integer(0, (1 << 32) - 2)
"""A user or a group. chown(2) takes the last one for none."""

PERMISSIONS = integer(0, 0o7777)
MODE = integer(0, 0o177777)
"""The type of a file and its permissions."""

ERRNO = integer(0, 4095)
"""errno(3); the kernel's MAX_ERRNO."""

NAME = name(MAX_NAME_CHARACTERS)
PATH = name(CONTROL_BYTES)
"""A path that the system has yet to look at, and may find too long."""

TEXT = text(MAX_TEXT_CHARACTERS)

MAX_REGEX_CHARS = CONTROL_BYTES // 16
NAME_RULES = row(text(MAX_TEXT_CHARACTERS), text(MAX_REGEX_CHARS), text(MAX_REGEX_CHARS), flag)
"""What of a tree is left out: tree.left_out.NameRules."""

STAT = row(MODE, *[UNSIGNED] * 3, *[integer(0, (1 << 32) - 1)] * 2, SIZE, *[SECONDS] * 3)
"""The first ten of os.stat_result: the numbers whole, and times in seconds."""


def get(value: Dict[str, Any], field: str, check: Check) -> Any:
    """Return a field of a control frame, None for an optional one that is missing. Raises ProtocolError."""
    found = value.get(field)
    if check(found):
        return found
    raise ProtocolError("invalid {!r} in a control frame".format(field))


def arguments(given: Dict[str, Any], checks: Dict[str, Check]) -> Dict[str, Any]:
    """Return the arguments of a call, without those that are None. Raises ValueError for an invalid one."""
    for field in given:
        if field not in checks:
            raise ValueError("unknown argument {!r}".format(field[:100]))
    for field, check in checks.items():
        if not check(given.get(field)):
            raise ValueError("the argument {!r} is {}".format(field, "invalid" if field in given else "missing"))
    return {field: value for field, value in given.items() if value is not None}


def xattrs(value: Any) -> bool:
    """Return whether ``value`` is extended attributes by name, each in base64, within Linux' limits for a file."""
    if type(value) is not dict:
        return False
    room = _MAX_XATTR_NAMES_BYTES
    for field, content in value.items():
        if not _is_name(field) or type(content) is not str or len(content) > -(-_MAX_XATTR_VALUE_BYTES // 3) * 4:
            return False
        length = len(os.fsencode(field))
        room -= length + 1
        if room < 0 or not 0 < length <= _MAX_XATTR_NAME_BYTES or not _is_base64(content):
            return False
    return True


_ATTRIBUTES = {
    "mode": PERMISSIONS,
    "uid": ID,
    "gid": ID,
    "atime_ns": TIME,
    "mtime_ns": TIME,
    "xattrs": xattrs,
}  # type: Dict[str, Check]


def attributes(value: Any) -> bool:
    """Return whether ``value`` is what :func:`files.attributes.read` returns."""
    return (
        type(value) is dict
        and set(value) == set(_ATTRIBUTES)
        and all([check(value[field]) for field, check in _ATTRIBUTES.items()])
    )


def _is_base64(content: str) -> bool:
    try:
        return len(b64decode(content, validate=True)) <= _MAX_XATTR_VALUE_BYTES
    except ValueError:
        return False


def _is_name(value: str) -> bool:
    try:
        return b"\0" not in os.fsencode(value)
    except UnicodeError:
        return False


def components(path: str) -> List[str]:
    """Return the components of a path below a root. Raises ProtocolError if one is not a valid name."""
    parts = path.split("/")
    for part in parts:
        if part in ("", ".", "..") or not NAME(part):
            raise ProtocolError("an invalid file name in a path")
    return parts
