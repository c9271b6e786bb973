"""scan, map, exclude and verify on another host: what they say is what they say of the same files here."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sparsesync
from sparsesync.comparison import digests
from sparsesync.engine.host import LocalHost
from sparsesync.engine.tree.scan import ScanOptions
from sparsesync.hosts.address import split_shell
from sparsesync.hosts.base import Location
from sparsesync.hosts.loader import Shell
from sparsesync.hosts.remote import RemoteHost
from sparsesync.hosts.ssh import Connection, connect
from tests.support.filesystems import command, loop_device, need, need_root, need_tools, sparse_file
from tests.support.schemas import fields
from tests.support.shells import local_shell, old_pythons, script
from tests.support.sshd import Sshd
from tests.support.trees import ODD_NAMES, build, entries

pytestmark = pytest.mark.ssh

MIB = 1 << 20
KIB = 1 << 10


@pytest.fixture(scope="module")
def local_rsh(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A remote shell that leads to this machine and needs no login, for what is not about ssh."""
    return local_shell(tmp_path_factory.mktemp("rsh") / "rsh")


@pytest.fixture(scope="module")
def agent(sshd_server: Sshd) -> Iterator[Connection]:
    """One connection through a real sshd, for many comparisons."""
    with connect("far", Shell(tuple(split_shell(sshd_server.rsh))), ["far"]) as connected:
        yield connected


def run(rsh: str, *argv: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        [sys.executable, "-m", "sparsesync", *argv],
        cwd=cwd,
        capture_output=True,
        timeout=60,
        env={**os.environ, "RSYNC_RSH": rsh, **environment},
    )
    assert b"Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tree ``t`` of sparse files in it, some with names that are hard to carry."""
    top = tmp_path_factory.mktemp("tree")
    (top / "t/sub dir").mkdir(parents=True)
    sparse_file(top / "t/large", 10 << 30, [(0, MIB), (5 << 30, 2 * MIB)])
    sparse_file(top / "t/sub dir/many", 1000 * 16 * KIB, [(n * 16 * KIB, 4 * KIB) for n in range(1000)])
    sparse_file(top / "t/dense", MIB, [(0, MIB)])
    os.link(top / "t/large", top / "t/sub dir/large too")
    for name in ODD_NAMES:
        sparse_file(top / "t" / name, MIB, [(4096, 4096)])
    # What is allocated changes once more when it is written out.
    for path in [*top.glob("t/*"), *top.glob("t/*/*")]:
        command("sync", path)
    return top


# scan


def test_scan_says_what_it_says_here(sshd_server: Sshd, local_rsh: str, tree: Path) -> None:
    def both(*options: str, rsh: str = local_rsh) -> tuple[bytes, bytes]:
        here = run(rsh, "scan", *options, str(tree / "t"), cwd=tree)
        there = run(rsh, "scan", *options, f"far:{tree}/t", cwd=tree)
        assert (here.returncode, here.stderr) == (there.returncode, there.stderr) == (0, b"")
        return here.stdout, there.stdout

    here, there = both(rsh=sshd_server.rsh)
    assert there.replace(b"far:", b"") == here and there.count(b"far:/") == 2 + len(ODD_NAMES)
    here, there = both("--all", "--json", "--min-size", "1M")
    listed, expected = json.loads(there), json.loads(here)
    assert listed["total"] == expected["total"]
    assert [{**file, "path": file["path"].replace("far:", "", 1)} for file in listed["files"]] == expected["files"]
    here, there = both("-0")
    assert sorted(there.split(b"\0")) == sorted(b"far:" + path if path else b"" for path in here.split(b"\0"))


def test_scan_of_here_and_there_and_of_what_is_not_there(local_rsh: str, tree: Path) -> None:
    (tree / "to").symlink_to("t")
    try:
        done = run(local_rsh, "scan", "-0", f"far:{tree}/none", "t", f"far:{tree}/to", cwd=tree)
    finally:
        (tree / "to").unlink()
    assert done.returncode == 1
    assert done.stderr == f"sparsesync: far:{tree}/none: No such file or directory\n".encode()
    paths = done.stdout.split(b"\0")
    assert b"t/-n" in paths and os.fsencode(f"far:{tree}/to/-n") in paths
    assert len(paths) == len(set(paths)) == 1 + 2 * (2 + len(ODD_NAMES))


def test_the_engine_is_sent_from_a_zip_file_too(local_rsh: str, tree: Path, tmp_path: Path) -> None:
    top = Path(sparsesync.__file__).parents[1]
    library = shutil.make_archive(str(tmp_path / "library"), "zip", top, "sparsesync")
    done = run(local_rsh, "scan", "-0", f"far:{tree}/t", cwd=tmp_path, PYTHONPATH=library)
    assert done.stderr == b"" and done.stdout.count(b"\0") == 2 + len(ODD_NAMES)


def test_a_file_of_two_far_paths_is_found_once(local_rsh: str, tree: Path) -> None:
    done = run(local_rsh, "scan", "-0", f"far:{tree}/t", f"far:{tree}/t/", cwd=tree)
    assert done.stdout.count(b"\0") == 2 + len(ODD_NAMES)


