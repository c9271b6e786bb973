r"""What may reach a person's terminal: text with nothing in it that the terminal would obey, or that deceives the eye.

Names are anybody's, and so is what another host says. So control characters, those that turn the direction of writing,
those that end a line or are not seen, and bytes that are no text are shown as rsync shows them, each byte as ``\#ooo``.
Both machines do it, each with what it prints itself. It is done once, where a line is printed; everything
before that, and JSON, has the text as it is.

:func:`hidden_name` is for names that we give.
"""

import os
import re
import zlib

_OBEYED = (
    "\0-\x1f\x7f-\x9f"  # C0, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidi controls: Unicode Standard Annex #9
    "\u2028\u2029"  # line and paragraph separator
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # not seen: byte order mark, interlinear annotation, tags
    "\ud800-\udfff"  # no text: bytes (PEP 383), and halves of characters
)
# Most runs print nothing: re compiles them when they are first used, and keeps them.
_SPECIAL = "[{}]".format(_OBEYED)
_SPECIAL_OR_ESCAPE = r"[{}]|\\(?=#[0-9]{{3}})".format(_OBEYED)

_MAX_CHARACTER_BYTES = 4
"""Of a character in a name; of what takes more, whoever makes the file hears that its name is too long."""

NAME_MAX_BYTES = 255
"""Bytes in a name, where the filesystem does not say: limits.h."""


def escape_name(text: str) -> str:
    r"""Return ``text`` with its control bytes escaped, and each literal ``\#123``, which looks like an escape."""
    return re.sub(_SPECIAL_OR_ESCAPE, _escape, text)


def printable_already(text: str) -> str:
    r"""Return ``text`` from a program that escapes names itself, as rsync and the agent do, keeping its ``\#123``."""
    return re.sub(_SPECIAL, _escape, text)


def _escape(found: "re.Match[str]") -> str:
    character = found.group()
    try:
        encoded = os.fsencode(character)  # the bytes that the name has on the disk
    except UnicodeEncodeError:
        encoded = character.encode("utf-8", "surrogatepass")
    return "".join("\\#{:03o}".format(byte) for byte in encoded)


def hidden_name(name: str, suffix: str, limit: int = NAME_MAX_BYTES) -> str:
    """Return ``.NAMEsuffix``, with the name cut between two characters if there are more than ``limit`` bytes.

    A name that is cut gets a checksum of the whole name, so that two names remain two.
    """
    if _MAX_CHARACTER_BYTES * (1 + len(name)) + len(suffix) <= limit:
        return "." + name + suffix
    whole = os.fsencode("." + name)
    if len(whole) + len(suffix) <= limit:
        return "." + name + suffix
    suffix = "~{:08x}{}".format(zlib.crc32(whole), suffix)
    end = max(1, limit - len(suffix))
    # Some filesystems take UTF-8 only (NTFS, exFAT). A name that is not UTF-8 is none of theirs.
    while end > 1 and whole[end] & 0xC0 == 0x80:
        end -= 1
    return os.fsdecode(whole[:end]) + suffix


def name_limit(directory: int) -> int:
    """Return the bytes that a name in an open directory may have, as far as the filesystem says."""
    try:
        return os.fpathconf(directory, "PC_NAME_MAX")
    except OSError:
        return NAME_MAX_BYTES
