"""Where rsync goes under its rules, as rsync itself shows: by what arrives, of random trees under random rules."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsesync.engine.tree.left_out import left_out
from sparsesync.engine.tree.scan import ScanOptions, scan
from sparsesync.rsync import command as rsync
from sparsesync.rsync import filters
from tests.support.sync import run


def walk(*argv: str, **environ: str) -> filters.Walk | None:
    return filters.walk(rsync.parse(argv, environ))


# Held against rsync.

_NAMES = [b"a", b"b", b"ab", b"B", b"a.b", b"-", b"[", b"]", b"\\", b"*", b"a\\b", b"a b", b"\xff", "é".encode(), b"\n"]
_tree = st.sets(st.lists(st.sampled_from(_NAMES), min_size=1, max_size=4).map(b"/".join), min_size=6, max_size=24)
_FILTERS = """-_ +_ -!_ +,!_ -s_ +r_ -rs_ -x_ -p_ H_ S_ P_ R_ H!_ Rp_
    exclude_ include_ exclude,!s_ hide,p_ show_ protect_ risk_ hide,_"""
_SIGNS = ["--exclude=", "--exclude=- ", "--include=", "--exclude=+ ", *map("--filter={}".format, _FILTERS.split())]
_WHOLE = ["--exclude=!", "--filter=!", "--filter=clear", "--exclude=", "--include=*/", "--exclude=*", "--filter=-! */"]


@st.composite
def _pattern(draw: st.DrawFn, tree: set[bytes]) -> str:
    """A part of one of the names, in which wildcards stand for some of the characters."""
    parts = os.fsdecode(draw(st.sampled_from(sorted(tree)))).split("/")
    first = draw(st.integers(0, len(parts) - 1))
    text = ""
    for each in "/".join(parts[first : draw(st.integers(first + 1, len(parts)))]):
        wild = ["?", "*", "**", f"[{each}]", f"[!{each}]", f"[^x{each}]", f"[]{each}]", f"[ -{each}]", f"[{each}-b]"]
        wild += [f"[\\{each}-c]", f"\\{each}", "[[:alpha:]]", "[![:upper:].]", "[[:punct:][:space:]]", "[[:", "[a", ""]
        text += draw(st.sampled_from([*[each] * len(wild), *wild]))
    before = draw(st.sampled_from(["", "", "", "/", "/", "**", "**/", "/**/", "*/", "src/"]))
    return before + text + draw(st.sampled_from(["", "", "", "/", "/*", "/**", "/***", "*", "**", "***", "\\"]))


@st.composite
def _given(draw: st.DrawFn) -> tuple[set[bytes], list[str]]:
    """A tree, and options with rules for it."""
    tree = draw(_tree)
    rule = st.builds("{}{}".format, st.sampled_from(_SIGNS), _pattern(tree))
    return tree, draw(st.lists(rule | rule | rule | st.sampled_from(_WHOLE), min_size=1, max_size=5))


@pytest.fixture(scope="module")
def top() -> Iterator[Path]:
    # Short, since patterns may be held against all of it.
    with tempfile.TemporaryDirectory() as top:
        yield Path(top)


def plant(top: Path, tree: set[bytes]) -> None:
    shutil.rmtree(top / "src", ignore_errors=True)
    (top / "src").mkdir()
    # The longest come first: what is a directory by then is no file any more.
    for name in sorted(tree, key=lambda name: -name.count(b"/")):
        path = os.fsencode(top / "src") + b"/" + name
        if not os.path.lexists(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "xb"):
                pass


def asked(*argv: str) -> set[bytes]:
    """What rsync would bring: directories, with a slash at the end, and files."""
    done = run("rsync", *argv, "--dry-run", "--out-format=%n")
    assert done.returncode == 0, done.stderr
    shown = (re.sub(rb"\\#(\d{3})", lambda code: bytes([int(code[1], 8)]), line) for line in done.stdout.splitlines())
    return {name.lstrip(b"/") for name in shown if name != b"./"}


def gone_to(walk: filters.Walk, source: str, shown: str) -> set[bytes]:
    """What is looked at of a source, whose name in the transfer is ``shown``: all that is not left out."""
    skip = left_out(source, walk.rules(source))
    found: set[bytes] = set()
    ahead = [source]
    while ahead:
        path = ahead.pop()
        directory = os.path.isdir(path) and not os.path.islink(path)
        if skip is None or not skip(path, directory):
            name = os.fsencode(path.replace(source, shown, 1)).strip(b"/")
            found |= {name + b"/" if directory else name} - {b"/"}
            ahead += [os.path.join(path, name) for name in os.listdir(path)] if directory else []
    return found


def compare(top: Path, source: str, *options: str, recursive: str = "-r") -> bool:
    """Hold the walk of a source against what rsync brings of it. False: the rules are not understood."""
    argv = [recursive, *options, source, f"{top}/dst/"]
    ours = walk(*argv)
    if ours is None:
        return False
    theirs = asked(*argv)
    shown = "" if source.endswith("/") else "src"
    if "-R" in options and "/./" not in source:  # the directories above are made, too
        shown = source
        above = os.fsencode(source).strip(b"/") + b"/"
        theirs = {name for name in theirs if name.startswith(above)}
    assert gone_to(ours, source, shown) == theirs
    return True


_PLAIN = r"""
    a/a/a a/a/b a/b/a a/b/c/d a/ab b/a/a b/ab/a b/a.b ab/a A/a B/b/b a\b/a a\/b *a/b x*/y [a]/b [a/b -/a ]/b c/xÿ/a
    c/xé/a c/Ã©/b c/x:/a src/src/a src/b d/** d/a? 1/a _/a d/]] d/a] d/\ d/\\ d/: d/[: d/b:]
"""
_EVERY = {name.encode("latin-1") for name in _PLAIN.split()} | {b"x\n/y", b"\x7f/a", b"e f/a", b"e\t/a"}
_RULES = r"""
    /a /a/ a a/ a/b /a/b a/* /a/* */a /*/a /*/a/ b/*/a /b/*/a src /src / // a// /a// ** **/ *** /** /*** a** a***
    /a** /a*** a/** a/*** /a/** /a/*** **a **/a **/a/ /**/a **/a/*** /**/a/*** a**a /a**a a/**/a /a/**/a **/b/**
    b/**/a/ */*** ? ?? /?/a x? x?? c/x?/a [ab] [!ab] [^ab] [a-c] [c-a] []] []-a] [!]a] [a [a]/b \[a]/b [[]a [[]a]
    a\b a\b* a\\b* a\ \*a \*a* *\* x\** \a \a? [\]] [\]-a] [a\-c] [--a] [a-] [[:alpha:]] [[:alpha:]]/a [[:alpha:]-z]
    [![:alpha:]] [[:upper:]]/a [[:lower:]]/* [[:punct:]]/a [[:cntrl:]]/a x[[:cntrl:]] [[:digit:][:upper:]]
    x[![:print:]] [[:xdigit:]]/ [[:alnum:]_] [[:space:]] [[:blank:]] [[:graph:]] [[:] [[:]] [[::]] [[:a [:a] [[:a]
    [[:a]] [[a:]] d/[[]: d/[[:a]: [a[:digit:]-z] é c/?/b c/??/b x[\xff] x[é] *.b **b/ * */ */* /*/ /*/* /*/*/ a*b
    a/a* src/src src/*/a /src/src **/src/a **/src **src/b e[[:blank:]]*
