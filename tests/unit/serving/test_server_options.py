"""rsync's arguments, as its client sends them and as one sends them that wants more."""

from __future__ import annotations

import os
import random
import re

import pytest

from sparsesync.rsync.options import LONGS
from sparsesync.serving.beneath import OutsideError, Root
from sparsesync.serving.server_options import arguments, split
from tests.support.intruder import make

PUSH, PULL = "-vlogDtpre.iLsfxCIvu", "--sender -vlogDtpre.iLsfxCIvu"
OLD, NEW = (3, 2, 7), (3, 5, 0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    served = make(tmp_path_factory.mktemp("top"))
    (served / "a b").mkdir()
    (served / "a*").touch()
    return Root(str(served))


def test_words_are_rsyncs() -> None:
    assert split(r"a\ b  c\*d* \\x --x=\~y") == [("a b", None), ("c*d*", "c[*]d*"), ("\\x", None), ("--x=~y", None)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"{PUSH} . /sub/", "-- . sub/"), (f"{PUSH} .", "-- . ."), (f"{PUSH} . ~/new", "-- . new"),
        (f"{PULL} . /f sub/ in/", "-- . f sub/ in/"), (f"{PULL} . file out", "-- . file out"),
        (f"{PULL} . s*/f none*", "-- . sub/f none*"), (f"{PULL} . */f", "-- . in/f sub/f"),
        (rf"{PULL} . a\* a\ b/", "-- . a* a b/"), (f"{PULL} --files-from=- --from0 . sub", "-- . sub"),
        (f"{PULL} --files-from /f . sub", "--files-from=f -- . sub"),
        (f"{PUSH} --link-dest /old --partial-dir .p --temp-dir ~/t . sub",
         "--link-dest=ROOT/old --partial-dir=.p --temp-dir=ROOT/t -- . sub"),
        (f"{PUSH} --delete --timeout=60 -B1000 -@-1 --log-format=%i . sub", "-B1000 -@-1 --log-format=%i -- . sub"),
    ],
)  # fmt: skip
def test_what_a_client_sends_is_taken(root: Root, line: str, expected: str) -> None:
    words = " ".join(arguments(line, root, "read-write", OLD))
    assert words.startswith("--server --sender" if PULL in line else "--server -v")
    assert words.endswith(expected.replace("ROOT", root.path).replace("--files-from=- ", ""))
    confined = arguments(line, root, "read-write", NEW)
    assert f"--confine-root={root.path}" in confined and ("--drop-D" in confined) == (PUSH in line and PULL not in line)


ELSEWHERE = [
    *(f"{PUSH} . {path}" for path in ("../outside", "out/new", "file", "dangling", "/../x", "~/..")),
    *(f"{PULL} . {path}" for path in ("../outside/secret", "out/secret", "out/", "out/.", "sub/../../f", r"\.\./f")),
    *(f"{PULL} --files-from {path} . ." for path in ("file", "../outside/secret", "out/secret", "/etc/../../x")),
    f"{PULL} --files-from=- . out", f"{PULL} . f ../f", f"{PULL} . up/outside/s*", f"{PUSH} --temp-dir=../out . sub",
    *(f"{PUSH} --{option} {path} . sub" for path in ("../../outside", "/out", "/../x")
      for option in ("backup-dir", "temp-dir", "link-dest", "copy-dest", "compare-dest", "partial-dir")),
]  # fmt: skip


@pytest.mark.parametrize("line", ELSEWHERE)
def test_what_leads_elsewhere_is_refused(root: Root, line: str) -> None:
    with pytest.raises(OutsideError):
        arguments(line, root, "read-write", NEW)


SMUGGLED = [
    "--log-file=/tmp/x", "--rsync-path=x", "--daemon", "--config=x", "--rsh=x", "-e", "-esh", "--copy-devices",
    "--write-devices", "--sender", "--server", "--insecure-links", "--no-confine-root", "--confine-root=/", "-L",
    "-k", "-K", "--copy-unsafe-links", "--copy-links", "--keep-dirlinks", "-s", "-aL", "--no-munge-links",
    "--secluded-args", "--protect-args", "-M--daemon", "--remote-option=x", "--write-batch=x",
    "--only-write-batch=x", "--read-batch=x", "--password-file=x", "--filter=x", "--exclude-from=/etc/passwd",
    "--include-from=x", "--copy-as=x", "--sparse=x", "--", "-", "x", "/etc", "-vLe.iLsfx", "--outbuf=x",
    "--early-input=x", "--dparam=x", "--debug=all", "--del", "--delet", "--log-fil=x", "-T/tmp", "-f/etc/passwd",
    "--stats=x", "-e.i;x", "-e.i/../x", "-e sh", "--log-file /tmp/x",
]  # fmt: skip


