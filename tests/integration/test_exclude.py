"""Exclude files, read by the programs they are for: exactly the sparse files are left out."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sparsesync
from sparsesync.commands import exclude
from sparsesync.exclude import PatternOptions
from tests.support.filesystems import need_tools, sparse_file

NAMES = st.text(st.sampled_from(" *?[]\\#;-+!'\"$ab\n\r\t\udcff\u00e9."), min_size=1, max_size=6).filter(
    lambda name: name not in (".", "..")
)
TREES = st.lists(st.tuples(st.lists(NAMES, max_size=2), NAMES, st.booleans()), min_size=1, max_size=8)
SOURCES = [(["src/"], False), (["src"], False), (["./src/."], False), (["src"], True), (["./src/./"], True),
           (["src/a", "src/b/"], False), ([".//src//a/../"], False)]  # fmt: skip


def build(top: Path, tree: list[tuple[list[str], str, bool]]) -> None:
    (top / "a").mkdir(parents=True)
    (top / "b").mkdir()
    for directories, name, sparse in [*tree, (["a"], "img", True), (["b"], "img2", True), (["a"], "plain", False)]:
        directory = os.path.join(top, *directories)
        path = os.path.join(directory, name)
        try:
            os.makedirs(directory, exist_ok=True)
            with open(path, "xb") as file:
                file.write(b"x")
                file.truncate(1 << 20 if sparse else 1)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue  # a name that the tree has already


def files(top: Path) -> dict[str, bool]:
    """Each file below ``top`` and whether it is sparse."""
    found = {}
    for directory, _, names in os.walk(top):
        for name in names:
            path = os.path.join(directory, name)
            found[os.path.relpath(path, top)] = os.stat(path).st_size > 1
    return found


def rsync(place: Path, sources: list[str], relative: bool, target: str, *options: str) -> dict[str, bool]:
    argv = ["rsync", "-a", *(["-R"] if relative else []), *options, "--", *sources, target + "/"]
    done = subprocess.run(argv, cwd=place, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return files(place / target)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(tree=TREES, form=st.sampled_from(SOURCES))
def test_rsync_leaves_out_the_sparse_files_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, tree: list[tuple[list[str], str, bool]], form: tuple[list[str], bool]
) -> None:
    need_tools("rsync")
    place = tmp_path_factory.mktemp("tree")
    build(place / "src", tree)
    sources, relative = form
    back = os.getcwd()
    os.chdir(place)
    try:
        with open(place / "null", "wb") as out:
            exclude.write(out, sources, PatternOptions(relative=relative, null=True))
        try:
            with open(place / "lines", "wb") as out:
                exclude.write(out, sources, PatternOptions(relative=relative, null=False))
        except ValueError as error:
            assert "-0" in str(error)
            assert any("\n" in name or "\r" in name for name, sparse in files(place / "src").items() if sparse)
            lines = False
        else:
            lines = True
        everything = rsync(place, sources, relative, "all")
        wanted = {name for name, sparse in everything.items() if not sparse}
        assert set(rsync(place, sources, relative, "0", "--from0", "--exclude-from=null")) == wanted
        if lines:
            assert set(rsync(place, sources, relative, "1", "--exclude-from=lines")) == wanted
    finally:
        os.chdir(back)
        shutil.rmtree(place)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(tree=TREES, source=st.sampled_from(["src", "src/", "./src"]))
def test_tar(tmp_path_factory: pytest.TempPathFactory, tree: list[tuple[list[str], str, bool]], source: str) -> None:
    need_tools("tar")
    place = tmp_path_factory.mktemp("tree")
    build(place / "src", [(d, n, s) for d, n, s in tree if "\n" not in "".join([*d, n])])
    back = os.getcwd()
    os.chdir(place)
    try:
        with open("list", "wb") as out:
            exclude.write(out, [source], PatternOptions(format="tar", null=False))
        subprocess.run(["tar", "-cf", "x.tar", "--anchored", "-X", "list", source], check=True, timeout=60)
        (place / "out").mkdir()
        subprocess.run(["tar", "-xf", "x.tar", "-C", "out"], check=True, timeout=60)
        assert set(files(place / "out/src")) == {name for name, sparse in files(place / "src").items() if not sparse}
    finally:
        os.chdir(back)
        shutil.rmtree(place)


HOSTILE = ["plain", "sp ace", "star*", "q?", "[x]", "back\\slash", "#c", ";s", "$HOME", "trail ", "'\"", "\u00e9",
           "-d", "\u202fnarrow", "wide\u3000", "line\u2028", "next\u0085", "tab\tab", "\u2003",
           "\u200b"]  # fmt: skip


def hostile_tree(top: Path) -> None:
    for name in HOSTILE:
        (top / "src").mkdir(exist_ok=True)
        with open(top / "src" / name, "wb") as file:
            file.truncate(1 << 20)
        (top / "src" / (name + "kept")).write_bytes(b"x")
    (top / "src/starry").write_bytes(b"x")
    (top / "src/sub/src").mkdir(parents=True)
    (top / "src/sub/src/plain").write_bytes(b"x")


@pytest.mark.slow
def test_borg(tmp_path: Path) -> None:
    need_tools("borg")
    hostile_tree(tmp_path)
    environment = {**os.environ, "HOME": str(tmp_path), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}
    with open(tmp_path / "list", "wb") as out:
        exclude.write(out, [str(tmp_path / "src")], PatternOptions(format="borg", null=False))
    for argv in (
        ["borg", "init", "-e", "none", "repo"],
        ["borg", "create", "--exclude-from", "list", "repo::one", str(tmp_path / "src")],
    ):
        subprocess.run(argv, cwd=tmp_path, env=environment, check=True, timeout=120)
    (tmp_path / "out").mkdir()
    subprocess.run(["borg", "extract", "../repo::one"], cwd=tmp_path / "out", env=environment, check=True, timeout=120)
    restored = tmp_path / "out" / str(tmp_path / "src").lstrip("/")
    assert set(files(restored)) == {name for name, sparse in files(tmp_path / "src").items() if not sparse}


def test_borg_reads_utf_8(tmp_path: Path) -> None:
    need_tools("borg")
    place = tmp_path / os.fsdecode(b"\xff")
    place.mkdir()
    hostile_tree(place)
    source = str(place / "src")
    with pytest.raises(ValueError, match="not UTF-8: exclude files of borg cannot carry"):
        sparsesync.exclude_patterns([source], format="borg")
    # Nothing is found, so only the head might hold the bytes.
    with open(tmp_path / "list", "wb") as out:
        exclude.write(out, [source], PatternOptions(format="borg", min_size=1 << 40, null=False))
    assert (tmp_path / "list").read_text(encoding="utf-8").startswith("# 0 sparse files")


@pytest.mark.slow
def test_restic(tmp_path: Path) -> None:
    need_tools("restic")
    hostile_tree(tmp_path)
    environment = {**os.environ, "HOME": str(tmp_path), "RESTIC_PASSWORD": "x", "RESTIC_REPOSITORY": "repo"}
    with open(tmp_path / "list", "wb") as out:
        exclude.write(out, [str(tmp_path / "src")], PatternOptions(format="restic", null=False))
    for argv in (
        ["restic", "init"],
        ["restic", "backup", "--exclude-file", "list", "src"],
        ["restic", "restore", "latest", "--target", "out"],
    ):
        subprocess.run(argv, cwd=tmp_path, env=environment, check=True, timeout=120, stdout=subprocess.DEVNULL)
    (restored,) = [Path(d) for d, names, _ in os.walk(tmp_path / "out") if "sub" in names]
    assert set(files(restored)) == {name for name, sparse in files(tmp_path / "src").items() if not sparse}


@pytest.mark.parametrize(("source", "below"), [("src", "/"), ("src/", "/"), (".", "/src/"), ("./src/sub", "/")])
def test_kopia_sees_names_below_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, below: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src/sub").mkdir(parents=True)
    sparse_file(tmp_path / "src/sub/img", 1 << 20, [])
    inside = os.path.relpath("src/sub/img", source)
    assert sparsesync.exclude_patterns(source, format="kopia") == [f"/{inside}"] and f"/{inside}".startswith(below)
    with pytest.raises(ValueError, match="for one directory only"):
        sparsesync.exclude_patterns([source, "src"], format="kopia")
    with pytest.raises(ValueError, match="is a file"):
        sparsesync.exclude_patterns("src/sub/img", format="kopia")


def test_rustic_sees_paths_as_they_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src").mkdir()
    sparse_file(tmp_path / "src/img", 1 << 20, [])
    for source, seen in (
        ("src", "src/img"),
        ("./src/", "src/img"),
        (".", "src/img"),
        (tmp_path, f"{tmp_path}/src/img"),
    ):
        assert sparsesync.exclude_patterns(source, format="rustic") == [f"!/{seen.lstrip('/')}"]
    # Where one is absolute, it makes all so.
    (tmp_path / "more").mkdir()
    assert sparsesync.exclude_patterns(["src", tmp_path / "more"], format="rustic") == [
        f"!{os.path.realpath(tmp_path)}/src/img"
    ]


def test_the_docker_preset(tmp_path: Path) -> None:
    need_tools("rsync")
    root = tmp_path / "lib/docker"
    for path in (
        "devicemapper/devicemapper/data",
        "devicemapper/devicemapper/metadata",
        "devicemapper/metadata/base",
        "devicemapper/mnt/abc/file",
        "overlay2/abc/diff/etc/passwd",
        "overlay2/abc/merged/etc/passwd",
        "containers/c1/mounts/shm/x",
        "containers/c1/config.v2.json",
        "volumes/v/_data/metadata",
        "volumes/v/_data/tmp/kept",
        "tmp/scratch",
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    kept = {
        "devicemapper/metadata/base",
        "overlay2/abc/diff/etc/passwd",
        "containers/c1/config.v2.json",
        "volumes/v/_data/metadata",
        "volumes/v/_data/tmp/kept",
    }
    for source, below in ((f"{root}/", ""), (str(root), "docker"), (str(root), str(root).lstrip("/"))):
        relative = below.count("/") > 0
        with open(tmp_path / "list", "wb") as out:
            exclude.write(out, [source], PatternOptions(preset="docker", relative=relative, null=False))
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        assert set(rsync(tmp_path, [source], relative, "out", "--exclude-from=list")) == {
            os.path.join(below, name) for name in kept
        }


def test_the_system_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_tools("rsync")
    top = tmp_path / "root"
    for path in ("proc/1/x", "etc/passwd", "tmp/x", "var/tmp/kept", "swap file", "mnt/disk/x", "home/u/proc/kept"):
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_bytes(b"x")
    swaps = tmp_path / "swaps"
    swaps.write_text(f"Filename\tType\tSize\n{top}/swap\\040file\tfile\t1\n/dev/sda2\tpartition\t1\n")
    monkeypatch.setattr("sparsesync.engine.queries.presets.SWAPS", str(swaps))
    with open(tmp_path / "list", "wb") as out:
        exclude.write(out, [f"{top}/"], PatternOptions(preset="system", null=False))
    assert set(rsync(tmp_path, ["root/"], False, "out", "--exclude-from=list")) == {
        "etc/passwd",
        "var/tmp/kept",
        "home/u/proc/kept",
    }
    assert (tmp_path / "out/proc").is_dir()


def test_what_a_preset_leaves_out_whole_is_not_walked(tmp_path: Path) -> None:
    for name in ("tmp/below", "mnt", "media", "srv/tmp", "."):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        with open(tmp_path / name / "img", "wb") as file:
            file.truncate(1 << 20)
    top = f"{tmp_path}/"
    patterns = sparsesync.exclude_patterns([top], preset="system")
    assert [pattern for pattern in patterns if "img" in pattern] == ["/img", "/srv/tmp/img"]
    with open(tmp_path / "list", "wb") as out:
        exclude.write(out, [top], PatternOptions(preset="system", null=False))
    assert (tmp_path / "list").read_text().startswith("# 2 sparse files")
    # A source of its own is not what the other source leaves out: its names in the transfer are others.
    patterns = sparsesync.exclude_patterns([str(tmp_path), str(tmp_path / "tmp/below")], preset="system")
    assert "/below/img" in patterns and f"/{tmp_path.name}/tmp/below/img" not in patterns


def test_the_root_as_the_shell_expands_it() -> None:
    patterns = sparsesync.exclude_patterns(["/proc", "/etc/hostname", "/sys"], preset="system")
    assert patterns == ["/proc/*", "/sys/*"]
    assert sparsesync.exclude_patterns(["/etc/hostname"], preset="system") == []


def test_the_head_says_what_was_found(tmp_path: Path) -> None:
    with open(tmp_path / "img", "wb") as file:
        file.truncate(3 << 30)
    os.link(tmp_path / "img", tmp_path / "link")  # it is another name, and no other file
    (tmp_path / "dense").write_bytes(b"x")
    with open(tmp_path / "list", "wb") as out:
        exclude.write(out, [f"{tmp_path}/"], PatternOptions(null=False), command="sparsesync 9")
    assert (tmp_path / "list").read_text().splitlines() == [
        "# 1 sparse file: 3.0 GiB apparent, 0 B allocated",
        f"# made by sparsesync 9 exclude --min-size 0 --min-ratio 0 {tmp_path}/",
        "# use: rsync --exclude-from=FILE",
        "/img",
        "/link",
    ]


def test_thresholds(tmp_path: Path) -> None:
    for name, size, data in (("half", 1 << 20, 1 << 19), ("small", 8192, 4096), ("most", 1 << 20, 4096)):
        with open(tmp_path / name, "wb") as file:
            file.write(b"x" * data)
            file.truncate(size)
    top = f"{tmp_path}/"
    assert sorted(sparsesync.exclude_patterns([top])) == ["/half", "/most", "/small"]
    assert sorted(sparsesync.exclude_patterns([top], min_size=10_000)) == ["/half", "/most"]
    assert sparsesync.exclude_patterns([top], min_ratio=0.9) == ["/most"]


def test_refusals(tmp_path: Path) -> None:
    with open(tmp_path / "new\nline", "wb") as file:
        file.truncate(1 << 20)
    top = f"{tmp_path}/"
    assert sparsesync.exclude_patterns([top]) == ["/new\nline"]
    for call in (
        lambda: sparsesync.exclude_patterns([top], null=False),
        lambda: sparsesync.exclude_patterns([top], format="tar"),
        lambda: sparsesync.exclude_patterns([top], format="restic"),
        lambda: sparsesync.exclude_patterns([top], format="zip"),  # type: ignore[arg-type]
        lambda: sparsesync.exclude_patterns([top], preset="nosuch"),
    ):
        with pytest.raises(ValueError):
            call()
    with pytest.raises(FileNotFoundError):
        sparsesync.exclude_patterns([str(tmp_path / "none")])
