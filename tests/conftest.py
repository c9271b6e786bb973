"""Fixtures: one mounted filesystem of each kind, and one sshd, for the whole run; and what a test is marked with.

A test is marked with ``root`` and with ``ssh`` by what it calls, itself or by way of its fixtures and helpers; only
``slow`` is written down. See setup.cfg for what they mean.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

from tests.support.filesystems import KINDS, Mounted, filesystem, need_root
from tests.support.shells import local_shell
from tests.support.sshd import Sshd, sshd

_MARKS: dict[object, str] = {need_root: "root", sshd: "ssh", local_shell: "ssh"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-seconds", type=float, help="how long each test of unit/test_fuzz.py goes on")
    parser.addoption(
        "--faults", choices=["short", "long"], default="short", help="a sample of the faults, or all of them (an hour)"
    )
    parser.addoption("--lines", type=int, default=4, help="how many command lines test_in_place_of_rsync.py tries")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("faults") == "long" and config.getoption("numprocesses", None):
        raise pytest.UsageError("--faults=long has one table for all; leave out -n")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function):
            found: set[object] = set()
            ahead = {item.function, *(made[-1].func for made in item._fixtureinfo.name2fixturedefs.values())}
            while ahead:
                found |= ahead
                ahead = {called for each in ahead for called in _called(each)} - found
            for function in found & _MARKS.keys():
                item.add_marker(_MARKS[function])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what a test has found on this machine and tried, as no other machine has the same."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name} {value}: {report.nodeid}")


@functools.cache
def _called(function: Any) -> list[object]:
    """What a function of the tests calls by name, or what a class of theirs has."""
    if not getattr(function, "__module__", "").startswith("tests."):
        return []
    if isinstance(function, type):
        return [each for each in vars(function).values() if isinstance(each, FunctionType)]
    inner = inspect.unwrap(getattr(getattr(function, "hypothesis", None), "inner_test", function))
    named = (inner.__globals__.get(name) for name in _names(inner.__code__))
    return [each for each in named if isinstance(each, (FunctionType, type))]


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names  # some are attributes; dis would tell, and takes longer than all the rest
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


@pytest.fixture(scope="session")
def _filesystems(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    with contextlib.ExitStack() as stack:
        top = tmp_path_factory.mktemp("filesystems")
        yield {kind: stack.enter_context(filesystem(kind, top / kind)) for kind in KINDS}


@pytest.fixture
def mounted(_filesystems: dict[str, Path]) -> Iterator[Mounted]:
    """Gives an empty directory on a filesystem of the kind asked for."""
    made: list[Path] = []

    def directory(kind: str) -> Path:
        path = _filesystems[kind] / f"test{len(made)}"
        path.mkdir()
        made.append(path)
        return path

    yield directory
    for path in made:
        shutil.rmtree(path)


@pytest.fixture(params=KINDS)
def each_filesystem(request: pytest.FixtureRequest, mounted: Mounted) -> Path:
    """An empty directory on each kind of filesystem in turn."""
    return mounted(str(request.param))


@pytest.fixture(scope="session")
def sshd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A real sshd on loopback, to which every host name leads."""
    with sshd(tmp_path_factory.mktemp("sshd") / "server") as running:
        yield running