@pytest.mark.parametrize("option", SMUGGLED)
def test_an_option_that_is_not_listed_is_refused(root: Root, option: str) -> None:
    for line in (f"-r {option} . sub", f"--sender {option} -r . sub"):
        with pytest.raises(ValueError, match=r"not for this key|make sense"):
            arguments(line, root, "read-write", NEW)


def test_behind_the_dot_all_are_paths(root: Root) -> None:
    words = arguments("--sender -r . --daemon -e.i", root, "read-write", NEW)
    assert words[words.index("--") :] == ["--", ".", "--daemon", "-e.i"]


def test_each_of_rsyncs_options_is_listed_or_refused(root: Root) -> None:
    """What a newer rsync has is not listed, and so refused."""
    taken = set()
    for name in LONGS:
        try:
            arguments(f"--{name}=1 . sub", root, "read-write", NEW)
        except ValueError:
            try:
                arguments(f"--{name} . sub", root, "read-write", NEW)
            except ValueError:
                continue
        taken.add(name)
    assert (
        taken & {"log-file", "daemon", "config", "copy-links", "write-devices", "rsh", "filter", "write-batch"} == set()
    )
    assert taken >= {"delete", "link-dest", "timeout", "partial", "checksum-choice", "usermap", "fake-super"}


CHANGING = [
    "--delete", "--delete-during", "--delete-excluded", "--delete-missing-args", "--force", "--inplace", "--append",
    "-b", "-rbe.i", "--backup-dir=x", "--partial-dir=x", "--delay-updates", "--remove-source-files",
    "--remove-sent-files", "-H", "-rX", "--temp-dir=x",
    "--copy-dest=x",
]  # fmt: skip


@pytest.mark.parametrize("option", CHANGING)
def test_append_only_leaves_what_is_there(root: Root, option: str) -> None:
    with pytest.raises(ValueError, match="which is append-only"):
        arguments(f"-r {option} . sub", root, "append-only", NEW)
    assert arguments(f"-r {option} . sub", root, "read-write", NEW)


def test_modes(root: Root) -> None:
    assert "--ignore-existing" in arguments("-r . sub", root, "append-only", OLD)
    with pytest.raises(ValueError, match="this key is read-only"):
        arguments("-r . sub", root, "read-only", NEW)
    with pytest.raises(ValueError, match="which is read-only"):
        arguments("--sender -r --remove-source-files . sub", root, "read-only", NEW)


def test_whatever_is_made_up_stays_inside(root: Root) -> None:
    chance = random.Random(3)
    outside = os.path.dirname(root.path) + "/outside"
    paths = [
        "f",
        "sub",
        "../outside",
        outside,
        "out",
        "file",
        "out/secret",
        "~/f",
        "~root",
        "s*",
        "*/secret",
        "new",
        "-e",
    ]
    pieces = [
        *SMUGGLED,
        *CHANGING,
        *paths,
        "--link-dest",
        "--files-from",
        "--backup-dir=",
        ".",
        "-r",
        "--sender",
        r"\.\.",
    ]
    taken = 0
    for _ in range(3000):
        line = " ".join(chance.choice(pieces) for _ in range(chance.randint(1, 6)))
        try:
            words = arguments(
                f"{chance.choice(['', '--sender '])}{line} . {chance.choice(paths)}", root, "read-write", OLD
            )
        except (ValueError, OSError):
            continue
        taken += 1
        options, named = words[: words.index("--")], words[words.index("--") + 2 :]
        values = [word.partition("=")[2] for word in options if re.match("--.*-d(ir|est)=", word)]
        lists = [word.partition("=")[2] for word in options if word.startswith("--files-from=") and word[-2:] != "=-"]
        values = [] if "--sender" in options else [os.path.join(named[0], value) for value in values]  # it has none
        for path in [*named, *lists, *values]:
            assert not path.startswith("/") or path.startswith(f"{root.path}/"), (line, words)
            above = os.path.realpath(os.path.join(root.path, os.path.dirname(path)))
            assert f"{above}/".startswith(f"{root.path}/"), (line, words)
    assert taken > 100
