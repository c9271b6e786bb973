"""Why a run is left to rsync: each reason, as a person reads it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sparsesync.rsync import command as rsync
from sparsesync.rsync.options import LONGS, Spec


def parse(*argv: str, **environ: str) -> rsync.Command:
    return rsync.parse(argv, environ)


@pytest.mark.parametrize(
    "spec", dict.fromkeys(spec for spec, _ in LONGS.values() if spec.why_not), ids=lambda spec: str(spec.name)
)
def test_a_forbidding_option_says_its_name_and_its_reason(spec: Spec) -> None:
    command = parse("-a", f"--{spec.name}" + ("=1" if spec.takes_argument else ""), "a", "b")
    assert command.handoff == f"--{spec.name} is given: {spec.why_not}"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("-a --frob a b", "the option --frob is not known"),
        ("-a --seed-only a b", "the option --seed-only is not known"),
        ("-a --rec a b", "the option --rec is not known"),
        ("-aj a b", "the option -j is not known"),
        ("-a=1 a b", "the option -= is not known"),
        ("--archive=1 a b", "the option --archive takes no value"),
        ("--no-bwlimit=1 a b", "the option --no-bwlimit takes no value"),
        ("a b --bwlimit", "the option --bwlimit lacks its value"),
        ("a b -e", "the option -e lacks its value"),
        ("-ac a b", "-c is given: asking what would be sent would read every file whole"),
        ("-rt --chmod=F644 a b", "--chmod is given without --perms: it would change new files only"),
        ("-rtE a b",
         "--executability is given without --perms: it changes the mode of a file that exists, and not of a new one"),
        ("-rty a b", "--fuzzy is given without --perms: a new file gets the mode of the one it is made from"),
        ("-rt --link-dest=x a b",
         "--link-dest is given without --perms: a new file gets the mode of the one it is made from"),
        ("-a a", "there is no destination: rsync only lists files"),
        ("-h", "there is no destination: rsync only lists files"),
        ("-a a b:c host:/x/y:z", "the other host cannot be told from the command line"),
        ("-a h:a i:b c", "more than one other host is named"),
        ("-a u@h:a h:b c", "more than one other host is named"),
        ("-a :a b", "more than one other host is named"),
        ("-a :a b:", "the other host cannot be told from the command line"),
        ("-a --rsync-path=/opt/rsync3 a h:b", "--rsync-path runs something other than rsync"),
        ("-a a host::b", "an rsync daemon is at the other end"),
        ("-a a rsync://host/b", "an rsync daemon is at the other end"),
        ("-a --files-from=h:list a b", "--files-from names a file on another host"),
        ("-a --files-from=- --exclude-from=- a b", "more than one option reads standard input"),
        ("-a --exclude-from=/dev/zero a b", "--exclude-from names something that can be read only once"),
        ("-a --exclude-from=/ a b", "--exclude-from names something that can be read only once"),
        ("-a --suffix=!#:+ a b", "an argument holds '!#:+', which has a meaning of its own in option values"),
    ],
)  # fmt: skip
def test_reasons(line: str, reason: str) -> None:
    assert parse(*line.split()).handoff == reason


@pytest.mark.parametrize("environ", [{"RSYNC_ICONV": "."}])
def test_environment_that_forbids(environ: dict[str, str]) -> None:
    handoff = parse("-a", "a", "b", **environ).handoff
    assert handoff is not None
    assert handoff.startswith(next(iter(environ)))


def test_an_empty_rsync_iconv_is_none() -> None:
    assert parse("-a", "a", "b", RSYNC_ICONV="").handoff is None


@pytest.mark.parametrize(("line", "allowed"), [("rsync alias -a -r", False), ("* alias --x -r", False),
                                               ("tar alias -a -r", True), ("# rsync", True)])  # fmt: skip
def test_popt_aliases(tmp_path: Path, line: str, allowed: bool) -> None:
    (tmp_path / ".popt").write_text(f"\n{line}\n")
    assert (parse("-a", "a", "b", HOME=str(tmp_path)).handoff is None) is allowed


@pytest.mark.parametrize(
    ("rule", "allowed"),
    [("- /x", True), (". {}", True), ("merge {}", True), (".,e {}", True), ("merge,e {}", True), ("._{}", True),
     (".w {}", False), (". -", False), ("merge -", False), (".", False), (". /dev/fd/63", False), (". {}.pipe", False),
     (". {}.nested", False), (": .rules", True), ("dir-merge .rules", True), (": /dev/stdin", False)],
)  # fmt: skip
def test_filter_files_must_say_the_same_twice(tmp_path: Path, rule: str, allowed: bool) -> None:
    rules = tmp_path / "rules"
    rules.write_text("- *.o\n")
    os.mkfifo(f"{rules}.pipe")
    Path(f"{rules}.nested").write_text("- *.o\nmerge -\n")
    assert (parse("-a", "-f", rule.format(rules), "a", "b").handoff is None) is allowed


@pytest.mark.parametrize("option", ["--exclude-from", "--include-from", "--files-from"])
def test_named_files_can_be_read_twice_or_are_kept(tmp_path: Path, option: str) -> None:
    (tmp_path / "file").write_text("x\n")
    os.mkfifo(tmp_path / "pipe")
    assert parse(f"{option}={tmp_path}/file", "a", "b").handoff is None
    assert parse(f"{option}={tmp_path}/missing", "a", "b").handoff is None
    assert parse(f"{option}={tmp_path}/pipe", "a", "b").handoff is None
    assert parse(f"{option}=/dev/null", "a", "b").handoff is None
    reason = f"{option} names something that can be read only once"
    assert parse(f"{option}={tmp_path}", "a", "b").handoff == reason
    command = parse(f"{option}=-", "a", "b")
    assert command.spool_stdin
    assert command.handoff is None
