"""The dry run: what rsync is asked with, and what it is asked again."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from sparsesync.rsync.command import parse
from sparsesync.rsync.listing import dry_run, parse_listing, parse_unchanged, source_path
from tests.support.filesystems import command, need_tools


def test_names_that_are_too_long_for_a_line_are_asked_for_without_their_sources(tmp_path: Path) -> None:
    need_tools("rsync")
    below = "/".join(["d" * 200] * 13)
    os.makedirs(tmp_path / "src" / below)
    (tmp_path / "src" / below / "f").write_bytes(b"x")
    with tempfile.TemporaryFile() as listing:
        status, _ = dry_run(parse(["-a", f"{tmp_path}/src/", f"{tmp_path}/dst/"]), listing)
        (found,) = parse_listing(listing)
    assert (status, os.fsdecode(found.name), found.source) == (0, f"{below}/f", b"")


@pytest.mark.parametrize(("kills", "status"), [(1, 0), (2, 20)])
def test_an_rsync_that_is_killed_is_asked_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int, status: int
) -> None:
    fake = tmp_path / "rsync"
    fake.write_text(
        "#!/bin/sh\n"
        f"[ $1 = --version ] || echo >>{tmp_path}/runs; [ $(wc -l <{tmp_path}/runs) -gt {kills} ] || exit 20\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with tempfile.TemporaryFile() as listing:
        assert dry_run(parse(["a", "b"]), listing)[0] == status
    assert len((tmp_path / "runs").read_text()) == 2


class _Heard:
    """Hears what rsync lists, from its last beginning on."""

    def begin(self) -> None:
        self.lines: list[bytes] = []

    def hear(self, lines: Iterable[bytes]) -> None:
        self.lines += lines


def test_what_a_killed_rsync_had_listed_is_heard_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who hears the lines as they come hears what is written to the listing, and of that only the last answer."""
    need_tools("rsync")
    for number in range(600):
        (tmp_path / f"src/d{number // 200}").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"src/d{number // 200}/f{number}").touch()
    fake, heard = tmp_path / "rsync", _Heard()
    fake.write_text(
        "#!/bin/sh\n"
        f'[ -e {tmp_path}/killed ] && exec {shutil.which("rsync")} "$@"\n'
        f"echo '>f+++++++++ 1 gone//gone'; touch {tmp_path}/killed; kill -9 $$\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with tempfile.TemporaryFile() as listing:
        asked = parse(["-a", f"{tmp_path}/src/", f"{tmp_path}/dst/"])
        assert dry_run(asked, listing, hearer=heard)[0] == 0
        assert heard.lines == listing.readlines()
    assert len([*parse_listing(heard.lines)]) == 600


def test_more_options_and_another_destination(tmp_path: Path) -> None:
    need_tools("rsync")
    for name in ("src", "dst", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "dst/gone").touch()
    (tmp_path / "other/too").touch()
    asked = parse(["-a", f"{tmp_path}/src/", f"{tmp_path}/dst/"])
    with tempfile.TemporaryFile() as listing:
        dry_run(asked, listing, options=["--delete"])
        assert b"gone" in listing.read()
        dry_run(asked, listing, options=["--delete"], destination=f"{tmp_path}/other/")
        assert b"too" in listing.read()


def test_what_is_left_as_it_is_is_kept_apart(tmp_path: Path) -> None:
    """Only files that are large enough; the listing is what it is without them."""
    need_tools("rsync")
    src, dst = tmp_path / "src", tmp_path / "dst"
    src.mkdir()
    for name, size in [("same", 10_000), ("mode", 12_345), ("small", 9999), ("new", 10_000), ("excluded", 10_000)]:
        (src / name).write_bytes(b"x" * size)
    command("rsync", "-a", "--exclude=new", f"{src}/", f"{dst}/")
    os.chmod(src / "mode", 0o600)
    argv = ["-avi", "--exclude=excluded", f"{src}/", f"{dst}/"]
    with tempfile.TemporaryFile() as listing, tempfile.TemporaryFile() as unchanged:
        dry_run(parse(argv), listing)
        alone = listing.read()
        dry_run(parse(argv), listing, unchanged)
        assert b"".join(line for line in listing if not line.startswith(b".d ")) == alone
        assert [found.name for found in parse_listing(io.BytesIO(alone))] == [b"new"]
        unchanged.seek(0)
        found = {entry.name: entry for entry in parse_unchanged(unchanged)}
        assert {name: entry.size for name, entry in found.items()} == {b"same": 10_000, b"mode": 12_345}
        assert source_path(parse(argv), found[b"same"]) == str(src / "same")
        linked = parse(["-a", f"--link-dest={dst}", f"{src}/", f"{tmp_path}/new/"])
        dry_run(linked, listing, unchanged)
        unchanged.seek(0)
        assert sorted(entry.name for entry in parse_unchanged(unchanged)) == [b"excluded", b"mode", b"same"]
