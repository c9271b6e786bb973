"""What a machine says of itself before a migration: trees, destinations, Docker, files in use, commands."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsesync.engine.errors import ProtocolError
from sparsesync.engine.queries import presets
from sparsesync.engine.queries.in_use import InUse
from sparsesync.engine.queries.presets import ExcludedPath, left_out
from sparsesync.engine.queries.registry import answer_query
from sparsesync.engine.queries.survey import BOUND, SUBVOLUME
from sparsesync.exclude import place_patterns, quoter
from sparsesync.hosts.address import split_shell
from sparsesync.hosts.loader import Shell
from sparsesync.hosts.remote import RemoteHost
from sparsesync.hosts.ssh import connect
from tests.support.answers import Liar
from tests.support.filesystems import command, filesystem, need_root, need_tools, sparse_file
from tests.support.sshd import Sshd

MIB = 1 << 20


def test_a_survey(tmp_path: Path) -> None:
    need_root("mounts and devices need root")
    top = tmp_path / "top"
    (top / "a/left").mkdir(parents=True)
    sparse_file(top / "a/image", 100 * MIB, [(0, MIB)])
    (top / "plain").write_bytes(b"x" * 5000)
    os.link(top / "plain", top / "a/other name")
    os.mknod(top / "whiteout", 0o600 | stat.S_IFCHR, 0)
    os.mknod(top / "device", 0o600 | stat.S_IFBLK, os.makedev(240, 1))
    (top / "a/left/out").write_text("not counted")
    os.chown(top / "plain", 77, 77)
    (top / "mounted").mkdir()
    command("mount", "-t", "tmpfs", "tmpfs", top / "mounted")
    try:
        place = ["", f"{top}/a/left", "/*", ""]
        survey = answer_query("survey", source=str(top), places=[place])
        (top / "mounted/inside").write_text("")
        crossing = answer_query("survey", source=f"{top}/", one_file_system=False)
    finally:
        command("umount", top / "mounted")
    assert (survey.kind, survey.real, survey.device) == ("d", str(top), os.stat(top).st_dev)
    assert (survey.files, survey.size, survey.largest) == (2, 100 * MIB + 5000, 100 * MIB)
    assert survey.largest_path == f"{top}/a/image"
    assert MIB <= survey.allocated < 2 * MIB
    assert (survey.devices, survey.whiteouts, survey.foreign, survey.unreadable) == (1, 1, 2, 0)
    assert survey.mounts == crossing.mounts == [[f"{top}/mounted", "tmpfs", ""]]
    assert (crossing.files, [each for each in survey.examples if each.kind == "pair"]) == (4, [])
    assert survey.names == sorted(os.listdir(top))
    rules = ["", r"/a/\Z", r"/plain\Z", True]
    assert answer_query("survey", source=f"{top}/", rules=rules).files == 0
    assert answer_query("survey", source=str(top), rules=["top", *rules[1:]]).files == 3
    assert answer_query("survey", source=f"{top}/missing").kind == ""
    (top / "link").symlink_to("a")
    kinds = [answer_query("survey", source=f"{top}/{name}").kind for name in ("link", "link/")]
    assert kinds == ["l", "d"]


@pytest.mark.parametrize(
    ("kind", "able"),
    [("ext4", "holes punch xattrs acls"), ("xfs", "holes punch clone xattrs acls"),
     ("btrfs", "holes punch clone xattrs acls"), ("tmpfs", "holes punch xattrs acls"), ("exfat", "")],
)  # fmt: skip
def test_a_destinations_filesystem(tmp_path: Path, kind: str, able: str) -> None:
    with filesystem(kind, tmp_path, "400M") as mounted:
        probe = answer_query("probe", path=f"{mounted}/new", largest=1 << 40)
        names = ["holes", "punch", "clone", "xattrs", "acls"]
        assert " ".join(name for name in names if getattr(probe, name)) == able
        assert (probe.kind, probe.parent, probe.refused, probe.busy) == ("", True, None, False)
        assert probe.real == f"{mounted}/new" and probe.device == os.stat(mounted).st_dev
        assert 0 < probe.free <= 400 * MIB
        assert not answer_query("probe", path=f"{mounted}/no/new").parent
        if "holes" in able:
            assert probe.largest and probe.trusted
        assert os.listdir(mounted) in ([], ["lost+found"])  # what was tried out is gone
        (mounted / "file").write_text("")
        assert answer_query("probe", path=f"{mounted}/file").kind == "-"


def test_a_file_too_large_for_a_filesystem(tmp_path: Path) -> None:
    with filesystem("ext4", tmp_path, "64M") as mounted:
        assert answer_query("probe", path=str(mounted), largest=1 << 41).largest
        assert not answer_query("probe", path=str(mounted), largest=1 << 45).largest


def in_use(*sources: Path | str) -> list[InUse]:
    found, more = answer_query("in_use", sources=[str(source) for source in sources])
    assert more == 0
    return list(found)


def test_files_open_for_writing(tmp_path: Path) -> None:
    reader, writer, gone, other = (tmp_path / "top" / name for name in ("read", "a b\n", "gone", "../other"))
    (tmp_path / "top").mkdir()
    for path in (reader, writer, gone, other):
        path.write_text("")
    code = "import os, sys, time; r, w, d, o = sys.argv[1:]; files = [open(r), open(w, 'a'), open(w, 'r+')];"
    code += "files += [open(d, 'w'), open(o, 'w')]; os.unlink(d); print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, reader, writer, gone, other], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline()
        comm = Path(f"/proc/{process.pid}/comm").read_text().strip()
        expected = InUse(str(writer), "writing", f"{comm} (process {process.pid})", 1)
        assert in_use(tmp_path / "top") == [expected]
        # As it is spelled from the source on, whichever way leads there.
        (tmp_path / "link").symlink_to("top")
        assert [each.path for each in in_use(f"{tmp_path}/link/")] == [f"{tmp_path}/link/a b\n"]
        with open(tmp_path / "top/ours", "w"):
            assert in_use(tmp_path / "top") == [expected]
    finally:
        process.kill()
        process.wait()


def test_a_file_that_a_container_calls_by_another_name(tmp_path: Path) -> None:
    need_root("namespaces need root")
    need_tools("unshare")
    volume, inside = tmp_path / "volumes/one", tmp_path / "inside"
    volume.mkdir(parents=True)
    inside.mkdir()
    text = f"mount --bind {volume} {inside} && exec >> {inside}/database && echo up && sleep 60 & echo; wait"
    process = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sh", "-c", text])
    try:
        for _ in range(200):
            if (volume / "database").exists() and (volume / "database").read_text():
                break
            time.sleep(0.05)
        assert {each.path for each in in_use(tmp_path / "volumes")} == {f"{volume}/database"}
        assert in_use(inside) == []
    finally:
        subprocess.run(["pkill", "-P", str(process.pid)])
        process.kill()
        process.wait()


def test_loop_devices_overlays_and_swap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = tmp_path / "top"
    for name in ("lower", "upper", "work", "merged", "other"):
        (top / name).mkdir(parents=True)
    need_root("loop devices need root")
    loops = []
    try:
        for name, options in (("written", []), ("only read", ["-r"])):
            sparse_file(top / name, 10 * MIB, [(0, MIB)])
            loops.append(command("losetup", "-f", "--show", *options, top / name).strip())
        layers = f"lowerdir={top}/lower,upperdir={top}/upper,workdir={top}/work"
        command("mount", "-t", "overlay", "overlay", "-o", layers, top / "merged")
        try:
            swaps = tmp_path / "swaps"
            swaps.write_text(f"Filename Type Size Used Priority\n{top}/other/swap\\040file file 1 0 -2\n")
            (top / "other/swap file").write_text("")
            monkeypatch.setattr(presets, "SWAPS", str(swaps))
            assert in_use(top) == [
                InUse(f"{top}/written", "loop", loops[0], 1),
                InUse(f"{top}/other/swap file", "swap", "swap space", 1),
                InUse(f"{top}/upper", "overlay", f"the overlay at {top}/merged", 1),
            ]
            assert in_use(top / "lower") == []
        finally:
            command("umount", top / "merged")
    finally:
        for loop in loops:
            command("losetup", "-d", loop)


def test_what_another_mount_namespace_has_mounted(tmp_path: Path) -> None:
    need_root("namespaces need root")
    need_tools("unshare", "pkill")
    top, inside = tmp_path / "top", tmp_path / "inside"
    for name in ("lower", "upper", "work"):
        (top / name).mkdir(parents=True)
    inside.mkdir()
    sparse_file(top / "image", 10 * MIB, [(0, MIB)])
    layers = f"lowerdir={inside}/lower,upperdir={inside}/upper,workdir={inside}/work"
    text = f"mount --bind {top} {inside} && losetup -f --show {inside}/image > {tmp_path}/loop && "
    text += f"mkdir {inside}/m && mount -t overlay overlay -o {layers} {inside}/m && touch {tmp_path}/up; sleep 60"
    process = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sh", "-c", text])
    try:
        for _ in range(200):
            if (tmp_path / "up").exists():
                break
            time.sleep(0.05)
        loop = (tmp_path / "loop").read_text().strip()
        found = {(each.path, each.how) for each in in_use(top)}
        assert found == {(f"{top}/image", "loop"), (f"{top}/upper", "overlay")}
    finally:
        subprocess.run(["pkill", "-P", str(process.pid)])
        process.kill()
        process.wait()
        command("losetup", "-d", loop)


def test_an_overlay_with_relative_layers(tmp_path: Path) -> None:
    need_root("mounting needs root")
    docker = tmp_path / "docker"
    for name in ("l", "a/diff", "b/diff", "b/work", "b/merged"):
        (docker / "overlay2" / name).mkdir(parents=True)
    layers = "lowerdir=a/diff,upperdir=b/diff,workdir=b/work"
    done = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, "b/merged"], cwd=docker / "overlay2")
    assert done.returncode == 0
    try:
        (found,) = in_use(docker)
        assert (found.path, found.how) == (f"{docker}/overlay2/b/diff", "overlay")
    finally:
        command("umount", docker / "overlay2/b/merged")


def test_a_file_open_in_a_container_is_one_of_its_upper_layer(tmp_path: Path) -> None:
    need_root("mounting needs root")
    top, merged = tmp_path / "top", tmp_path / "merged"
    for path in (top / "lower/a", top / "upper", top / "work", merged):
        path.mkdir(parents=True)
    (top / "lower/a/file").write_text("")
    layers = f"lowerdir={top}/lower,upperdir={top}/upper,workdir={top}/work"
    command("mount", "-t", "overlay", "overlay", "-o", layers, merged)
    try:
        # The container's root is the overlay's, and below it the same file has another name.
        text = f"mount --bind {merged} {merged}/a && exec >> {merged}/a/a/file && echo up && sleep 60 & echo; wait"
        process = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sh", "-c", text])
        try:
            for _ in range(200):
                if (merged / "a/file").read_text():
                    break
                time.sleep(0.05)
            found = {(each.path, each.how) for each in in_use(top)}
            assert found == {(f"{top}/upper", "overlay"), (f"{top}/upper/a/file", "writing")}
            assert {each.path for each in in_use(top / "lower")} == set()
        finally:
            subprocess.run(["pkill", "-P", str(process.pid)])
            process.kill()
            process.wait()
    finally:
        command("umount", merged)


def test_a_file_that_lost_the_name_it_is_open_by(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("")
    os.link(tmp_path / "one", tmp_path / "other")
    with subprocess.Popen(["sh", "-c", f"exec >> {tmp_path}/one; rm {tmp_path}/one; sleep 60"]) as process:
        try:
            for _ in range(200):
                if not (tmp_path / "one").exists():
                    break
                time.sleep(0.05)
            assert {(each.path, each.links) for each in in_use(tmp_path)} == {(f"{tmp_path}/one", 2)}
        finally:
            subprocess.run(["pkill", "-P", str(process.pid)])
            process.kill()


def test_btrfs_subvolumes(tmp_path: Path) -> None:
    with filesystem("btrfs", tmp_path, "400M") as mounted:
        (mounted / "docker/btrfs/subvolumes").mkdir(parents=True)
        for name in "ab":
            command("btrfs", "subvolume", "create", mounted / "docker/btrfs/subvolumes" / name)
        (found,) = answer_query("stores", source=f"{mounted}/docker").found
        assert (found.driver, found.subvolumes) == ("btrfs", 2)
        command("mount", "--bind", mounted / "docker/btrfs", mounted / "docker/btrfs")
        try:  # of what is mounted below nothing becomes a directory
            assert answer_query("stores", source=f"{mounted}/docker").found[0].subvolumes == 0
        finally:
            command("umount", mounted / "docker/btrfs")


@pytest.mark.root
def test_a_subvolume_is_told_from_what_is_mounted(tmp_path: Path) -> None:
    with filesystem("btrfs", tmp_path / "fs", "400M") as mounted:
        top = mounted / "top"
        for name in ("bound", "itself", "same", "tmp", "within"):
            (top / name).mkdir(parents=True)
        (mounted / "other").mkdir()
        command("btrfs", "subvolume", "create", top / "sub")
        (top / "sub/file").touch()
        command("mount", "--bind", top / "sub", top / "bound")
        command("mount", "--bind", top / "itself", top / "itself")
        command("mount", "--bind", mounted / "other", top / "same")
        command("mount", "-t", "tmpfs", "tmpfs", top / "tmp")
        with open(top / "image", "wb") as image:
            image.truncate(4 * MIB)
        command("mkfs.ext4", "-q", "-F", top / "image")
        command("mount", "-o", "loop", top / "image", top / "within")
        (tmp_path / "link").symlink_to(top)
        told = [["bound", "btrfs", ""], ["same", BOUND, "/other"], ["sub", SUBVOLUME, ""], ["tmp", "tmpfs", ""]]
        try:
            for source in (top, tmp_path / "link"):
                survey = answer_query("survey", source=f"{source}/")
                assert sorted(survey.mounts) == [
                    *([f"{source}/{name}", kind, what] for name, kind, what in told),
                    [f"{source}/within", "ext4", f"{source}/image"],
                ]
                assert survey.files == 1
            command("rsync", "-ax", f"{top}/", tmp_path / "copy")
            assert os.listdir(tmp_path / "copy/sub") == []
        finally:
            command("umount", *(top / name for name in ("bound", "itself", "same", "tmp", "within")))


NAMES = st.text("a*?[]\\ -.é", min_size=1, max_size=4).filter(lambda name: name.strip(".") != "")
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(paths=st.lists(PATHS, max_size=6), chosen=PATHS, wild=st.sampled_from(["", "/*", "/*/a/*"]), slash=st.booleans())
def test_what_is_left_out_is_what_rsync_leaves_out(
    tmp_path_factory: pytest.TempPathFactory, paths: list[str], chosen: str, wild: str, slash: bool
) -> None:
    top = tmp_path_factory.mktemp("left") / "top"
    top.mkdir()
    for path in [*paths, chosen, f"{chosen}/x/a/y"]:
        (top / path).mkdir(parents=True, exist_ok=True)
    source = f"{top}/" if slash else str(top)
    place = ExcludedPath(source, os.path.join(source, chosen), wild, "")
    patterns = [f"--exclude={pattern}" for pattern in place_patterns([place], False, quoter())]
    listed = command("rsync", "-rn", "-8", "--out-format=%n", *patterns, source, f"{top.parent}/new/")
    prefix = "" if slash else "top/"
    copied = {line.rstrip("/") for line in listed.splitlines()}
    skip = left_out([place])
    for directory, names, _ in os.walk(top):
        for name in names:
            path = os.path.join(directory, name)
            shown = prefix + os.path.relpath(path, top)
            left = any(skip(part) for part in (path, *map(str, Path(path).parents)))
            assert (shown in copied) != left, (shown, patterns, listed)


def test_questions_to_another_host(tmp_path: Path, sshd_server: Sshd) -> None:
    sparse_file(tmp_path / "image", 10 * MIB, [(0, MIB)])
    (tmp_path / "overlay2/l").mkdir(parents=True)
    with (
        connect("far", Shell(tuple(split_shell(sshd_server.rsh))), ["far"]) as agent,
        open(tmp_path / "log", "w") as log,
    ):
        there = RemoteHost(agent)
        for question, arguments in (
            ("survey", {"source": str(tmp_path)}),
            ("survey", {"source": f"{tmp_path}/", "rules": ["", r"/o[^/]*/\Z", r".*\.img\Z", True]}),
            ("suggested", {"source": str(tmp_path)}),
            ("stores", {"source": str(tmp_path)}),
            ("kernel", {"wanted": ["overlay", "MASQUERADE", "cgroups"]}),
            ("sizes", {"paths": [str(tmp_path / "image"), "/no such file"]}),
            ("run", {"command": "exit 3"}),
        ):
            assert there.query(question, **arguments) == answer_query(question, **arguments)
        (used,) = there.query("in_use", sources=[str(tmp_path)]).found
        assert used.path == log.name and f"process {os.getpid()}" in used.holder
        assert there.query("probe", path="~/").kind == "d"
        with pytest.raises(OSError), there.locked("/no such directory/at all", False):
            pass
        with pytest.raises(ValueError, match="unknown preset"):
            there.preset("nosuch", "/")


GOOD: dict[str, Any] = {
    "host": ["Linux", "3.11", None, True, "x"],
    "run": [0],
    "in_use": [[["/a", "loop", "x", 1]], 0],
}


BAD: dict[str, list[Any]] = {
    "host": [None, {}, [], ["L"], [*GOOD["host"], 1], ["L", 3, None, True, ""], ["L", "3", 3, True, ""],
             ["L", "3", None, 1, ""], ["L", "3", None, True, 1]],
    "kernel": [["x", [["a"]], []], ["x", [], [1]], ["x", [], []][:2]],
    "run": [[None], ["0"], [True], [0, 0], 0],
    "in_use": [[[["/a", "loop", "x"]], 0], [["/a"], 0], [[], "0"], [{}, 0]],
}  # fmt: skip


@pytest.mark.parametrize(("question", "answer"), [(question, value) for question in BAD for value in BAD[question]])
def test_answers_that_are_none(question: str, answer: Any) -> None:
    there = RemoteHost(Liar({"answer": answer}))  # type: ignore[arg-type]
    with pytest.raises(ProtocolError):
        there.query(question)


@pytest.mark.parametrize("question", GOOD)
def test_answers_that_are_some(question: str) -> None:
    told = RemoteHost(Liar({"answer": GOOD[question]})).query(question)  # type: ignore[arg-type]
    assert json.loads(json.dumps(told)) == GOOD[question]


def test_a_command_ends_with_all_that_it_started(tmp_path: Path) -> None:
    asked = iter([False, True])
    with pytest.raises(ConnectionError):
        answer_query("run", command=f"sleep 60 & echo $! > {tmp_path}/pid; wait", given_up=lambda: next(asked))
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or ") Z" in Path(f"/proc/{pid}/stat").read_text():
            break
        time.sleep(0.05)
    else:
        pytest.fail("what the command started goes on")
