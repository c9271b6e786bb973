"""What is compressed for the wire comes back, and nothing else comes of it."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsesync.engine.errors import ProtocolError
from sparsesync.engine.wire import compression, protocol
from sparsesync.engine.wire.compression import FRESH, ZLIB, ZSTD, Compressor, Decompressor, compressors

CODES = {"zlib": ZLIB, "zstd": ZSTD}


def through(compressor: Compressor, decompressor: Decompressor, content: bytes) -> bytes | None:
    """The compressed content, once it has come back; None if it was sent as it is."""
    made = compressor.compress(memoryview(content))
    if made is not None:
        assert len(made) < len(content)
        assert decompressor.decompress(compressor.code, memoryview(made), len(content)) == content
    return made


def use(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    """Have zstd made by one library only. The package that has Python 3.14's module for older ones stands in for it."""
    zstandard = pytest.importorskip("zstandard")
    own = pytest.importorskip("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    monkeypatch.setattr(compression, "_own_zstd", lambda: own if library == "own" else None)
    monkeypatch.setattr(compression, "_zstandard", lambda: zstandard if library == "zstandard" else None)


@pytest.mark.parametrize("level", [None, -7, 0, 1, 9, 22, 100])
@pytest.mark.parametrize("name", compressors())
def test_any_level(name: str, level: int | None) -> None:
    compressor, decompressor = Compressor(name, level), Decompressor()
    for content in (b"x" * protocol.PAYLOAD_BYTES, b"ab" * 1000, bytes(range(256)) * 40):
        made = through(compressor, decompressor, content)
        assert made is not None or (level is not None and level <= 0)


@pytest.mark.parametrize("name", compressors())
@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.sampled_from(["noise", "text", "zeros", "before"]), st.sampled_from([1, 30, 4096, 256 * 1024])),
        max_size=8,
    )
)
def test_a_stream_comes_back(name: str, frames: list[tuple[str, int]]) -> None:
    compressor, decompressor = Compressor(name, None), Decompressor()
    before = b"?"
    for number, (kind, size) in enumerate(frames):
        if kind == "noise":
            before = random.Random(number).randbytes(size)
        content = {"noise": before, "text": b"some text " * size, "zeros": bytes(size), "before": before}[kind]
        through(compressor, decompressor, content[: protocol.PAYLOAD_BYTES])


@pytest.mark.parametrize("name", compressors())
def test_what_was_in_one_frame_is_not_told_again_by_the_next(name: str) -> None:
    compressor, decompressor = Compressor(name, None), Decompressor()
    words = random.Random(1).randbytes(10_000).hex().encode()
    first, again = (through(compressor, decompressor, words) for _ in range(2))
    assert first and again and len(again) < len(first) // 20


@pytest.mark.parametrize("name", compressors())
def test_what_cannot_be_compressed_is_not_made_larger(name: str) -> None:
    compressor, decompressor = Compressor(name, None), Decompressor()
    assert through(compressor, decompressor, b"text" * 100)
    assert compressor.code == CODES[name] | FRESH
    assert through(compressor, decompressor, b"text" * 200) and compressor.code == CODES[name]
    assert through(compressor, decompressor, random.Random(2).randbytes(5000)) is None
    assert through(compressor, decompressor, b"text" * 300) and compressor.code == CODES[name] | FRESH


