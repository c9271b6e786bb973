"""How little of a file that is there may be had before it is emptied."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from sparsesync.engine.files.writing import existing


@pytest.mark.parametrize(("code", "is_taken"), [(errno.EMFILE, False), (errno.ENFILE, False), (errno.EACCES, True)])
def test_a_lack_of_descriptors_says_nothing_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, is_taken: bool
) -> None:
    (tmp_path / "f").write_bytes(b"old")
    directory, real = os.open(tmp_path, os.O_RDONLY), os.open

    def fails(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_ACCMODE == os.O_RDWR:
            raise OSError(code, os.strerror(code))
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", fails)
    try:
        if not is_taken:
            with pytest.raises(OSError, match=os.strerror(code)):
                existing.open_existing(directory, "f", read=False, keep=False)
            return
        fd, is_readable = existing.open_existing(directory, "f", read=False, keep=False)
        os.close(fd)
        assert not is_readable
    finally:
        os.close(directory)