"""


@pytest.mark.slow
def test_patterns_one_by_one(top: Path) -> None:
    plant(top, _EVERY)
    forms = itertools.product(["src/", "./src"], [[], ["-R"]])
    left = [
        rule
        for rule, (source, relative) in zip(_RULES.split(), itertools.cycle(forms))
        if not compare(top, f"{top}/{source}", f"--exclude={rule}", *relative)
    ]
    assert left == ["[[::]]"]


@pytest.mark.slow
@settings(max_examples=int(os.environ.get("FILTER_EXAMPLES", "60")), deadline=None)
@given(given=_given(), named=st.sampled_from(["/", "", "-R", "-R/./"]))
def test_the_walk_is_that_of_rsync(top: Path, given: tuple[set[bytes], list[str]], named: str) -> None:
    tree, options = given
    plant(top, tree)
    source = f"{top}/./src" if "." in named else f"{top}/src" + named[:1].strip("-")
    compare(top, source, *options, *["-R"] * named.startswith("-R"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "lines",
    [
        b"/a\n\n# b\n;c\r\nd\r- x*\n+ *\n",
        b" a\n#a\n- \\*\n+ a/a\n!\n/b/a",
        b"/a\0x\n\0- c\0",
        b"+ */\n+ a\n*\n",
        b"-  a\n!x\n",
        b"\xff\nx\xff\n",
    ],
)
def test_files_of_rules(top: Path, lines: bytes) -> None:
    plant(top, _EVERY | {b" a", b"#a", b"!x", b"x\n/a", b"c"})
    rules = top / "rules"
    rules.write_bytes(lines)
    zeros = ["-0"] if b"\0" in lines else []
    # Only what is named after it has its lines end so.
    for options in (zeros, [*zeros, "--no-from0"], []):
        for option in ("--exclude-from", "--include-from"):
            understood = compare(top, f"{top}/src/", *options, f"{option}={rules}", "--exclude=*/b")
            assert understood == (b"\0" not in lines or options == ["-0"])
    compare(top, f"{top}/src/", f"--exclude-from={rules}", "-0")


@pytest.mark.parametrize(
    "lines",
    [
        b"- /a\n+,s b\n\n#-\nhide c\nP *\nexclude_d/",
        b"- a\nclear\n- b\n!\n- /x*\n",
        b". {}/more\n- b",
        b"a\n- b\n",
        b"- x\rS *\rH *",
    ],
)
@pytest.mark.parametrize("rule", [". ", "merge ", ".- ", "merge,+ "])
def test_merged_files_of_rules(top: Path, lines: bytes, rule: str) -> None:
    plant(top, _EVERY | {b"- b", b"- a"})
    (top / "more").write_bytes(b"+ a/\n- a*\n")
    (top / "rules").write_bytes(lines.replace(b"{}", os.fsencode(top)))
    plain = lines == b"a\n- b\n" and rule in (". ", "merge ")
    if plain:
        assert walk("-r", f"--filter={rule}{top}/rules", "a", "b") is None
    else:
        assert compare(top, f"{top}/src/", "--include=/b/a", f"--filter={rule}{top}/rules", "--exclude=/d")


_UNKNOWN = """
    -F -FF -C --cvs-exclude --filter=:_x --filter=dir-merge_x --filter=:-_x --filter=:C --filter=-C
    --filter=-/_x --filter=.w_{}/rules --filter=.n_{}/rules --filter=._- --filter=._../x --filter=- --filter=-_
    --filter=x_y --filter=Hs_x --filter=-e_x --filter=excluded_x --filter=!_x --exclude=-_ --exclude-from=-
    --exclude-from={}/none --include-from={} --include-from={}/fifo --exclude=[[:word:]] --exclude=[a/b]
    --exclude=*a*b*c*d*e --exclude=**a**b**c --exclude-from={}/long --exclude-from={}/zeros --partial-dir=../x
    --files-from={}/rules -L -k --copy-unsafe-links --old-dirs --no-r_-d --no-r_--old-dirs
