"""Small trees with names that are hard to carry, and who may read them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Union

from hypothesis import strategies as st

NOBODY = 65534
ODD_NAMES = ["-n", " ", "new\nline", "*?[]\\", "\u00e4", "\udcff\udc80", "a'b\"c"]


Entry = tuple[str, Union[bytes, str, None]]
"""The type of a file, and its content or where it leads."""
Entries = dict[str, Entry]


@contextlib.contextmanager
def inside(path: str | Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(path)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def unprivileged(folder: str | Path) -> Iterator[None]:
    """As somebody who is not root, with relative paths, since pytest's own directories are private."""
    os.chmod(folder, 0o755)
    with inside(folder):
        if os.geteuid():
            yield
            return
        os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(0)


entries = st.dictionaries(
    st.lists(st.sampled_from(["a", "b", "c.d", "\udcfe"]), min_size=1, max_size=3).map("/".join),
    st.sampled_from([("file", b"1"), ("file", b"12"), ("link", "1"), ("link", "2"), ("dir", None), ("pipe", None)]),
    max_size=10,
)


def build(root: str | Path, entries: Entries) -> Entries:
    """Make the tree, and say what came of it: {path: (type, content)}."""
    os.mkdir(root)
    made: Entries = {}
    for path, (kind, content) in sorted(entries.items()):
        parts = path.split("/")
        parents = ["/".join(parts[:count]) for count in range(1, len(parts))]
        if path in made or any(made.get(parent, ("dir", None))[0] != "dir" for parent in parents):
            continue
        for parent in parents:
            if parent not in made:
                os.mkdir(os.path.join(root, parent))
                made[parent] = ("dir", None)
        full = os.path.join(root, path)
        if isinstance(content, bytes):
            with open(full, "wb") as file:
                file.write(content)
        elif isinstance(content, str):
            os.symlink(content, full)
        elif kind == "dir":
            os.mkdir(full)
        else:
            os.mkfifo(full)
        made[path] = (kind, content)
    return made