@pytest.mark.parametrize("name", compressors())
def test_another_size_than_announced(name: str) -> None:
    for content in (b"x" * protocol.PAYLOAD_BYTES, b"ab" * 1000, bytes(range(256)) * 40):
        compressor = Compressor(name, None)
        made = compressor.compress(memoryview(content))
        assert made
        for size in (len(content) + 1, 0, protocol.PAYLOAD_BYTES + 1, 1 << 62):
            with pytest.raises(ProtocolError):
                Decompressor().decompress(compressor.code, memoryview(made), size)
        for broken in (made[: len(made) // 2], b"", b"\0" * 50, made[::-1]):
            with pytest.raises(ProtocolError):
                Decompressor().decompress(compressor.code, memoryview(broken), len(content))


def test_more_than_was_announced() -> None:
    compressor = Compressor("zlib", None)
    made = compressor.compress(memoryview(b"first" * 1000))
    assert made
    with pytest.raises(ProtocolError):
        Decompressor().decompress(compressor.code, memoryview(made), 4999)


def test_more_than_was_announced_comes_with_the_next_frame_of_zstd(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the guard differs."""
    use(monkeypatch, "zstandard")
    compressor, decompressor = Compressor("zstd", None), Decompressor()
    made = compressor.compress(memoryview(b"first" * 1000))
    assert made and decompressor.decompress(compressor.code, memoryview(made), 4998) == (b"first" * 1000)[:4998]
    made = compressor.compress(memoryview(b"second" * 1000))
    assert made and decompressor.decompress(compressor.code, memoryview(made), 6000) == b"st" + (b"second" * 1000)[:-2]


@pytest.mark.parametrize(("made_by", "read_by"), [("own", "own"), ("own", "zstandard"), ("zstandard", "own")])
@pytest.mark.parametrize("level", [None, 1, 22])
def test_both_libraries_of_zstd(monkeypatch: pytest.MonkeyPatch, made_by: str, read_by: str, level: int | None) -> None:
    use(monkeypatch, made_by)
    compressor = Compressor("zstd", level)
    frames = []
    words = random.Random(3).randbytes(50_000).hex().encode()
    for content in (words, words, random.Random(4).randbytes(5000), bytes(protocol.PAYLOAD_BYTES), words, b"x"):
        made = compressor.compress(memoryview(content))
        frames += [] if made is None else [(compressor.code, made, content)]
    assert [code for code, *_ in frames] == [ZSTD | FRESH, ZSTD, ZSTD | FRESH, ZSTD]
    assert len(frames[1][1]) < len(words) // 20
    use(monkeypatch, read_by)
    decompressor = Decompressor()
    for code, made, content in frames:
        assert decompressor.decompress(code, memoryview(made), len(content)) == content


def test_what_python_s_own_zstd_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "zstandard")
    frame = pytest.importorskip("zstandard").compress(bytes(200 << 20))
    use(monkeypatch, "own")
    made = Compressor("zstd", None).compress(memoryview(b"ab" * 1000)) or b""
    for content, size in ((made, 1999), (made, 2001), (made[:-1], 2000), (b"", 2000), (frame, 1 << 18), (b"x", 0)):
        with pytest.raises(ProtocolError):
            Decompressor().decompress(ZSTD | FRESH, memoryview(content), size)
    whole = pytest.importorskip("zstandard").compress(b"a frame that ends")
    with pytest.raises(ProtocolError, match="another length"):
        Decompressor().decompress(ZSTD | FRESH, memoryview(whole), 17)
    wide = b"\x28\xb5\x2f\xfd\x00\x88" + ((128 << 10) << 3 | 2).to_bytes(3, "little") + b"x"
    with pytest.raises(ProtocolError, match="broken"):
        Decompressor().decompress(ZSTD | FRESH, memoryview(wide), 128 << 10)


@pytest.mark.parametrize("name", compressors())
@given(data=st.data())
def test_no_compressed_bytes_do_anything_but_fail(name: str, data: Any) -> None:
    compressor, decompressor = Compressor(name, None), Decompressor()
    for content in (b"some text, some more text, some text" * 20, b"some text of another kind" * 30):
        made = bytearray(compressor.compress(memoryview(content)) or b"")
        at, flip = data.draw(st.integers(0, len(made) - 1)), data.draw(st.integers(1, 255))
        made[at] ^= flip
        try:
            got = decompressor.decompress(compressor.code, memoryview(bytes(made)), len(content))
        except ProtocolError:
            continue
        assert len(got) == len(content)


@pytest.mark.parametrize("code", [3, 99, (1 << 32) - 1, 3 | FRESH, FRESH, ZLIB, ZSTD])
def test_an_unknown_compressor_or_a_stream_that_has_not_begun(code: int) -> None:
    with pytest.raises(ProtocolError, match="unknown method"):
        Decompressor().decompress(code, memoryview(b"x"), 10)


BOMB = """
import sys, zlib
from sparsesync.engine.errors import ProtocolError
from sparsesync.engine.wire.compression import FRESH, ZLIB, ZSTD, Compressor, Decompressor
def peak():
    # Not getrusage(2), which begins with the peak of whoever started the process.
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
made = sys.stdin.buffer.read()
warm = Compressor({name!r}, None).compress(memoryview(b"0123456789" * 10))
Decompressor().decompress({code} | FRESH, memoryview(warm), 100)
before = peak()
for size in (10, 1000, 256 * 1024):
    try:
        decompressor = Decompressor()
        # Of zstd's stream no more is taken than was announced, and the rest is in the way of the next frame.
        assert len(decompressor.decompress({code} | FRESH, memoryview(made), size)) == size
        decompressor.decompress({code}, memoryview(made), size)
    except ProtocolError:
        continue
    sys.exit("not refused")
print(peak() - before)
"""


@pytest.mark.parametrize("form", ["zlib", "zstd", "zstd window"])
def test_a_bomb(form: str) -> None:
    """In a process of its own: what a C library takes shows in nothing but its resident size."""
    if form == "zlib":
        make, code = "zlib.compress(bytes(200 << 20), 9)", "ZLIB"
    else:
        if "zstd" not in compressors():
            pytest.skip("zstandard is an optional dependency")
        code = "ZSTD"
        make = '__import__("zstandard").compress(bytes(200 << 20))'
        if form == "zstd window":
            # A frame whose head demands a window of 128 MiB, and a block that repeats one byte; then 2,000 more.
            make = 'b"\\x28\\xb5\\x2f\\xfd\\x00\\x88" + (((128 << 10) << 3 | 2).to_bytes(3, "little") + b"x") * 2000'
    # It is made elsewhere, so that the peak of making it hides nothing.
    write = f"import sys, zlib; sys.stdout.buffer.write({make})"
    bomb = subprocess.run([sys.executable, "-c", write], capture_output=True, timeout=60, check=True).stdout
    script = BOMB.format(code=code, name=code.lower())
    done = subprocess.run([sys.executable, "-c", script], input=bomb, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 8 * 1024
