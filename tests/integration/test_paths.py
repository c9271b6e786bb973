"""Paths of any type, in every function that takes them; which of them are on another host, and how they come back."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any, Callable

import pytest

import sparsesync
from tests.support.filesystems import allocated, need_tools, same_content, sparse_file
from tests.support.shells import local_shell

MIB = 1 << 20
COLON = "k:d"

TYPES: dict[str, Callable[[str], Any]] = {"str": str, "bytes": os.fsencode, "Path": Path}


class Loud:
    """A path by bytes, as os.fspath allows it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __fspath__(self) -> bytes:
        return os.fsencode(self.path)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src/below").mkdir(parents=True)
    (tmp_path / "dir").mkdir()
    for name in ("disk", "below/disk", "f\udcff", COLON):
        sparse_file(tmp_path / "src" / name, MIB, [(4096, 4096)])
    os.link(tmp_path / "src/disk", COLON)
    return tmp_path


@pytest.fixture
def rsh(tmp_path: Path) -> str:
    return local_shell(tmp_path / "rsh")


@pytest.mark.parametrize("make", [*TYPES.values(), Loud], ids=[*TYPES, "Loud"])
@pytest.mark.parametrize("copy", [sparsesync.copyfile, sparsesync.copy, sparsesync.copy2])
def test_a_copy_by_any_type(here: Path, make: Callable[[str], Any], copy: Callable[..., Any]) -> None:
    """What is returned, and named in an error, has the type that was given."""
    dst = make("new")
    assert copy(make("src/f\udcff"), dst) is dst and same_content(here / "src/f\udcff", here / "new")
    if copy is not sparsesync.copyfile:
        made = copy(make("src/f\udcff"), make("dir"))
        assert made == (b"dir/f\xff" if isinstance(os.fspath(dst), bytes) else "dir/f\udcff") and os.path.exists(made)
    os.symlink("none", "link")
    assert copy(make("link"), make("other"), follow_symlinks=False) and os.readlink("other") == "none"
    for src, dst, blamed in (("none", "new", "none"), ("src/disk", "none/x", "none/x"), ("src", "new", "src")):
        with pytest.raises(OSError) as caught:
            copy(make(src), make(dst))
        assert caught.value.filename == os.fspath(make(blamed))


@pytest.mark.parametrize("make", [os.fsencode, Path, Loud], ids=["bytes", "Path", "Loud"])
def test_only_a_str_is_on_another_host(here: Path, make: Callable[[str], Any], rsh: str) -> None:
    need_tools("rsync")
    sparsesync.copyfile(make(COLON), make("a:b"))
    assert same_content(here / COLON, here / "a:b")
    assert [file.path for file in sparsesync.scan(make(COLON))] == [COLON]
    assert list(sparsesync.verify(make(COLON), make("a:b"))) == []
    assert sparsesync.exclude_patterns(make(COLON)) == [f"/{COLON}"]
    assert sparsesync.sync(make(COLON), make("c:d"), ["-a"]).status == 0
    assert same_content(here / COLON, here / "c:d") and allocated(here / "c:d") < MIB
    for local, far in ((make(COLON), f"far:{here}/pushed"), (f"far:{here}/{COLON}", make("p:q"))):
        sparsesync.copyfile(local, far, rsh=rsh)
    assert same_content(here / COLON, here / "pushed") and same_content(here / COLON, here / "p:q")
    assert sparsesync.sync([make(COLON), make("src")], f"far:{here}/far/", ["-a", "-e", rsh]).status == 0
    assert same_content(here / COLON, here / "far" / COLON) and same_content(here / "src/disk", here / "far/src/disk")


def test_a_str_with_a_directory_before_it_is_local(here: Path) -> None:
    for given in (f"./{COLON}", f"{here}/{COLON}"):
        sparsesync.copyfile(given, "new")
        assert [file.path for file in sparsesync.scan(given)] == [given]


@pytest.mark.parametrize("make", TYPES.values(), ids=TYPES)
def test_a_copy_from_another_host_has_the_type_that_was_given(here: Path, make: Callable[[str], Any], rsh: str) -> None:
    dst = make("new")
    assert sparsesync.copy(f"far:{here}/src/disk", dst, rsh=rsh) is dst
    assert sparsesync.copy(f"far:{here}/src/disk", make("dir"), rsh=rsh) in (b"dir/disk", "dir/disk")
    assert sparsesync.copy(make("src/disk"), f"far:{here}/dir", rsh=rsh) == f"far:{here}/dir/disk"
    with pytest.raises(FileNotFoundError) as caught:
        sparsesync.copy(make("none"), f"far:{here}/dir", rsh=rsh)
    assert caught.value.filename == os.fspath(make("none"))


