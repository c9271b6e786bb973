"""What a terminal may get to see, and the way of another host's standard error to it."""

from __future__ import annotations

import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsesync.engine.text import escape_name, printable_already
from sparsesync.hosts.stderr_relay import StderrRelay
from sparsesync.rsync.listing import unescape
from tests.support.filesystems import need, need_tools

OBEYED = [*map(chr, [*range(0x20), *range(0x7F, 0xA0)]), *"\u061c\u200e\u200f\u2028\u2029\ufeff\ufff9\ufffa\ufffb",
          *map(chr, [*range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xE0000, 0xE0080)])]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\x1b[31m", "a\\#012b\\#033[31m"),
        ("x\x9b31m", "x\\#302\\#23331m"),
        ("\u202egnp", "\\#342\\#200\\#256gnp"),
        ("\u2028", "\\#342\\#200\\#250"),
        ("\U000e0041", "\\#363\\#240\\#201\\#201"),
        ("\udcff\udc80", "\\#377\\#200"),
        ("\ud83d", "\\#355\\#240\\#275"),
        ("\\#012 \\#1 \\", "\\#134#012 \\#1 \\"),
        ("e\u0301\u3000\u200c\u200d\ue000 \u05d0\u0627 \U0001f469\u200d\U0001f4bb", None),
    ],
)
def test_what_is_escaped(text: str, shown: str | None) -> None:
    assert escape_name(text) == (text if shown is None else shown)


def test_every_character_that_a_terminal_obeys() -> None:
    for character in OBEYED:
        assert escape_name(character) == "".join(f"\\#{byte:03o}" for byte in character.encode())
    for number in range(sys.maxunicode + 1):
        if unicodedata.category(chr(number)) in ("Cc", "Cs", "Zl", "Zp"):
            assert escape_name(chr(number)).isascii() and escape_name(chr(number)).isprintable()


@pytest.mark.slow
@given(st.text() | st.binary().map(os.fsdecode) | st.lists(st.sampled_from([*OBEYED, *"\\#01é"])).map("".join))
def test_any_text_is_one_line_from_which_it_can_be_had_again(text: str) -> None:
    shown = escape_name(text)
    assert not set(shown) & set(OBEYED)
    assert unescape(shown.encode()) == text.encode("utf-8", "surrogateescape" if _is_name(text) else "surrogatepass")
    assert printable_already(shown) == shown


def _is_name(text: str) -> bool:
    return not any(0xD800 <= ord(character) < 0xDC80 or 0xDCFF < ord(character) < 0xE000 for character in text)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_no_text_raises_whatever_the_locale(encoding: str) -> None:
    script = (
        "import sys, warnings; from sparsesync.console.messages import as_bytes, print_error, print_line\n"
        "text = 'a\\x9b\\u202e\\ud800\\udcff\\u3000\\xe9'\n"
        "print_line(text); print_error(ValueError(text)); print_error(OSError(5, text, text)); as_bytes(text)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": f"{encoding}:strict", "LC_ALL": "C", "PYTHONUTF8": "0",
             "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert said.count(b"\n") == 3 and b"\x9b" not in said and said.count(b"\\#302\\#233") == 4


def relayed(command: str, fd: int) -> subprocess.Popen[bytes]:
    """Run a shell command, its standard error by way of a relay to ``fd``; all of it is there on return."""
    kept = os.dup(2)
    os.dup2(fd, 2)
    try:
        relay = StderrRelay()
        process = subprocess.Popen(["sh", "-c", command], stderr=relay.sink, stdout=subprocess.PIPE)
        relay.started()
        process.wait(60)
        relay.close()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    return process


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (b"plain\nand more\n", b"plain\nand more\n"),
        (b"ssh ends lines so\r\nand\rso", b"ssh ends lines so\nand\nso"),
        (b"\x1b]0;title\x07\xc2\x9b31m \xff\n", b"\\#033]0;title\\#007\\#302\\#23331m \\#377\n"),
        (b"sparsesync: a\\#012b: is escaped\n", b"sparsesync: a\\#012b: is escaped\n"),
        ("é\u3000\n".encode(), "é\u3000\n".encode()),
        (b"x" * 8191 + "é".encode() + b"y" * 8189 + b"\r\n", b"x" * 8191 + "é".encode() + b"y" * 8189 + b"\n"),
        (b"cut \xc3", b"cut \\#303"),
    ],
)
def test_what_another_host_says(tmp_path: Path, said: bytes, shown: bytes) -> None:
    need(sys.getfilesystemencoding() == "utf-8", "the locale is not UTF-8")
    (tmp_path / "said").write_bytes(said)
    with open(tmp_path / "shown", "wb") as out:
        relayed(f"cat '{tmp_path}/said' >&2", out.fileno())
    assert (tmp_path / "shown").read_bytes() == shown


def test_a_line_without_an_end_is_not_collected(tmp_path: Path) -> None:
    import tracemalloc

    tracemalloc.start()
    with open(tmp_path / "shown", "wb") as out:
        relayed("head -c 4000000 /dev/zero | tr '\\0' x >&2", out.fileno())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert os.path.getsize(tmp_path / "shown") == 4000000
    assert peak < 1 << 20


@pytest.mark.parametrize("rest", ["sleep 60", "yes"])
def test_one_who_goes_on_is_not_waited_for(tmp_path: Path, rest: str) -> None:
    """A command that the remote host's shell leaves behind holds its standard error, and may go on to write."""
    with open(tmp_path / "shown", "wb") as out:
        process = relayed(f"echo first >&2; (exec {rest} >&2) & echo $!", out.fileno())
    assert process.stdout is not None
    os.kill(int(process.stdout.read().split()[0]), 9)
    process.stdout.close()
    assert (tmp_path / "shown").read_bytes().startswith(b"first\n")


def test_with_nobody_to_hear_it_the_other_goes_on(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb"), open(tmp_path / "file", "rb") as not_for_writing:
        process = relayed("head -c 200000 /dev/zero >&2; exit 3", not_for_writing.fileno())
    assert process.stdout is not None
    process.stdout.close()
    assert process.returncode == 3


def test_a_remote_shell_that_writes_to_the_terminal(tmp_path: Path) -> None:
    need_tools("rsync")
    (tmp_path / "rsh").write_text("#!/bin/sh\nprintf '\\033[31mPermission\\302\\233 denied.\\r\\n' >&2\nexit 255\n")
    (tmp_path / "rsh").chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "sparsesync", "scan", "-e", "./rsh", "h:/x"], cwd=tmp_path, capture_output=True
    )
    first, second = done.stderr.splitlines()
    assert done.returncode == 1
    assert first == b"\\#033[31mPermission\\#302\\#233 denied."
    assert second == b"sparsesync: h: ssh could not log in"
