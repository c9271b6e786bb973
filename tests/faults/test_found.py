"""What the suite found once, each by its own words."""

from __future__ import annotations

import pytest

from tests.faults.harness import Fault, Lab
from tests.faults.kinds import CHANGES, Table
from tests.faults.scenarios import BY_NAME

_HIDDEN = CHANGES["source rewritten, same size and time"]

FOUND = [
    # The agent said a traceback.
    ("sync-push-update", "python/agent/45/group=2"),
    # Torn, and with the source's size and time.
    ("sync-local-inplace", f"python/client/83/run={_HIDDEN}"),
    # Torn, and nothing was said.
    ("copy-local-update", f"python/client/37/run={CHANGES['source written to']}"),
    ("copy2-local-first", f"python/client/32/run={_HIDDEN}"),
    # Its size was from before the change, and its time from after it.
    ("copy-push-update", f"python/client/21/run={CHANGES['source truncated']}"),
    # Given up in place, in the second in which the source changed: rsync took the two for the same.
    ("sync-local-inplace", f"python/client/109/run={CHANGES['source punched']}"),
    # A source that could not be opened at first was one with nothing sparse in it.
    ("sync-local-first", "python/client/1/errno=13"),
]


@pytest.mark.parametrize(("name", "fault"), FOUND, ids=[str(number) for number in range(len(FOUND))])
def test_found(name: str, fault: str, lab: Lab, table: Table) -> None:
    verdict = lab.run(BY_NAME[name], Fault.parse(fault))
    table.add("found before", verdict)
    assert verdict.ended.fired
    assert not verdict.problems, verdict
