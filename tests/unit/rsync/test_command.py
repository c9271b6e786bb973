"""The command line of rsync: every rule here was first seen in rsync 3.5.0, and is held against the installed one."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsesync.rsync import command as rsync
from sparsesync.rsync.listing import MARK, Listed, listing_argv, parse_listing, source_path
from sparsesync.rsync.options import LETTERS, LONGS
from sparsesync.rsync.process import version


@pytest.fixture
def real_rsync() -> str:
    found = shutil.which("rsync")
    if found is None:
        assert os.environ.get("CI") != "true", "CI must have rsync"
        pytest.skip("rsync is not installed")
    return found


def parse(*argv: str, **environ: str) -> rsync.Command:
    return rsync.parse(argv, environ)


# Options, paths and their state.


@pytest.mark.parametrize(
    ("argv", "sources", "destination"),
    [
        (["a", "b"], ("a",), "b"),
        (["-a", "a", "-v", "b", "c", "--stats"], ("a", "b"), "c"),
        (["a", "--", "-n", "--", "c"], ("a", "-n", "--"), "c"),
        (["-n", "-", "c"], ("-",), "c"),
        (["-e", "ssh -p 22", "a", "b"], ("a",), "b"),
        (["-essh", "a", "b"], ("a",), "b"),
        (["-e", "--", "a", "b"], ("a",), "b"),
        (["-avzPe", "ssh", "a", "b"], ("a",), "b"),
        (["--exclude", "x", "a", "b", "--exclude=y"], ("a",), "b"),
        (["--exclude=", "a", "b"], ("a",), "b"),
        (["-@", "-1", "a", "b"], ("a",), "b"),
        (["-B", "800", "a", "b"], ("a",), "b"),
        (["a"], ("a",), None),
        ([], (), None),
    ],
)
def test_paths_between_the_options(argv: list[str], sources: tuple[str, ...], destination: str | None) -> None:
    command = parse(*argv)
    assert (command.sources, command.destination) == (sources, destination)


@pytest.mark.parametrize(
    ("argv", "value"),
    [(["-B800"], "800"), (["-B=800"], "800"), (["-B==800"], "=800"), (["-nB", "800"], "800"), (["--block-size=8"], "8"),
     (["--block-size", "-n"], "-n"), (["-B1", "-B2"], "2")],
)  # fmt: skip
def test_values(argv: list[str], value: str) -> None:
    assert parse(*argv, "a", "b").value("block-size") == value


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-a", {"times": True, "perms": True, "group": True}),
        ("-a --no-t", {"times": False, "perms": True}),
        ("--no-times -a", {"times": True}),
        ("-a --no-perms --no-o", {"perms": False, "group": True}),
        ("-a --no-perms -A", {"perms": True}),
        ("-a --files-from=/nonexistent/list", {"relative": True}),
        ("--no-R --files-from=/nonexistent/list", {"relative": False}),
        ("--inplace --no-inplace -S --no-sparse", {"inplace": False, "sparse": False}),
        ("-vvv --no-v -v", {"verbose": 1}),
        ("-vvqq", {"verbose": 2, "quiet": 2}),
        ("-xx", {"one_file_system": True}),
        ("-x --no-x", {"one_file_system": False}),
        ("-i", {"itemize": True}),
        ("-i --no-i", {"itemize": False}),
        ("--log-format=%n", {"itemize": True}),
        ("-P", {"progress": True}),
        ("--chown=:staff", {"group": True}),
        ("--usermap=0:1", {"group": False}),
        ("-k", {"links_followed": True}),
        ("-K", {"links_followed": False}),
        ("--bwlimit=5m", {"bwlimit": 5 << 20}),
        ("--bwlimit=100", {"bwlimit": 102400}),
        ("--bwlimit=1.5MB", {"bwlimit": 1500000}),
        ("--bwlimit=0", {"bwlimit": None}),
        ("--timeout=30", {"timeout": 30}),
        ("-z", {"compress": True}),
        ("--zl=0 -z", {"compress": False}),
        ("--zc=zstd", {"compress": True}),
        ("-z --no-z", {"compress": False}),
        ("--bwlimit=5m --no-bwlimit", {"bwlimit": None}),
        ("--del", {"delete": True}),
        ("--delete-excluded", {"delete": True}),
        ("-b --no-backup", {"backup": False}),
        ("--backup-dir=old", {"backup": True}),
        ("-p --chmod=F644", {"handoff": None}),
        ("--remove-source-files --fsync -nH --mkpath --size-only",
         {"fsync": True, "dry_run": True, "hard_links": True, "mkpath": True}),
    ],
)  # fmt: skip
def test_the_state_options_leave(line: str, expected: dict[str, object]) -> None:
    command = parse(*line.split(), "a", "b")
    assert {name: getattr(command, name) for name in expected} == expected
    assert command.handoff is None


def test_partial_dir_comes_from_the_environment_with_partial_only() -> None:
    assert parse("-P", "a", "b", RSYNC_PARTIAL_DIR=".part").partial_dir == ".part"
    assert parse("-a", "a", "b", RSYNC_PARTIAL_DIR=".part").partial_dir is None
    assert parse("-P", "--partial-dir=x", "a", "b", RSYNC_PARTIAL_DIR=".part").partial_dir == "x"
    assert parse("-aP", "a", "b", RSYNC_PARTIAL_DIR=".part").handoff is None
    assert "without --perms" in (parse("-rtP", "a", "b", RSYNC_PARTIAL_DIR=".part").handoff or "")


# What forbids seeding.


@pytest.mark.parametrize("path", ["a", "./a:b", "/a:b", "a/b:c", "../x:y", "a[b]/c:d"])
def test_a_colon_after_a_slash_is_no_host(path: str) -> None:
    command = parse("-a", path, "b")
    assert command.remote is None
    assert command.handoff is None


@pytest.mark.parametrize("argv", [("", "b"), ("a", "")])
def test_empty_paths_are_left_to_rsync(argv: tuple[str, str]) -> None:
    assert parse(*argv).handoff == "a source or the destination is empty"


# Any command line.

_paths = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=1)
_values = _paths.filter(lambda value: "!#:+" not in value)


@st.composite
def _given_option(draw: st.DrawFn) -> list[str]:
    if draw(st.booleans()):
        plain = sorted(letter for letter, spec in LETTERS.items() if not spec.takes_argument)
        letters = draw(st.text(st.sampled_from(plain), max_size=4))
        last = draw(st.sampled_from(sorted(LETTERS)))
        if not LETTERS[last].takes_argument:
            return [f"-{letters}{last}"]
        value = draw(_values)
        return draw(st.sampled_from([[f"-{letters}{last}={value}"], [f"-{letters}{last}", value]]))
    name = draw(st.sampled_from(sorted(LONGS)))
    spec, negated = LONGS[name]
    if negated or not spec.takes_argument:
        return [f"--{name}"]
    value = draw(_values)
    return draw(st.sampled_from([[f"--{name}={value}"], [f"--{name}", value]]))


@given(st.lists(st.one_of(_given_option(), _paths)), st.lists(_paths))
def test_random_command_lines_parse_back(items: list[list[str] | str], after: list[str]) -> None:
    items = [item for item in items if isinstance(item, list) or item == "-" or not item.startswith("-")]
    argv = [word for item in items for word in (item if isinstance(item, list) else [item])]
    paths = [item for item in items if isinstance(item, str)] + after
    command = parse(*argv, "--", *after, HOME="/nonexistent")
    assert command.sources == tuple(paths[:-1] if len(paths) > 1 else paths)
    assert command.destination == (paths[-1] if len(paths) > 1 else None)
    assert "not known" not in (command.handoff or "")
    again = rsync.parse([token for option in command.options for token in option.tokens], {"HOME": "/nonexistent"})
    assert [o[:2] for o in again.options] == [o[:2] for o in command.options]


@given(st.lists(st.text()))
def test_parse_never_raises(argv: list[str]) -> None:
    command = rsync.parse(argv, {"HOME": "/nonexistent"})
    assert command.argv == tuple(argv)


# The listing.


def test_listing_argv_leaves_out_what_would_spoil_it() -> None:
    command = parse("-avvqhiP", "--stats", "--log-format=%n", "--exclude", "y", "-essh", "a", "-n", "--", "-b", "c")
    assert listing_argv(command) == [
        "-a", "-h", "--partial", "--exclude=y", "--rsh=ssh", "-n", "--dry-run", "--out-format=%i %l %n//%f", "--",
        "a", "-b", "c",
    ]  # fmt: skip
    command = parse("-ai", "--stats", "--log-file=x", "--log-file-format=%n", "a", "c")
    form = f"--out-format=%i %l %n//%f{MARK}%i %n%L{MARK}%n"
    assert listing_argv(command) == ["-a", "--info=name1,stats2", "--dry-run", form, "--", "a", "c"]


def test_options_that_rsync_may_refuse_stay_and_are_overruled() -> None:
    command = parse("-r", "--info=progress2", "--debug=all", "--stderr=all", "a", "b")
    asked = listing_argv(command)
    assert asked.index("--info=all0,name1,stats2") > asked.index("--info=progress2")
    assert asked.index("--debug=all0") > asked.index("--debug=all")
    assert asked.index("--stderr=errors") > asked.index("--stderr=all")


def test_parse_listing_passes_over_everything_else() -> None:
    stream = io.BytesIO(
        b"created directory b\n"
        b"cd+++++++++ 4096 a///a\n"
        b"*deleting   0 x//x\n"
        b"hf+++++++++ 5 y => z//y\n"
        b".f..t...... 5 y//y\n"
        b">f+++++++++ 12 a/x y\\#012//src/a/x y\\#012\n"
        b"<f.st...... 7 /abs/x//abs/x\n"
        b">f+++++++++ 12 a//b//c\n"
        b">f+++++++++ x a//b\n"
        b"\n"
        b">f+++++++++ 12 cut//sh"
    )
    assert [(*each[:2], each.name, each.source) for each in parse_listing(stream)] == [
        (b">f+++++++++", 12, b"a/x y\n", b"src/a/x y\n"),
        (b"<f.st......", 7, b"abs/x", b"abs/x"),
    ]


def test_a_source_that_could_be_two_is_not_told() -> None:
    listed = Listed(b">f+++++++++", 1, b"x", b"etc/x", ())
    assert source_path(parse("/etc/", "etc/", "b"), listed) is None
    assert source_path(parse("/", ".", "b"), listed) is None
    assert source_path(parse("/etc/", "other", "b"), listed) == "/etc/x"
    assert source_path(parse("/other", "./etc/", "b"), listed) == "etc/x"
    assert source_path(parse("/et", "b"), listed) is None


# The real rsync.


def listing(command: rsync.Command, cwd: Path) -> list[Listed]:
    assert command.handoff is None, command.handoff
    done = subprocess.run(["rsync", *listing_argv(command)], cwd=cwd, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, check=True)  # fmt: skip
    return list(parse_listing(io.BytesIO(done.stdout)))


@pytest.mark.usefixtures("real_rsync")
def test_the_table_has_every_option_of_the_help() -> None:
    text = subprocess.run(["rsync", "--help"], stdout=subprocess.PIPE, check=True, text=True).stdout
    seen = re.findall(r"^\s*(--?\S+?)(=\S+)?(?:, (-\S+))?\s+(?:\(\*\) )?\s*\S", text, re.MULTILINE)
    assert len(seen) > 140
    for option, value, other in seen:
        if option == "--no-OPTION":
            continue
        letters = {word[1:] for word in (option, other) if re.fullmatch(r"-[^-]", word)}
        assert letters <= LETTERS.keys()
        if option.startswith("--") and option != "--help":
            spec = LONGS[option[2:]][0]
            assert letters == ({spec.letter} if letters else set())
            assert spec.takes_argument == bool(value), option


def _rsync_wants_argument(option: str) -> bool | None:
    done = subprocess.run(["rsync", option], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True, check=False)  # fmt: skip
    return None if f"{option}: unknown option" in done.stderr else f"{option}: missing argument" in done.stderr


PATCHED = {"sparse-block"}
"""What only the rsyncs of some distributions have."""


@pytest.mark.slow
@pytest.mark.usefixtures("real_rsync")
def test_names_and_arguments_agree_with_rsync() -> None:
    newest = version() >= (3, 5, 0)
    # --daemon would start one where rsyncd.conf is; --server waits for its peer.
    for name in LONGS.keys() - {"daemon", "server"}:
        spec, negated = LONGS[name]
        wants = _rsync_wants_argument(f"--{name}")
        some_lack_it = not newest or name in PATCHED
        assert wants == (spec.takes_argument and not negated) or (wants is None and some_lack_it), name
    for letter, spec in LETTERS.items():
        wants = _rsync_wants_argument(f"-{letter}")
        assert wants == spec.takes_argument or (wants is None and not newest), letter
    for name in LONGS:
        if f"no-{name}" not in LONGS:
            assert _rsync_wants_argument(f"--no-{name}") is None, f"rsync knows --no-{name}"


HOSTILE = [
    b"sp ace", b" lead", b"trail ", b"new\nline", b"cr\rx", b"tab\there", b"\x01\x7f\x1b[31m", b"a -> b", b"a => b",
    b"-dash", b"--", b"%n%f", b"back\\slash", b"\\#", b"\\#0", b"lit\\#012x", b"\\\\#123", b"\\#\\#123", b"\\#12\xff",
    b"\\\n", b"\xff\xfe", b"\xc3\xa9", b"x:y", b"*deleting", b">f+++++++++ 1 a",
]  # fmt: skip


@pytest.mark.usefixtures("real_rsync")
@pytest.mark.parametrize("flags", [[], ["-8"], ["-vvhi", "--info=all", "--progress"]])
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_hostile_names_round_trip(
    tmp_path: Path, flags: list[str], locale: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", locale)
    directory = os.fsencode(tmp_path / "src")
    os.mkdir(directory)
    for size, name in enumerate(HOSTILE):
        Path(os.fsdecode(os.path.join(directory, name))).write_bytes(bytes(size))
    command = rsync.parse(["-r", *flags, "src/", "dest"])
    listed = listing(command, tmp_path)
    assert {each.name: each.size for each in listed} == {name: size for size, name in enumerate(HOSTILE)}
    assert {source_path(command, each) for each in listed} == {os.fsdecode(b"src/" + name) for name in HOSTILE}


@pytest.mark.slow
@pytest.mark.usefixtures("real_rsync")
@pytest.mark.parametrize(
    "argv",
    [
        ["src"], ["src/"], ["./src"], ["src/."], [".//src//"], ["src/../src"], ["."], ["./"], ["src/a/.."],
        ["src/a", "src/f"], ["{}/src"], ["{}/src/"], ["//{}//src//./"], ["{}/src/../src/f"], ["src/f"],
        ["src/a", "{}/src/f"], ["-R", "src/a"], ["-R", "./src/./a"], ["-R", "src/a/./b/./g"], ["-R", "{}/src"],
        ["-R", "{}/./src/a"], ["-R", "."],
        ["-L", "link"], ["link/"], ["-R", "src/a/."], ["../{name}/src"], ["../{name}/"], [".."],
        ["--files-from=list", "src"], ["--files-from=list", "src/"], ["--files-from=list", "{}/src"],
        ["--files-from=list", "./src/./a/.."], ["--no-R", "--files-from=list", "src"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_source_path_names_the_very_file(tmp_path: Path, argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    (work / "src/a/b").mkdir(parents=True)
    (work / "src/f").write_bytes(b"1")
    (work / "src/a/b/g").write_bytes(b"22")
    (work / "link").symlink_to("src")
    (work / "list").write_text("./f\n/a//b/./g\n")
    monkeypatch.chdir(work)
    wanted = {1: work / "src/f", 2: work / "src/a/b/g", 14: work / "list"}
    command = rsync.parse(["-r", *(each.format(work, name="work") for each in argv), str(tmp_path / "dest/")])
    listed = listing(command, work)
    assert listed
    for each in listed:
        path = source_path(command, each)
        assert path is not None
        assert os.path.samefile(path, wanted[each.size])
        assert wanted[each.size].name == os.fsdecode(each.name).rpartition("/")[2]


@pytest.mark.usefixtures("real_rsync")
def test_the_root_as_a_source(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"1")
    parents = [*reversed(tmp_path.parents), tmp_path][1:]
    command = rsync.parse(["-r", *(f"--include={p}" for p in parents), f"--include={tmp_path}/f", "--exclude=*", "/",
                           str(tmp_path / "dest")])  # fmt: skip
    (listed,) = listing(command, tmp_path)
    assert source_path(command, listed) == str(tmp_path / "f")


@pytest.mark.usefixtures("real_rsync")
def test_the_listing_is_not_fooled_by_deletions_hard_links_and_directories(tmp_path: Path) -> None:
    for name in ("src/d", "dest"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "src/one").write_bytes(b"123")
    os.link(tmp_path / "src/one", tmp_path / "src/two")
    (tmp_path / "dest/old").write_bytes(b"")
    for flags in ("-aH", "-aHq", "-aHvvv"):
        command = rsync.parse([flags, "--delete", "--stats", "src/", "dest/"])
        # Which of the names rsync transfers, and which it links to that, is its own affair.
        (listed,) = listing(command, tmp_path)
        assert listed[:4] in [(b">f+++++++++", 3, name, b"src/" + name) for name in (b"one", b"two")]
    assert (tmp_path / "dest/old").exists()


@pytest.mark.usefixtures("real_rsync")
@pytest.mark.parametrize("option", ["--info=help", "--info=bogus", "--outbuf=Z", "--bwlimit=x", "--max-size=x"])
def test_what_rsync_would_refuse_lists_nothing(tmp_path: Path, option: str) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/f").write_bytes(b"1")
    command = rsync.parse(["-a", option, "src/", "dest/"])
    done = subprocess.run(["rsync", *listing_argv(command)], cwd=tmp_path, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, check=False)  # fmt: skip
    assert list(parse_listing(io.BytesIO(done.stdout))) == []


@pytest.mark.usefixtures("real_rsync")
@pytest.mark.parametrize("option", ["--compare-dest", "--copy-dest", "--link-dest"])
def test_a_listed_file_may_be_seeded_beside_an_alternative_destination(tmp_path: Path, option: str) -> None:
    for name in ("src", "alt", "dest"):
        (tmp_path / name).mkdir()
    (tmp_path / "src/x").write_bytes(b"new!")
    (tmp_path / "alt/x").write_bytes(b"old!")
    os.utime(tmp_path / "alt/x", (1, 1))
    command = rsync.parse(["-a", f"{option}=../alt", "src/", "dest/"])
    (listed,) = listing(command, tmp_path)
    shutil.copy2(tmp_path / "src/x", tmp_path / "dest" / os.fsdecode(listed.name))
    assert listing(command, tmp_path) == []
    subprocess.run(["rsync", *command.argv], cwd=tmp_path, check=True)
    assert (tmp_path / "dest/x").read_bytes() == b"new!"