def test_scan_in_python(
    sshd_server: Sshd, local_rsh: str, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = {file.path: file for file in sparsesync.scan(tree / "t", every_link=True)}
    there = list(sparsesync.scan(f"far:{tree}/t", every_link=True, rsh=sshd_server.rsh))
    assert {file.path for file in there} == {f"far:{path}" for path in here}
    for file in there:
        expected = here[file.path[4:]]
        assert (file.size, file.allocated) == (expected.size, expected.allocated)
        fields = ("st_mode", "st_ino", "st_dev", "st_nlink", "st_size", "st_blocks")
        assert [getattr(file.st, name) for name in fields] == [getattr(expected.st, name) for name in fields]
        assert int(file.st.st_mtime) == int(expected.st.st_mtime)
    pruned = sparsesync.scan(f"far:{tree}/t", prune={f"far:{tree}/t/sub dir", "/other"}, rsh=local_rsh)
    assert f"far:{tree}/t/sub dir/many" not in {file.path for file in pruned}
    # A local path stays one, colon or not, where it is no str or has a slash before the colon.
    monkeypatch.chdir(tmp_path)
    sparse_file(tmp_path / "a:b", MIB, [])
    assert [file.path for file in sparsesync.scan(Path("a:b"))] == ["a:b"]
    assert [file.path for file in sparsesync.scan("./a:b")] == ["./a:b"]


def test_other_filesystems_there(local_rsh: str, tmp_path: Path) -> None:
    need_root("mounting needs root")
    sparse_file(tmp_path / "img", MIB, [])
    (tmp_path / "mnt").mkdir()
    command("mount", "-t", "tmpfs", "tmpfs", tmp_path / "mnt")
    try:
        sparse_file(tmp_path / "mnt/img", MIB, [])
        assert len(run(local_rsh, "scan", "-0", f"far:{tmp_path}", cwd=tmp_path).stdout.split(b"\0")) == 3
        assert len(run(local_rsh, "scan", "-x", "-0", f"far:{tmp_path}", cwd=tmp_path).stdout.split(b"\0")) == 2
    finally:
        command("umount", tmp_path / "mnt")


# map


@pytest.mark.parametrize("form", [[], ["--json"], ["--format", "qemu"], ["--format", "bmap"]], ids=" ".join)
def test_map_says_what_it_says_here(local_rsh: str, tree: Path, form: list[str]) -> None:
    for name in ("sub dir/many", "\udcff\udc80", "large")[: 3 if form == ["--json"] else 1]:
        here = run(local_rsh, "map", *form, f"t/{name}", cwd=tree, COLUMNS="80")
        there = run(local_rsh, "map", *form, f"far:{tree}/t/{name}", cwd=tree, COLUMNS="80")
        assert (there.returncode, there.stderr) == (0, b"")
        if form[-1:] == ["bmap"]:
            # The name in the comment, and with it the file's own checksum, is another.
            assert (
                there.stdout.split(b"ImageSize")[1].split(b"BmapFileChecksum")[::2]
                == (here.stdout.split(b"ImageSize")[1].split(b"BmapFileChecksum")[::2])
            )
        else:
            assert there.stdout == here.stdout


def test_bmaptool_takes_the_map_of_a_far_file(local_rsh: str, tree: Path, tmp_path: Path) -> None:
    need_tools("bmaptool")
    done = run(local_rsh, "map", "--format", "bmap", f"far:{tree}/t/sub dir/many", cwd=tmp_path)
    (tmp_path / "bmap").write_bytes(done.stdout)
    command("bmaptool", "copy", "--bmap", tmp_path / "bmap", tree / "t/sub dir/many", tmp_path / "copy")
    command("cmp", tree / "t/sub dir/many", tmp_path / "copy")


def test_map_of_a_block_device(local_rsh: str, tmp_path: Path) -> None:
    image = sparse_file(tmp_path / "image", MIB, [(0, 4096)])
    with loop_device(image) as device:
        done = run(local_rsh, "map", "--json", f"far:{device}", cwd=tmp_path)
        assert done.stdout == run(local_rsh, "map", "--json", device, cwd=tmp_path).stdout
        last = fields(done.stdout)["ranges"][-1]
        assert last["offset"] + last["length"] == MIB
        done = run(local_rsh, "verify", f"far:{device}", str(image), cwd=tmp_path)
        assert (done.returncode, done.stdout[:7], done.stderr) == (0, b"equal: ", b"")


# exclude


@pytest.mark.parametrize(
    ("slash", "options"),
    [("", {}), ("/", {}), ("", {"relative": True}), ("", {"format": "tar"}), ("/", {"format": "borg"}),
     ("", {"format": "restic"}), ("", {"min_size": 2 * MIB, "min_ratio": 0.5}), ("", {"preset": "docker"}),
     ("/", {"preset": "system"})],
    ids=str,
)  # fmt: skip
def test_exclude_says_what_it_says_here(local_rsh: str, tree: Path, tmp_path: Path, options: Any, slash: str) -> None:
    shutil.copytree(tree / "t/sub dir", tmp_path / "x y/overlay2/l", copy_function=sparsesync.copy2)
    source = f"{tmp_path}/x y{slash}"
    patterns = sparsesync.exclude_patterns([f"far:{source}"], rsh=local_rsh, **options)
    assert patterns and patterns == sparsesync.exclude_patterns([source], **options)


def test_exclude_in_the_shell(sshd_server: Sshd, local_rsh: str, tree: Path) -> None:
    here = run(sshd_server.rsh, "exclude", "-0", f"{tree}/t", cwd=tree)
    there = run(sshd_server.rsh, "exclude", "-0", f"far:{tree}/t", cwd=tree)
    assert (there.returncode, there.stderr) == (0, b"")
    assert there.stdout.replace(b"far:", b"") == here.stdout
    done = run(local_rsh, "exclude", f"far:{tree}/t", cwd=tree)
    assert done.returncode == 1 and b"use -0" in done.stderr and done.stderr.count(b"\n") == 1


def test_relative_paths_are_relative_to_where_one_logs_in(tmp_path: Path) -> None:
    sparse_file(tmp_path / "img", MIB, [])
    rsh = local_shell(tmp_path / "rsh", f"cd {tmp_path.parent}")
    name = tmp_path.name
    assert sparsesync.exclude_patterns([f"far:{name}"], format="restic", rsh=rsh) == [f"{tmp_path}/img"]
    assert [file.path for file in sparsesync.scan(f"far:{name}", rsh=rsh)] == [f"far:{name}/img"]
    rsh = local_shell(tmp_path / "rsh", f"cd {tmp_path}")
    assert [file.path for file in sparsesync.scan("far:", rsh=rsh)] == ["far:./img"]


def test_a_preset_looks_at_the_far_host(tmp_path: Path) -> None:
    """A host of its own: a namespace with another daemon.json and other swap files."""
    need_root("a mount namespace needs root")
    need_tools("unshare")
    (tmp_path / "etc/docker").mkdir(parents=True)
    for name in ("merged", "diff"):
        (tmp_path / "srv/layers/overlay2/1" / name).mkdir(parents=True)
    configuration = tmp_path / "etc/docker/daemon.json"
    configuration.write_text(json.dumps({"data-root": f"{tmp_path}/srv/layers"}))
    (tmp_path / "swaps").write_text(f"Filename\tType\n{tmp_path}/srv/swap\\040file file\n")
    rsh = script(
        tmp_path / "rsh",
        f"shift; exec unshare -m sh -c 'mount --bind {tmp_path}/etc /etc; mount --bind {tmp_path}/swaps /proc/swaps; "
        'exec sh -c "$*"\' sh "$@"',
    )
    source = f"{tmp_path}/srv/"
    python = os.path.realpath(sys.executable)
    far: dict[str, Any] = {"rsh": rsh, "python": python}
    assert sparsesync.exclude_patterns([f"far:{source}"], preset="docker", **far) == ["/layers/overlay2/*/merged/*"]
    assert "/swap file" in sparsesync.exclude_patterns([f"far:{source}"], preset="system", **far)
    assert sparsesync.exclude_patterns([source], preset="docker") == []
    configuration.write_text("{")
    done = run(rsh, "exclude", "--python", python, "--preset", "docker", f"far:{source}", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"sparsesync: far: /etc/docker/daemon.json: not a configuration of dockerd")
    assert done.stderr.count(b"\n") == 1


# verify


def compared(agent: Connection, a: str, b: str, **options: Any) -> list[tuple[Any, ...]]:
    """The differences between two paths, one of them at the agent's end: whichever it is, the same are found."""
    here, there = LocalHost(agent.digest), RemoteHost(agent)
    found = sorted(digests.differences(Location(here, a, ""), Location(there, b, "far:"), **options))
    assert found == sorted(digests.differences(Location(there, a, "far:"), Location(here, b, ""), **options))
    return [tuple(difference) for difference in found]


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(entries, entries, st.booleans())
def test_random_trees_differ_as_they_do_here(agent: Connection, a: Any, b: Any, related: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        build(folder + "/a", a)
        build(folder + "/b", {**a, **b} if related else b)
        found = compared(agent, folder + "/a", folder + "/b")
        assert found == sorted(tuple(d) for d in sparsesync.verify(folder + "/a", folder + "/b"))


writes = st.lists(st.tuples(st.integers(0, 400 * KIB), st.integers(1, 100 * KIB), st.integers(0, 2)), max_size=4)


def written(path: Path, size: int, parts: list[tuple[int, int, int]]) -> None:
    """A file with these bytes, zeros among them, and holes elsewhere."""
    with open(path, "wb") as file:
        file.truncate(size)
        for offset, length, byte in parts:
            if offset < size:
                file.seek(offset)
                file.write(bytes([byte]) * min(length, size - offset))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, 400 * KIB), writes, st.integers(-70 * KIB, 70 * KIB) | st.just(0), writes, st.integers(0, 400 * KIB),
    st.booleans(),
)  # fmt: skip
def test_random_files_differ_where_cmp_says(
    agent: Connection, tmp_path: Path, size: int, parts: Any, more: int, others: Any, at: int, full: bool
) -> None:
    need_tools("cmp")
    a, b = tmp_path / "a", tmp_path / "b"
    written(a, size, parts)
    written(b, max(size + more, 0), [*parts, *others, (at, 1, 3)][: -1 if at % 2 else None])
    done = subprocess.run(["cmp", a, b], capture_output=True, text=True)
    expected = []
    if done.returncode:
        # cmp counts from 1; where one file ends first it names the size of the shorter.
        offset = int(done.stdout.split()[4].rstrip(",")) - 1 if done.stdout else min(a.stat().st_size, b.stat().st_size)
        expected = [("", "content", offset)]
    assert compared(agent, str(a), str(b), full=full) == expected
    assert [tuple(difference) for difference in sparsesync.verify(a, b)] == expected


