"""A command that is run for a migration ends with whoever runs it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import NoReturn

import pytest

from sparsesync.engine.queries.shell import run


class Interrupted(BaseException):
    pass


def test_an_interruption_leaves_nothing_running(tmp_path: Path) -> None:
    """The command sends it as soon as it has begun, when who starts it may not have heard of that yet."""

    def interrupt(number: int, frame: object) -> NoReturn:
        raise Interrupted

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        for _ in range(30):
            with pytest.raises(Interrupted):
                run(f"echo $$ >{tmp_path}/pid; kill -TERM $PPID; exec sleep 60")
            assert not os.path.exists(f"/proc/{(tmp_path / 'pid').read_text().strip()}")
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_command_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(FileNotFoundError):
        run("true")
