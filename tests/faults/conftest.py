"""The laboratory, one for the whole run, and the table that the long form ends with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.harness import Lab
from tests.faults.kinds import Table

_table = pytest.StashKey[Table]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_table] = Table()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="session")
def table(pytestconfig: pytest.Config) -> Table:
    return pytestconfig.stash[_table]


@pytest.fixture(scope="session")
def long(pytestconfig: pytest.Config) -> bool:
    """Whether the long form was asked for."""
    return bool(pytestconfig.getoption("faults") == "long")


@pytest.fixture
def long_only(long: bool) -> Iterator[None]:
    if not long:
        pytest.skip("takes minutes; runs with --faults=long")
    yield


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """All that is here has the marker; in the long form no test has a limit of its own but that of each run."""
    for item in items:
        if "tests/faults/" in item.nodeid:
            item.add_marker(pytest.mark.faults)
            if config.getoption("faults") == "long":
                item.add_marker(pytest.mark.timeout(0))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    table = config.stash[_table]
    if config.getoption("faults") == "long" and table.rows:
        terminalreporter.section("faults")
        terminalreporter.write_line(table.markdown())
