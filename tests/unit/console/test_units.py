from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsesync.console.units import iec, parse_size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (4096, "4 KiB"),
        (954 << 20, "954 MiB"),
        (102 << 30, "102.0 GiB"),
        ((1 << 30) - 1, "1.0 GiB"),
        ((1 << 40) - 1, "1.0 TiB"),
        (8 << 60, "8.0 EiB"),
    ],
)
def test_iec(size: int, text: str) -> None:
    assert iec(size) == text


@given(st.integers(0, 1 << 60))
def test_iec_is_near(size: int) -> None:
    assert abs(parse_size(iec(size)) - size) <= max(size * 0.5, 1)


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("64K", 65536), ("1.5MiB", 1572864), ("10G", 10 << 30), ("2 tb", 2 << 40), ("7B", 7)],
)
def test_parse_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1Q", "1 2", "K", "0x10", "1e3"])
def test_parse_size_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)