@pytest.mark.parametrize("make", TYPES.values(), ids=TYPES)
def test_walks_yield_str(here: Path, make: Callable[[str], Any]) -> None:
    found = {file.path for file in sparsesync.scan(make("src"))}
    assert found == {"src/disk", "src/below/disk", "src/f\udcff", f"src/{COLON}"}
    (here / "dir/below").mkdir()
    assert {each.path for each in sparsesync.verify(make("src"), make("dir"))} == {
        "disk", "below/disk", "f\udcff", COLON
    }  # fmt: skip
    assert "/src/f\udcff" in sparsesync.exclude_patterns([make("src")])
    with pytest.raises(FileNotFoundError):
        list(sparsesync.scan(make("none")))


@pytest.mark.parametrize("make", TYPES.values(), ids=TYPES)
def test_one_path_or_several(here: Path, make: Callable[[str], Any], rsh: str) -> None:
    expected = {"src/disk", "src/f\udcff", f"src/{COLON}"}
    for prune in (make("src/below"), [make("src/below")], iter([make("src/below/"), make("src/none")])):
        assert {file.path for file in sparsesync.scan("src", prune=prune)} == expected
    far = sparsesync.scan(f"far:{here}/src", prune=f"far:{here}/src/below/", rsh=rsh)
    assert {os.path.relpath(file.path, f"far:{here}") for file in far} == expected
    assert sparsesync.exclude_patterns(make("src/below")) == sparsesync.exclude_patterns(iter([make("src/below")]))
    assert sparsesync.exclude_patterns(make("src/below")) == ["/below/disk"]


def test_a_remote_shell_by_its_words(here: Path, rsh: str) -> None:
    words = ["env", "X=a b", rsh]
    assert list(sparsesync.verify("src", f"far:{here}/src", rsh=words)) == []
    assert sparsesync.copy("src/disk", f"far:{here}/new", rsh=words) == f"far:{here}/new"
    assert len(list(sparsesync.scan(f"far:{here}/src", rsh=tuple(words)))) == 4
    assert len(sparsesync.exclude_patterns(f"far:{here}/src", rsh=shlex.join(words[:2]) + f" {rsh}")) == 4
    for wrong in (b"ssh", [], [b"ssh"], 3, [3]):
        with pytest.raises(TypeError, match="rsh must be"):
            sparsesync.copy("src/disk", f"far:{here}/new", rsh=wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="rsh must be"):
            sparsesync.exclude_patterns(f"far:{here}/src", rsh=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [3, None, 1.5, object()], ids=lambda value: type(value).__name__)
def test_what_is_no_path_is_a_type_error_at_once(here: Path, wrong: Any) -> None:
    for call in (
        lambda: sparsesync.copyfile("src/disk", wrong),
        lambda: sparsesync.copy(wrong, "new"),
        lambda: sparsesync.copy2("src/disk", wrong),
        lambda: sparsesync.scan(wrong),
        lambda: sparsesync.scan("src", prune=wrong),
        lambda: sparsesync.scan("src", prune=["src/below", wrong]),
        lambda: sparsesync.verify("src", wrong),
        lambda: sparsesync.exclude_patterns(wrong),
        lambda: sparsesync.exclude_patterns(["src", wrong]),
        lambda: sparsesync.sync(["src", wrong], "new"),
        lambda: sparsesync.sync("src", wrong),
    ):
        with pytest.raises(TypeError):
            call()
    assert sorted(os.listdir()) == sorted(["dir", "src", COLON])


def test_a_descriptor_is_copied_from_its_start_and_stays(here: Path, rsh: str) -> None:
    with open("src/disk", "rb") as file:
        os.unlink("src/disk")
        file.seek(4000)
        os.set_inheritable(file.fileno(), False)
        assert sparsesync.copyfile(file.fileno(), "new", follow_symlinks=False) == "new"
        sparsesync.copyfile(file.fileno(), f"far:{here}/far", rsh=rsh)
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 4000 and not os.path.islink("new")
        assert same_content(here / COLON, here / "new") and same_content(here / COLON, here / "far")
        assert allocated(here / "new") < MIB
        with pytest.raises(OSError) as caught:
            sparsesync.copyfile(file.fileno(), "none/new")
        assert caught.value.filename == "none/new"
        with pytest.raises(TypeError, match="copyfile"):
            sparsesync.copy2(file.fileno(), "new")  # type: ignore[call-overload]
    with pytest.raises(OSError, match="Bad file descriptor"):
        sparsesync.copyfile(98765, "new")
    directory = os.open("src", os.O_RDONLY)
    with pytest.raises(IsADirectoryError) as blamed:
        sparsesync.copyfile(directory, "new")
    os.close(directory)
    assert blamed.value.filename == directory
