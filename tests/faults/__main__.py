"""``python -m tests.faults SCENARIO FAULT``: one fault again, as a failed test names it, and what is left to look at.

FAULT is program/side/number/act, as ``inject.c`` has them. Without it the calls of the scenario are listed,
without a scenario the scenarios.
"""

import sys
import tempfile
from pathlib import Path

from tests.faults.harness import Fault, Lab
from tests.faults.scenarios import BY_NAME


def main(name: str = "", fault: str = "") -> None:
    if not name:
        print("\n".join(BY_NAME))
        return
    place = Path(tempfile.mkdtemp(prefix="faults-"))
    lab = Lab(place)
    work = place / "run"
    work.mkdir()
    verdict = lab.run(BY_NAME[name], Fault.parse(fault) if fault else Fault(), keep=work)
    for call in verdict.ended.calls:
        print(*call)
    print(f"fired: {verdict.ended.fired}; the next run: {verdict.next}; in {work}")
    print(verdict)


main(*sys.argv[1:])
