"""Fixtures: one mounted filesystem of each kind, and one sshd, for the whole run."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.filesystems import KINDS, filesystem
from tests.support.sshd import Sshd, sshd

OnFilesystem = Callable[[str], Path]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-seconds", type=float, help="how long each test of unit/test_fuzz.py goes on")
    parser.addoption(
        "--faults", choices=["short", "long"], default="short", help="a sample of the faults, or all of them (an hour)"
    )


@pytest.fixture(scope="session")
def _mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    with contextlib.ExitStack() as stack:
        top = tmp_path_factory.mktemp("filesystems")
        yield {kind: stack.enter_context(filesystem(kind, top / kind)) for kind in KINDS}


@pytest.fixture
def on(_mounted: dict[str, Path]) -> Iterator[OnFilesystem]:
    """Gives an empty directory on a filesystem of the kind asked for."""
    made: list[Path] = []

    def directory(kind: str) -> Path:
        path = _mounted[kind] / f"test{len(made)}"
        path.mkdir()
        made.append(path)
        return path

    yield directory
    for path in made:
        shutil.rmtree(path)


@pytest.fixture(params=KINDS)
def each(request: pytest.FixtureRequest, on: OnFilesystem) -> Path:
    """An empty directory on each kind of filesystem in turn."""
    return on(str(request.param))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A real sshd on loopback, to which every host name leads."""
    with sshd(tmp_path_factory.mktemp("sshd") / "server") as running:
        yield running
