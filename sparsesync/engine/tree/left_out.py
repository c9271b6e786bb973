"""What of a tree is left out, by rules that whoever asks has turned into regexes: ``rsync/filters.py``, for rsync's.

A path below the source has a name: ``shown``, which is the name of the source itself, and what comes behind the
source. For the regexes it begins with a slash, and a directory's ends with one. A name is bytes. Where it has to be
text, as in a regex that travels, each character stands for one byte (Latin-1).
"""

import os
import re
from typing import Any, Callable, NamedTuple, Optional, Sequence

LeftOut = Optional[Callable[[str, bool], bool]]
"""Says whether a path is left out; True: it is a directory, and all that is in it is left out with it."""


class NameRules(NamedTuple):
    """Regexes of the names that are excluded. ``recursive``: directories are entered at all.

    ``shown`` is empty where what is in the source has names, and the source has none.
    """

    shown: str
    directories: str
    others: str
    recursive: bool = True


def left_out(source: str, given: Optional[Sequence[Any]]) -> LeftOut:
    """Return the function that a walk through ``source`` asks whether a path is excluded.

    ``given``: a :class:`NameRules`, or the same as a list. Without rules both are None.

    Raises ValueError for an invalid regex.
    """
    if given is None:
        return None
    rules = NameRules(*given)
    try:
        directories, others = [
            re.compile(regex.encode("latin-1"), re.DOTALL).match for regex in (rules.directories, rules.others)
        ]
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError("not a regular expression: {}".format(error)) from None
    shown = rules.shown.encode("latin-1")
    base = b"/" + shown + b"/" if shown else b"/"
    cut = len(os.path.join(source, ""))

    def answer(path: str, directory: bool) -> bool:
        if directory and not rules.recursive:
            return True
        if path == source:
            if not shown:
                return False  # what is in it was asked for
            name = b"/" + shown
        else:
            name = base + os.fsencode(path[cut:])
        return (directories(name + b"/") if directory else others(name)) is not None

    return answer