"""


@pytest.mark.parametrize("line", _UNKNOWN.split())
def test_what_only_rsync_knows(tmp_path: Path, line: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "rules").write_bytes(b"- a\n")
    (tmp_path / "long").write_bytes(b"x" * 1001)
    (tmp_path / "zeros").write_bytes(b"a\0b")
    options = [option.replace("_", " ") for option in line.format(tmp_path).split("_-")]
    options[1:] = [f"-{option}" for option in options[1:]]
    assert walk("-r", "--exclude=a", *options, "a", "b") is None
    assert walk("-r", "--exclude=a", "--exclude=*-*-*-*", "--exclude=**a**", "a", "b") is not None


def test_a_file_of_rules_that_reads_itself(tmp_path: Path) -> None:
    (tmp_path / "rules").write_text(f". {tmp_path}/rules\n")
    assert walk("-r", f"-f. {tmp_path}/rules", "a", "b") is None


def test_no_rules_cost_nothing() -> None:
    for line in ("-a", "-r --delete --backup --partial", "-a --filter=P_x --filter=-x_y", "-a --exclude=x --exclude=!"):
        found = walk(*(word.replace("_", " ") for word in line.split()), "a", "b")
        assert found is not None
        assert found.rules("a") is None


def test_what_a_run_has_left_is_not_transferred(top: Path) -> None:
    plant(top, {b".part/a", b"a/.part/a", b"b/.part", b".~tmp~/a", b"a/x/y/a", b"a/y/a"})
    for option in ("--partial-dir=.part", "--partial-dir=x//y/", "--partial-dir=/a", "--partial-dir=[.]pa?t"):
        assert compare(top, f"{top}/src/", option)
    assert compare(top, f"{top}/src/", "--include=.part/", "--partial-dir=.part")
    for options in (["--delay-updates"], ["--delay-updates", "--no-delay-updates"]):
        assert compare(top, f"{top}/src/", *options)


def test_without_recursion(top: Path) -> None:
    plant(top, {b"a/b", b"c"})
    for recursive in ("-t", "--no-r"):
        for source in (f"{top}/src/", f"{top}/src"):
            ours = walk(recursive, "--exclude=x", source, "b")
            assert ours is not None
            assert [*scan(source, ScanOptions(every_file=True, rules=ours.rules(source)))] == []
        ours = walk(recursive, f"{top}/src/c", f"{top}/src/a", "b")
        assert ours is not None
        assert len([*scan(f"{top}/src/c", ScanOptions(every_file=True, rules=ours.rules(f"{top}/src/c")))]) == 1
    assert compare(top, f"{top}/src/", "--exclude=b", recursive="-a")
