"""The laboratory, one for the whole run, and the table that the long form ends with."""

from __future__ import annotations

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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is of the other form. In the long form no test has a limit of its own but that of each run."""
    form = config.getoption("faults")
    others = []
    for item in items:
        if "tests/faults/" in item.nodeid:
            if any(form != mark.kwargs["form"] for mark in item.iter_markers("faults")):
                others.append(item)
            item.add_marker(pytest.mark.faults(form=form))
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.ssh)  # the laboratory has a stand-in for it
            if form == "long":
                item.add_marker(pytest.mark.timeout(0))
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    table = config.stash[_table]
    if config.getoption("faults") == "long" and table.rows:
        terminalreporter.section("faults")
        terminalreporter.write_line(table.markdown())
