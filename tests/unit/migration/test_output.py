"""What rsync prints while it runs is taken apart in the same way however it arrives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsesync.migration.output import RsyncOutput
from sparsesync.rsync.command import parse

PRINTED = (
    b"created directory new\n"
    b"\r          32768   0%    0.00kB/s    0:00:00  "
    b"\r       30000000 100%  772.40MB/s    0:00:00 (xfr#1, to-chk=0/2)\n"
    b'skipping non-regular file "x 5% of y"\n'
    b"\nNumber of files: 2 (reg: 1, dir: 1)\nNumber of created files: 2 (reg: 1, dir: 1)\n"
    b"Total file size: 30000000 bytes\nLiteral data: 29000000 bytes\nMatched data: 1000000 bytes\n"
    b"File list generation time: 0.001 seconds\nTotal bytes sent: 30007434\nTotal bytes received: 38\n"
    b"\nsent 30,007,434 bytes  received 38 bytes  60,014,944.00 bytes/sec\ntotal size is 30000000  speedup is 1.00\n"
)


@given(st.lists(st.integers(0, len(PRINTED)), max_size=12), st.booleans())
def test_however_it_arrives(cuts: list[int], shown: bool) -> None:
    written: list[bytes] = []
    advanced: list[int] = []
    totals = RsyncOutput(parse(["-a", "a", "b"]), shown, written.append)
    totals.advance = advanced.append
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(PRINTED)]):
        totals.feed(PRINTED[start:end])
    totals.end()
    assert (totals.wire, totals.literal) == (30007472, 29000000)
    assert sum(advanced) == (30000000 if shown else 0)
    rest = b"".join(written)
    assert rest.startswith(b"created directory new\n") and b'skipping non-regular file "x 5% of y"\n' in rest
    assert b"Literal" not in rest and b"sent" not in rest and (b"100%" in rest) != shown


@pytest.mark.parametrize("option", ["-v", "-i", "-P", "--stats", "--progress", "--info=name", "--out-format=%n"])
def test_what_the_user_asked_for_is_shown_whole(option: str) -> None:
    written: list[bytes] = []
    totals = RsyncOutput(parse(["-a", option, "a", "b"]), True, written.append)
    assert totals.options == []
    totals.feed(PRINTED)
    totals.end()
    assert b"".join(written) == PRINTED and totals.wire == 30007472
