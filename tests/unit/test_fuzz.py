"""What reads the words of others, given anything: bytes, JSON, command lines, listings, names.

A few seconds as it is; ``pytest tests/unit/test_fuzz.py --fuzz-seconds=600`` gives each test so long, and says how many
examples that were.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsesync.engine.agent import OPERATIONS
from sparsesync.engine.errors import ProtocolError
from sparsesync.engine.queries.registry import QUERIES, checked
from sparsesync.engine.transfer.limits import Reasons, read_result
from sparsesync.engine.tree.manifest import Blocks
from sparsesync.engine.tree.manifest_wire import Reader
from sparsesync.engine.wire import fields, protocol
from sparsesync.engine.wire.capabilities import capabilities, choose_compressor, choose_digest
from sparsesync.engine.wire.link import peer_error
from sparsesync.engine.wire.protocol import Decoder, Frame
from sparsesync.exclude import FORMATS, quoter
from sparsesync.hosts.remote import RemoteHost
from sparsesync.rsync import command as rsync
from sparsesync.rsync.listing import listing_argv, parse_listing, source_path
from sparsesync.rsync.options import LETTERS, LONGS
from sparsesync.seeding.options.own import split_options
from tests.support.answers import ANSWERS, CLOSED, ERROR, FILE, Liar
from tests.support.filesystems import need


@pytest.fixture
def fuzz(request: pytest.FixtureRequest) -> Callable[[Callable[..., None]], None]:
    """Runs a test of hypothesis once, or again and again for as long as was asked for."""
    seconds = request.config.getoption("--fuzz-seconds")

    def run(test: Callable[..., None]) -> None:
        count = 0

        def counted(**drawn: Any) -> None:
            nonlocal count
            count += 1
            test(**drawn)

        counted.hypothesis_strategies = test.strategies  # type: ignore[attr-defined]
        started = time.monotonic()
        checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
        quick = settings(max_examples=test.examples if not seconds else 2000, deadline=None, database=None,  # type: ignore[attr-defined]
                         suppress_health_check=checks)  # fmt: skip
        while True:
            quick(given(**test.strategies)(counted))()  # type: ignore[attr-defined]
            if time.monotonic() - started >= (seconds or 0):
                break
        if seconds:
            print(f"\n{request.node.name}: {count} examples in {time.monotonic() - started:.0f} s")

    return run


def with_(examples: int = 60, **strategies: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def note(test: Callable[..., None]) -> Callable[..., None]:
        test.strategies, test.examples = strategies, examples  # type: ignore[attr-defined]
        return test

    return note


names = st.binary(max_size=40).map(lambda name: name.decode("utf-8", "surrogateescape"))
odd_numbers = st.sampled_from(
    [-1, 0, 1, 9, 4095, 4096, 65536, (1 << 31), (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64,
     -(1 << 63), 10**29]
)  # fmt: skip
leaves = (
    st.none() | st.booleans() | st.integers(-(10**28), 10**28) | odd_numbers
    | st.floats(allow_nan=False, allow_infinity=False) | names
    | st.text(max_size=20) | st.sampled_from(["", ".", "..", "/", "a/../b", "e", "d", "b", "-", "0" * 32, "\0"])
)  # fmt: skip
anything: Any = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(names, inner, max_size=4), max_leaves=12
)


@st.composite
def changed(draw: Any, good: Any) -> Any:
    """Something good with one part of it, however deep, replaced by anything, left out or doubled."""
    if isinstance(good, dict) and good and draw(st.integers(0, 9)):
        name = draw(st.sampled_from(sorted(good)))
        made = {**good, name: draw(changed(good[name]))}
        if not draw(st.integers(0, 9)):
            del made[name]
        return made
    if isinstance(good, list) and good and draw(st.integers(0, 9)):
        at = draw(st.integers(0, len(good) - 1))
        part = [draw(changed(good[at]))] * draw(st.sampled_from([1, 1, 1, 1, 0, 2]))
        return [*good[:at], *part, *good[at + 1 :]]
    return draw(anything)


def objects(*good: dict[str, Any]) -> Any:
    return st.one_of(*[changed(each) for each in good]).filter(lambda value: isinstance(value, dict))


def through_json(value: dict[str, Any]) -> dict[str, Any]:
    (frame,) = Decoder().feed(protocol.encode(protocol.ITEM, json.dumps(value).encode("ascii")))
    return frame.json()


def refused_or_right(call: Callable[[], object]) -> None:
    try:
        call()
    except ProtocolError as error:
        assert str(error) and "\n" not in str(error)


# Bytes


def test_frames(fuzz: Any) -> None:
    kinds = st.integers(0, 23)

    @with_(stream=st.lists(st.binary(max_size=300) | st.tuples(kinds, st.binary(max_size=200)), max_size=6),
           cuts=st.lists(st.integers(1, 300), max_size=6), greeting=st.booleans())  # fmt: skip
    def test(stream: list[Any], cuts: list[int], greeting: bool) -> None:
        parts = [protocol.encode(*part) if isinstance(part, tuple) else part for part in stream]
        data = (protocol.MAGIC if greeting else b"") + b"".join(parts)

        def read() -> None:
            decoder, at = Decoder(greeting), 0
            for cut in [*cuts, len(data)]:
                for frame in decoder.feed(data[at : at + cut]):
                    read_frame(frame)
                at += cut
            decoder.ended()

        refused_or_right(read)

    fuzz(test)


def read_frame(frame: Frame) -> None:
    for read in (frame.json, lambda: protocol.read_ranged(frame.payload), lambda: protocol.read_tail(frame.payload)):
        refused_or_right(read)


def test_ranges(fuzz: Any) -> None:
    ranges = st.lists(st.tuples(odd_numbers, odd_numbers), max_size=5)
    whole = st.tuples(st.integers(0, 5), ranges, st.binary(max_size=9))

    @with_(payload=st.binary(max_size=100), made=whole)
    def test(payload: bytes, made: tuple[int, list[tuple[int, int]], bytes]) -> None:
        count, ranges, rest = made
        packed = protocol.pack_ranges([(a % (1 << 64), b % (1 << 64)) for a, b in ranges])
        for each in (payload, (1).to_bytes(4, "big") + bytes(4) + count.to_bytes(4, "big") + packed + rest):
            try:
                found = protocol.read_ranged(memoryview(each))
            except ProtocolError:
                continue
            end = 0
            for offset, length in found.ranges:
                assert end <= offset < offset + length <= protocol.LARGEST
                end = offset + length

    fuzz(test)


def test_json(fuzz: Any) -> None:
    pieces = st.sampled_from(
        ["{", "}", "[", "]", ",", ":", '"', '"a"', "1", "-", "1e5", "1e999", "NaN", "Infinity", "null", "true",
         "9" * 31, "\\", "\\u", "\\ud800", " ", "0.1", "\x01"]
    )  # fmt: skip

    @with_(text=st.lists(pieces, max_size=25).map("".join) | st.text(max_size=30), value=anything)
    def test(text: str, value: Any) -> None:
        for payload in (text.encode("utf-8", "surrogatepass"), json.dumps({"a": value}).encode("ascii")):
            frame = Frame(protocol.ITEM, memoryview(payload))

            def read() -> None:
                found = frame.json()  # noqa: B023
                assert isinstance(found, dict) and json.loads(json.dumps(found, allow_nan=False)) == found

            refused_or_right(read)

    fuzz(test)


# JSON from another end


@pytest.mark.parametrize("op", ANSWERS)
def test_answers(fuzz: Any, op: str) -> None:
    ask, good, _ = ANSWERS[op]

    @with_(25, value=objects(good))
    def test(value: dict[str, Any]) -> None:
        refused_or_right(lambda: ask(Liar(through_json(value))))

    fuzz(test)


def test_fields(fuzz: Any) -> None:
    hello = {"protocol": 2, "python": "3.6.0", **capabilities()}
    ours = capabilities()

    @with_(value=objects(CLOSED, ERROR, FILE, hello))
    def test(value: dict[str, Any]) -> None:
        value = through_json(value)
        refused_or_right(lambda: read_result(value, "f", 9, Reasons()))
        refused_or_right(lambda: peer_error(value))
        refused_or_right(lambda: choose_digest(ours, value))
        refused_or_right(lambda: choose_compressor(ours, value, "zstd"))

    fuzz(test)


def test_attributes(fuzz: Any) -> None:
    good = {"mode": 0o644, "uid": 0, "gid": 0, "atime_ns": 0, "mtime_ns": 0, "xattrs": {"user.a": "AAAA"}}

    @with_(value=objects(good))
    def test(value: dict[str, Any]) -> None:
        if fields.attributes(through_json(value)):
            for name, content in value["xattrs"].items():
                assert 0 < len(os.fsencode(name)) < 256 and len(content) % 4 == 0

    fuzz(test)


def test_manifests(fuzz: Any) -> None:
    good = {"events": [["e", "", "d", 0, "", 0], ["d", ""], ["e", "f", "-", 9, "", 0], ["b", "A" * 32],
                       ["e", "g", "d", 0, "", 0], ["d", "g"]]}  # fmt: skip

    @with_(values=st.lists(objects(good), max_size=3))
    def test(values: list[dict[str, Any]]) -> None:
        reader = Reader()

        def read() -> None:
            for value in values:
                for event in reader.item(through_json(value)):
                    if isinstance(event, Blocks):
                        list(event.pairs())
                reader.trouble(OSError(1, "x"))
            reader.ended()

        refused_or_right(read)

    fuzz(test)


def test_parts(fuzz: Any) -> None:
    def read(value: dict[str, Any], op: tuple[str, tuple[Any, ...]]) -> None:
        liar: Any = Liar({"size": 1 << 20}, value)
        with getattr(RemoteHost(liar), op[0])("/x", *op[1]) as (size, parts):
            end = 0
            for start, second, _ in parts:
                assert end <= start <= second + start <= 2 * size
                end = start

    @with_(value=objects({"parts": [[0, 4096, True], [8192, 4096, False]]}, {"parts": [[0, 3, "0" * 64]]}))
    def test(value: dict[str, Any]) -> None:
        value = through_json(value)
        refused_or_right(lambda: read(value, ("layers", ("auto",))))
        refused_or_right(lambda: read(value, ("checksums", (4096, "auto"))))

    fuzz(test)


def test_arguments(fuzz: Any) -> None:
    known = st.sampled_from(sorted({name for op in OPERATIONS.values() for name in op.takes}))

    @with_(op=st.sampled_from(sorted(OPERATIONS)), question=st.sampled_from(sorted(QUERIES)),
           given=st.dictionaries(known | names, anything))  # fmt: skip
    def test(op: str, question: str, given: dict[str, Any]) -> None:
        for check in (lambda: fields.arguments(given, OPERATIONS[op].takes), lambda: checked(question, given)):
            try:
                check()
            except ValueError as error:
                assert "argument" in str(error) and "\n" not in str(error)

    fuzz(test)


# Command lines, listings, patterns

options = st.sampled_from(sorted({"--" + name for name in LONGS} | {"-" + letter for letter in LETTERS}))
words = (
    options | st.tuples(options, names).map("=".join) | names | st.sampled_from(
        ["--", "-", "", "a:b", "a::b", "rsync://h/m", "[::1]:x", ":x", "u@h:~x", "--seed-off", "--seed-min-hole",
         "--seed-min-hole=1.5G", "--seed-holes=x", "--seed-", "--no-", "--no-r", "-avz", "-e", "ssh 'x", "--rsh=", "-f",
         "--bwlimit=9e9", "--bwlimit=-1", "--timeout=x", "--timeout=" + "9" * 400, "--compress-level=" + "9" * 30,
         "--exclude=/a", "--files-from=-", "--max-size=" + "9" * 400, "--chmod=u+x"])
)  # fmt: skip
clean = words.filter(lambda word: "\0" not in word)


def test_command_lines(fuzz: Any) -> None:
    @with_(150, argv=st.lists(clean, max_size=8))
    def test(argv: list[str]) -> None:
        command = rsync.parse(argv)
        assert command.handoff is None or command.handoff
        listing_argv(command)
        try:
            _, rest = split_options(argv)
        except ValueError as error:
            assert "--seed-" in str(error)
        else:
            assert len(rest) <= len(argv)

    fuzz(test)


def test_listings(fuzz: Any) -> None:
    line = st.tuples(
        st.sampled_from([b">f+++++++++ ", b"<f.st...... ", b"cd+++++++++ ", b">f+++++++++", b""]),
        st.sampled_from([b"9 ", b"1" * 400 + b" ", b"-1 ", b" ", b"9"]),
        st.binary(max_size=20) | st.sampled_from([b"a//a", b"a\\#012b//a", b"a//b//c", b"\\#777//x", b"/a//b", b"//"]),
        st.sampled_from([b"\n", b"", b"\r\n"]),
    ).map(b"".join)

    @with_(lines=st.lists(line | st.binary(max_size=60), max_size=8), argv=st.sampled_from(
        [["-a", "a", "b"], ["-aR", "/x/./y", "b"], ["-a", "far:a", "b"], ["-a", "far:a/", ":b", "c"],
         ["-a", "--files-from=x", "far:/a", "b"]]))  # fmt: skip
    def test(lines: list[bytes], argv: list[str]) -> None:
        command = rsync.parse(argv)
        for entry in parse_listing(io.BytesIO(b"".join(lines))):
            assert entry.size >= 0 and not entry.name.startswith(b"/")
            source_path(command, entry)

    fuzz(test)


characters = st.sampled_from("ab*?[]\\!-^{}~#;+ \t\r\n'\".:") | st.integers(0x80, 0xFF).map(lambda c: chr(0xDC00 + c))
file_names = (
    st.text(characters, min_size=1, max_size=8)
    .map(lambda name: os.fsdecode(os.fsencode(name)))
    .filter(lambda name: name not in (".", ".."))
)


def test_patterns(fuzz: Any, tmp_path: Path) -> None:
    """An anchored pattern leaves out the file it was made of and no other: rsync is asked."""
    need(shutil.which("rsync") is not None, "rsync is not installed")
    quote = quoter(null=True)
    numbers = iter(range(1 << 30))

    @with_(8, found=st.lists(file_names, min_size=2, max_size=12, unique=True))
    def test(found: list[str]) -> None:
        top = tmp_path / str(next(numbers))
        top.mkdir()
        for name in found:
            (top / name).touch()
        left_out = found[::2]
        patterns = b"".join(os.fsencode(quote("/" + name)) + b"\0" for name in left_out)
        told = subprocess.run(
            ["rsync", "-r", "--from0", "--exclude-from=-", "--out-format=%n", "-8", f"{top}/", f"{top}.to/"],
            input=patterns, stdout=subprocess.PIPE, check=True,
        )  # fmt: skip
        assert told.returncode == 0
        assert sorted(os.listdir(f"{top}.to")) == sorted(set(found) - set(left_out))
        for directory in (str(top), f"{top}.to"):
            shutil.rmtree(directory)

    fuzz(test)


def test_other_patterns(fuzz: Any) -> None:
    @with_(name=names.filter(lambda name: "\0" not in name), form=st.sampled_from(list(FORMATS)))
    def test(name: str, form: str) -> None:
        try:
            assert "\n" not in quoter(form)("/" + name)
        except ValueError as error:
            assert str(error)

    fuzz(test)