@pytest.mark.parametrize(("size", "more"), [(0, 1), (0, 1 << 40), (64 * KIB, 1), (64 * KIB - 1, 1), (100, 64 * KIB)])
@pytest.mark.parametrize("byte", [0, 1])
def test_the_end_of_the_shorter_file(agent: Connection, tmp_path: Path, size: int, more: int, byte: int) -> None:
    (tmp_path / "a").write_bytes(bytes([byte]) * size)
    shutil.copy(tmp_path / "a", tmp_path / "b")
    os.truncate(tmp_path / "b", size + more)
    assert compared(agent, str(tmp_path / "a"), str(tmp_path / "b")) == [("", "content", size)]


def test_odd_names(agent: Connection, tmp_path: Path) -> None:
    for name in ODD_NAMES:
        for root in "ab":
            (tmp_path / root / name).mkdir(parents=True)
            (tmp_path / root / name / name).write_bytes(b"same")
        (tmp_path / "b" / name / name).write_bytes(b"sane")
    found = compared(agent, str(tmp_path / "a"), str(tmp_path / "b"))
    assert found == sorted((f"{name}/{name}", "content", 2) for name in ODD_NAMES)


def test_kinds_and_roots(agent: Connection, local_rsh: str, tmp_path: Path) -> None:
    for root in "ab":
        (tmp_path / root).mkdir()
        os.mkfifo(tmp_path / root / "pipe")
        (tmp_path / root / "out").symlink_to("/")
        (tmp_path / root / "to").symlink_to(root)
    (tmp_path / "a/mixed").mkdir()
    (tmp_path / "b/mixed").write_bytes(b"")
    (tmp_path / "link").symlink_to("a")
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert compared(agent, a, b) == [("mixed", "type", None), ("to", "link", None)]
    assert compared(agent, str(tmp_path / "link"), a) == []
    for one, two in ((a + "/mixed", f"far:{b}/mixed"), (f"far:{a}", b + "/pipe"), (a, f"far:{b}/mixed")):
        assert list(sparsesync.verify(one, two, rsh=local_rsh)) == [("", "type", None)]
    assert compared(agent, a + "/pipe", b + "/mixed") == [("", "type", None)]
    need_root("device nodes need root")
    for root, minor in (("a", 3), ("b", 5)):
        os.mknod(tmp_path / root / "device", 0o20600, os.makedev(1, minor))
    assert ("device", "device", None) in compared(agent, a, b)
    assert compared(agent, a + "/device", b + "/device") == [("", "device", None)]


def test_digests_travel_and_nobody_is_asked_about_a_file(agent: Connection, tmp_path: Path) -> None:
    for root in "ab":
        (tmp_path / root).mkdir()
        sparse_file(tmp_path / root / "data", 1 << 40, [(1 << 39, 32 * MIB)])
        for number in range(1000):
            (tmp_path / root / f"{number}").write_bytes(b"x" * number)
    here, there = LocalHost(agent.digest), RemoteHost(agent)
    received, sent = agent.link.received, agent.link.sent
    a, b = Location(here, str(tmp_path / "a"), ""), Location(there, str(tmp_path / "b"), "far:")
    told: list[int] = []
    assert list(digests.differences(a, b, progress=told.append)) == []
    assert agent.link.received - received < 32 * MIB // 1000 + 1000 * 100
    assert agent.link.sent - sent < 1000
    assert sum(told) == 32 * MIB + sum(range(1000))
    # Where all of them differ, a question is about many.
    for number in range(1, 1000):
        (tmp_path / "b" / f"{number}").write_bytes(b"x" * (number - 1) + b"y")
    frames = 0
    write = agent.link.write

    def counting(*parts: Any) -> None:
        nonlocal frames
        frames += 1
        write(*parts)

    agent.link.write = counting  # type: ignore[method-assign]
    try:
        found = {difference.path: difference.offset for difference in digests.differences(a, b)}
    finally:
        agent.link.write = write  # type: ignore[method-assign]
    assert found == {f"{number}": number - 1 for number in range(1, 1000)}
    assert frames == 1 + 4 * -(-1000 * len('["999", 0, 999, null]\n') // (64 * KIB))


@pytest.mark.slow
def test_a_comparison_of_much_does_not_grow(agent: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tracemalloc

    monkeypatch.setattr(digests, "_SPOOL_BYTES", 1000)
    for root in "ab":
        for folder in range(20):
            (tmp_path / root / f"{folder}").mkdir(parents=True)
            for number in range(50):
                (tmp_path / root / f"{folder}" / f"{number:0100}").write_bytes(root.encode())
    a = Location(LocalHost(agent.digest), str(tmp_path / "a"), "")
    b = Location(RemoteHost(agent), str(tmp_path / "b"), "far:")
    tracemalloc.start()
    try:
        assert sum(1 for difference in digests.differences(a, b) if difference.offset == 0) == 1000
        assert tracemalloc.get_traced_memory()[1] < 2 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_verify_in_the_shell(sshd_server: Sshd, local_rsh: str, tmp_path: Path) -> None:
    for root in "ab":
        (tmp_path / root / "d").mkdir(parents=True)
        sparse_file(tmp_path / root / "d/img", 1 << 40, [(1 << 39, MIB)])
    a, b = f"far:{tmp_path}/a", f"other:{tmp_path}/b"
    pairs = ((sshd_server.rsh, a, "b"), (local_rsh, "a", b), (local_rsh, a, b))
    done = run(*pairs[0][:1], "verify", *pairs[0][1:], cwd=tmp_path)
    told = b"equal: 1 name; 1 MiB read, 1.0 TiB believed to be holes\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, told, b"")
    with open(tmp_path / "b/d/img", "r+b") as file:
        file.seek((1 << 39) + 70000)
        file.write(b"!")
    (tmp_path / "b/more").touch()
    for rsh, one, two in pairs:
        done = run(rsh, "verify", "-q", one, two, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (1, b"")
        assert done.stdout.decode().splitlines() == [
            f"more: only in {two}", f"d/img: content differs at byte {(1 << 39) + 70000}",
        ]  # fmt: skip
    done = run(local_rsh, "verify", f"far:{tmp_path}/a/d/img", str(tmp_path / "b/d/img"), cwd=tmp_path)
    assert done.stdout.decode() == f"far:{tmp_path}/a/d/img: content differs at byte {(1 << 39) + 70000}\n"
    for one, two in (("none", a), (f"far:{tmp_path}/none", "a")):
        done = run(local_rsh, "verify", one, two, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, b"")
        assert done.stderr.decode() == f"sparsesync: {one}: No such file or directory\n"


def test_two_hosts(sshd_server: Sshd, tmp_path: Path) -> None:
    for root in "ab":
        (tmp_path / root).mkdir()
        sparse_file(tmp_path / root / "img", 1 << 40, [(1 << 39, MIB)])
    os.truncate(tmp_path / "b/img", (1 << 39) + 12345)
    found = sparsesync.verify(f"far:{tmp_path}/a", f"root@other:{tmp_path}/b", rsh=sshd_server.rsh)
    assert list(found) == [("img", "content", (1 << 39) + 12345)]


def test_what_cannot_be_read_there_is_reported_and_the_rest_goes_on(tmp_path: Path, sshd_server: Sshd) -> None:
    need_root("to be somebody else one has to be root")
    need_tools("setpriv")
    for root in "ab":
        for name in ("closed/below", "file", "zz"):
            (tmp_path / root / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / root / name).write_bytes(b"data")
    (tmp_path / "a/zz").write_bytes(b"date")
    (tmp_path / "b/closed").chmod(0)
    (tmp_path / "b/file").chmod(0)
    (tmp_path / "b/only there").touch(0)
    # As nobody at the remote end, whose Python must be one that nobody can reach.
    rsh = script(tmp_path / "rsh", 'shift; exec setpriv --reuid 65534 --clear-groups sh -c "$*"')
    python = next((path for path in ("/usr/bin/python3", "/usr/libexec/platform-python") if os.path.exists(path)), None)
    need(python is not None, "there is no Python that everybody may use")
    folders = [tmp_path, *tmp_path.parents][:-1]
    modes = {folder: stat.S_IMODE(folder.stat().st_mode) for folder in folders}
    for folder, mode in modes.items():
        folder.chmod(mode | 0o555)
    try:
        options = ("--python", str(python), "a", f"far:{tmp_path}/b")
        done = run(rsh, "verify", *options, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stdout.decode().splitlines() == [
            f"only there: only in far:{tmp_path}/b", "zz: content differs at byte 3",
        ]  # fmt: skip
        assert done.stderr.decode().splitlines() == [
            f"sparsesync: far:{tmp_path}/b/{name}: Permission denied" for name in ("file", "closed")
        ]
        with pytest.raises(PermissionError) as caught:
            list(sparsesync.verify(tmp_path / "a", f"far:{tmp_path}/b", rsh=rsh, python=python))
        assert caught.value.filename == f"far:{tmp_path}/b/file"
        done = run(rsh, "scan", "--python", str(python), f"far:{tmp_path}/b", cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr.decode() == f"sparsesync: far:{tmp_path}/b/closed: Permission denied\n"
    finally:
        for folder, mode in modes.items():
            folder.chmod(mode)
        (tmp_path / "b/closed").chmod(0o700)


def test_a_comparison_that_is_given_up_ends_the_agent(local_rsh: str, tmp_path: Path) -> None:
    for root in "ab":
        (tmp_path / root / "z").mkdir(parents=True)
        sparse_file(tmp_path / root / "z/huge", 1 << 40, [])
    (tmp_path / "a/first").touch()
    used = len(os.listdir("/proc/self/fd"))
    walk = sparsesync.verify(str(tmp_path / "a"), f"far:{tmp_path}/b", full=True, rsh=local_rsh)
    assert next(walk).path == "first"
    walk.close()  # type: ignore[attr-defined]
    assert len(os.listdir("/proc/self/fd")) == used


# Trouble


def test_a_local_file_with_a_colon_and_a_daemon(local_rsh: str, tmp_path: Path) -> None:
    sparse_file(tmp_path / "a:b", MIB, [(0, 4096)])
    assert b"a:b" in run("false", "scan", "./a:b", cwd=tmp_path).stdout
    assert run("false", "verify", "./a:b", f"{tmp_path}/a:b", cwd=tmp_path).returncode == 0
    for argv in (["scan", "host::module"], ["map", "host::module/f"], ["exclude", "rsync://host/module"],
                 ["verify", "./a:b", "host::module"]):  # fmt: skip
        done = run(local_rsh, *argv, cwd=tmp_path)
        assert done.returncode == (2 if argv[0] == "verify" else 1)
        told = f"sparsesync: {argv[-1]}: an rsync daemon is not reached through a remote shell\n"
        assert done.stderr.decode() == told


@pytest.mark.parametrize(
    "argv",
    [["scan", "far:{}"], ["verify", "{}", "far:{}"], ["copy", "-q", "far:{}/f", "{}/g"], ["exclude", "far:{}"],
     ["map", "far:{}/f"], ["sync", "-a", "far:{}/f", "{}/h"]],
    ids=lambda argv: argv[0],
)  # fmt: skip
def test_no_command_waits_for_a_dead_connection_without_end(sshd_server: Sshd, tmp_path: Path, argv: list[str]) -> None:
    sparse_file(tmp_path / "f", MIB, [(0, 4 * KIB)])
    log = tmp_path / "log"
    real = shutil.which("ssh")
    rsh = script(tmp_path / "ssh", f'echo "$*" >>{log}; exec {real} "$@"') + sshd_server.rsh[len("ssh") :]
    done = run(rsh, argv[0], *(word.format(tmp_path) for word in argv[1:]), cwd=tmp_path)
    assert done.returncode == 0, done
    started = [line for line in log.read_text().splitlines() if "sh -c" in line and "python3" in line]
    assert len(started) == 1 and "ServerAliveInterval=15" in started[0], started


def test_options_say_how_to_get_there(sshd_server: Sshd, tree: Path) -> None:
    done = run("false", "map", "-e", sshd_server.rsh, "--python", sys.executable, f"far:{tree}/t/dense", cwd=tree)
    assert done.returncode == 0
    done = run(sshd_server.rsh, "map", "--python", "/no/python", f"far:{tree}/t/dense", cwd=tree)
    assert (done.returncode, done.stderr) == (1, b"sparsesync: far: no Python 3.6 or newer was found at /no/python\n")
    done = run("no-such-shell", "verify", ".", "far:", cwd=tree)
    assert (done.returncode, done.stderr) == (2, b"sparsesync: no-such-shell: no such remote shell\n")
    done = run("'", "scan", "far:", cwd=tree)
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1
    done = run(sshd_server.rsh + " -o IdentityFile=/dev/null -F /dev/null -p 1", "scan", "far:", ".", cwd=tree)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith(b"sparsesync: far: ssh could not log in: ")
    assert b"sparse files:" in done.stdout


def test_a_connection_that_is_cut(tmp_path: Path) -> None:
    for root in "ab":
        (tmp_path / root).mkdir()
        for number in range(2000):
            (tmp_path / root / f"{number}").write_bytes(b"x")
    relay = tmp_path / "relay"
    relay.write_text("""if 1:
        import os, subprocess, sys
        far = subprocess.Popen(["sh", "-c", " ".join(sys.argv[2:])], stdout=subprocess.PIPE)
        left = 40000
        while left:
            data = os.read(far.stdout.fileno(), left)
            os.write(1, data)
            left -= len(data)
        far.kill()
    """)
    far = ("--python", sys.executable, f"far:{tmp_path}/b")
    done = run(f"{sys.executable} {relay}", "verify", "a", *far, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"sparsesync: far: ") and done.stderr.count(b"\n") == 1


HOSTILE = """
import sys
sys.path.insert(0, {path!r})
from sparsesync.engine.wire import protocol
from sparsesync.engine.wire.capabilities import capabilities
def say(kind, **values):
    sys.stdout.buffer.write(protocol.encode_json(getattr(protocol, kind), **values))
sys.stdout.buffer.write(protocol.MAGIC)
say("HELLO", protocol=protocol.VERSION, **capabilities())
try:
    {lie}
    sys.stdout.buffer.flush()
    sys.stdin.buffer.read()
except OSError:
    pass
"""
FILE = 'say("ITEM", path={}, stat={}, size={}, allocated=0, data=0, extents=0, zeros=0)'
STAT = "[0] * 10"


@pytest.mark.parametrize(
    ("argv", "lie"),
    [
        (["scan"], FILE.format("'/etc/passwd'", STAT, 9)),
        (["scan"], FILE.format("'/x/\\ud800'", STAT, 9)),
        (["scan"], FILE.format("'/x/a\\0b'", STAT, 9)),
        (["scan"], FILE.format("'/x/y'", "[0] * 9", 9)),
        (["scan"], FILE.format("'/x/y'", "[[]] * 10", 9)),
        (["scan"], FILE.format("'/x/y'", "[1 << 99] * 10", 9)),
        (["scan"], FILE.format("'/x/y'", STAT, "10 ** 400")),
        (["scan"], FILE.format("'/x/y'", STAT, -1)),
        (["scan"], FILE.format("None", STAT, 9)),
        (["scan"], 'say("DATA")'),
        (["scan"], 'sys.stdout.buffer.write(b"\\x03" + b"\\xff" * 12)'),
        (["scan"], 'say("FAIL", errno=2, strerror="x\\ny", filename="z\\nz", value=False)'),
        (["scan"], 'say("FAIL", errno="x", strerror=[], filename=3, value=None)'),
        (["scan"], 'say("TROUBLE", errno=10 ** 40, strerror="x", filename="\\ud800", value=False); say("DONE")'),
        (["exclude"], FILE.format("'/etc/passwd'", STAT, 9)),
        (["exclude"], FILE.format("'/x/y'", STAT, 0) + '; say("DONE")'),
        (["exclude", "--preset", "docker"], 'say("DONE", places=[["/x", "/x/y", "\\n+ *"]])'),
        (["exclude", "--preset", "docker"], 'say("DONE", places=[["/x", "/x/a\\nb", "/*"]]); say("DONE")'),
        (["exclude", "--preset", "docker"], 'say("ITEM", places=[]); say("DONE")'),
        (["exclude", "--preset", "docker"], 'say("DONE", places=3)'),
        (["exclude", "--format", "restic"], 'say("DONE", path="\\0")'),
        (["map"], 'say("DONE")'),
        (["map"], 'say("ITEM", size=-1)'),
        (["map"], 'say("ITEM", size=0); say("ITEM", parts=[[0, 1]])'),
        (["map"], 'say("ITEM", size=9); say("ITEM", parts=[[0, 4], [3, 1]])'),
        (["map"], 'say("ITEM", size=9); say("ITEM", parts=[[0, 10]])'),
        (["map"], 'say("ITEM", size=9); say("ITEM", parts=[[True, 1]])'),
        (["map", "--json"], 'say("ITEM", size=9); say("ITEM", parts={})'),
        (["map", "--format", "bmap"], 'say("ITEM", size=9); say("ITEM", parts=[[0, 0, "<Range"]])'),
        (["map", "--format", "bmap"], 'say("ITEM", size=9); say("ITEM", parts=[[0, 1, "0" * 64]])'),
        (["verify", "."], 'say("DONE")'),
        (["verify", "."], 'say("ITEM", events=[["e", "", "d", 0, "", 0]]); say("DONE")'),
        (["verify", "."], 'say("TROUBLE", errno=1, strerror="x", filename="x", value=False)'),
        (["verify", "."], 'say("ITEM", events=[["e", "", "d", 0, "", 0], ["d", "a"]])'),
        (["verify", "."], 'say("ITEM", events=[["e", "", "d", 0, "", 0], ["d", ""]]); '
                          'say("TROUBLE", errno=1, strerror="x", filename="x", value=False); ' * 2),
        (["verify", "--attributes", "f"], 'say("ITEM", events=[["e", "", "-", 9, "", 0]]); '
                                          'say("DONE", read=0, believed=0)'),
        (["verify", "f"], 'say("ITEM", events=[["e", "", "-", 9, "", 0], ["b", "A" * 32]]); say("DONE"); say("DONE")'),
        (["verify", "f"], 'say("ITEM", events=[["e", "", "-", 9, "", 0], ["b", "A" * 32]]); say("DONE"); '
                          'say("ITEM", digests="00")'),
        (["verify", "f"], 'say("ITEM", events=[["e", "", "-", 9, "", 0], ["b", "A" * 32]]); say("DONE"); '
                          'say("ITEM", digests="zz" * 16)'),
        (["verify", "f"], 'say("ITEM", events=[["e", "", "-", 9, "", 0], ["b", "A" * 32]]); say("DONE"); '
                          'say("ITEM", digests="00" * 16); say("ITEM", digests="00" * 16)'),
        (["verify", "f"], 'say("ITEM", events=[["e", "", "-", 9, "", 0], ["b", "A" * 32]]); say("DONE"); '
                          'say("ITEM", digests=None); say("DONE")'),
    ],
)  # fmt: skip
def test_a_far_end_that_lies(
    tmp_path: Path, argv: list[str], lie: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparsesync.commands.main import main

    (tmp_path / "f").write_bytes(b"123456789")
    (tmp_path / "hostile").write_text(HOSTILE.format(path=os.path.dirname(sparsesync.__path__[0]), lie=lie))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RSYNC_RSH", f"{sys.executable} hostile")
    status = main([*argv, "far:/x"])
    told = capfd.readouterr().err
    assert status == (2 if argv[0] == "verify" else 1) or ("allocated=0" in lie and ", size=0," in lie)
    assert told.count("\n") == (status > 0)
    assert not status or "far" in told or "line break" in told


@pytest.mark.parametrize("python", ["$(touch made)", "`touch made`", '"; touch made; "', "x\ny", "-c", ""])
@pytest.mark.parametrize(
    "argv", [["scan", "h:x"], ["map", "h:x"], ["copy", "h:x", "y"], ["copy", "f", "h:y"], ["exclude", "h:x"],
             ["verify", "f", "h:x"], ["migrate", "f", "h:x"], ["migrate", "h:f", "x"], ["sync", "-a", "f", "h:x"]],
    ids=" ".join,
)  # fmt: skip
def test_a_python_that_is_none(
    tmp_path: Path, argv: list[str], python: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparsesync.commands.main import main

    sparse_file(tmp_path / "f", MIB, [])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RSYNC_RSH", local_shell(tmp_path / "rsh"))
    option = "--seed-python" if argv[0] == "sync" else "--python"
    assert main([argv[0], f"{option}={python}", *argv[1:]]) == (2 if argv[0] == "verify" else 1)
    told = capfd.readouterr().err
    assert told.count("\n") == 1 and "is not the path of a Python" in told
    assert sorted(os.listdir(tmp_path)) == ["f", "rsh"]


@pytest.mark.parametrize("host", ["me@-oProxyCommand=touch made", "[-oProxyCommand=touch made]", "$(touch made)",
                                  "`touch made`@h", "a b", "a\nb", "a'b"])  # fmt: skip
@pytest.mark.parametrize(
    "argv", [["scan", "{}"], ["map", "{}"], ["copy", "{}", "y"], ["copy", "f", "{}"], ["exclude", "{}"],
             ["verify", "f", "{}"], ["migrate", "f", "{}"], ["migrate", "{}", "y"]], ids=" ".join,
)  # fmt: skip
def test_a_host_that_is_none(
    tmp_path: Path, argv: list[str], host: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparsesync.commands.main import main

    sparse_file(tmp_path / "f", MIB, [])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RSYNC_RSH", script(tmp_path / "rsh", "touch made"))
    assert main([word.format(f"{host}:x") for word in argv]) == (2 if argv[0] == "verify" else 1)
    told = capfd.readouterr().err
    assert told.count("\n") == 1 and ("cannot hold" in told or "there is no host" in told)
    assert sorted(os.listdir(tmp_path)) == ["f", "rsh"]


@pytest.mark.parametrize("name", ["a\nb", "-x", "~x", "$(id)", "`id`", "a'b\"c\\", " ", "*", "\x9b\udcff"])
def test_far_paths_arrive_as_they_are(agent: Connection, tmp_path: Path, name: str) -> None:
    sparse_file(tmp_path / name, MIB, [(0, 4096)])
    *found, _ = agent.items("scan", path=str(tmp_path / name), options=ScanOptions(), measured=False, zeros=False)
    assert [item["path"] for item in found] == [str(tmp_path / name)]


@pytest.mark.parametrize("python", old_pythons() or [None])
def test_an_old_python_there_and_no_locale(tree: Path, tmp_path: Path, python: str | None) -> None:
    if python is None:
        pytest.skip("there is no Python 3.6 to 3.8 to try")
    rsh = local_shell(tmp_path / "rsh", "unset LANG PYTHONUTF8", "export LC_ALL=C")
    far: dict[str, Any] = {"rsh": rsh, "python": python}
    top = tmp_path / "\u00e9\udcff"
    shutil.copytree(tree / "t", top, copy_function=sparsesync.copy2, symlinks=True)
    with open(top / "\u00e4", "r+b") as file:
        file.seek(5000)
        file.write(b"!")
    here, there = f"{tree}/t", f"far:{top}"
    assert list(sparsesync.verify(here, there, **far)) == [("\u00e4", "content", 5000)]
    assert {file.path for file in sparsesync.scan(there, **far)} >= {f"{there}/\u00e4", f"{there}/\udcff\udc80"}
    assert sparsesync.exclude_patterns([there + "/"], **far, preset="docker") == sorted(
        f"/{os.path.relpath(file.path, top)}".replace("*?[]\\", "\\*\\?\\[]\\\\")
        for file in sparsesync.scan(top, every_link=True)
    )
    done = run(rsh, "map", "--python", python, "--json", f"{there}/\u00e4", cwd=tmp_path)
    assert done.stdout == run(rsh, "map", "--json", f"{top}/\u00e4", cwd=tmp_path).stdout
    done = run(rsh, "map", "--python", python, f"{there}/\u00f6\n", cwd=tmp_path, PYTHONUTF8="1")
    assert done.stderr.decode("utf-8") == (
        f"sparsesync: {there}/\u00f6\\#012: No such file or directory\n".replace("\udcff", "\\#377")
    )


def test_nothing_is_imported_for_local_paths() -> None:
    code = (
        "import sys, sparsesync; list(sparsesync.scan('.')); list(sparsesync.verify('.', '.'));"
        "from pathlib import Path; sparsesync.scan(Path('a:b')); print(*sys.modules)"
    )
    modules = command(sys.executable, "-c", code).split()
    assert "sparsesync.hosts.pool" in modules
    unused = {"sparsesync.hosts.ssh", "sparsesync.hosts.remote", "sparsesync.comparison.digests", "subprocess", "json"}
    assert not unused & set(modules)
