"""The benchmark suite, on inputs of a few hundred KiB: that it measures, judges and tidies up. Nothing here looks at
how long anything took."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as program
from benchmarks import cases, cases_ssh, goals, inputs, links, memory, peers, relay, report, runner
from benchmarks.inputs import KIB, MIB, Layout, Wrong
from benchmarks.runner import Case, Contender, Prepared, Runner, Starter
from tests.support.filesystems import Mounted, need_root, need_tools

SMALL = Layout(1024 * KIB, 64 * KIB, 4)


def small_case(
    commands: Callable[[Path, Path], dict[str, list[str]]],
    once: frozenset[str] = frozenset(),
    names: tuple[str, ...] = ("sparsesync", "cp"),
) -> Case:
    """Copies of a small file by some commands."""

    @contextlib.contextmanager
    def opened(work: Path) -> Iterator[Prepared]:
        source, copy = work / "source", work / "copy"
        inputs.make_file(source, SMALL, 1)
        yield Prepared(
            [Contender(name, argv, once=name in once) for name, argv in commands(source, copy).items()],
            before=lambda name: copy.unlink(missing_ok=True),
            check=lambda name, output: inputs.check(source, copy),
            skipped={"rsync -S": "not today"},
        )

    return Case("copy/small", "copy a small file", names, opened)


def honest(source: Path, copy: Path) -> dict[str, list[str]]:
    return {
        "sparsesync": peers.sparsesync_command("copy", source, copy),
        "cp": ["cp", str(source), str(copy)],
    }


def need_counters() -> None:
    need_root("what a process that has ended has read is told to root alone")


def measured(work: Path, case: Case, **options: Any) -> dict[str, Any]:
    need_counters()
    with Starter(work) as starter:
        return Runner(starter, **{"runs": 2, "limit": 60, "patience": 20, "seed": 1, **options}).run(case, work)


def test_a_case(tmp_path: Path) -> None:
    entry = measured(tmp_path, small_case(honest))
    assert entry["skipped"] == {"rsync -S": "not today"}
    ours, cp = entry["contenders"]
    assert ours["ours"] and not cp["ours"]
    for contender in (ours, cp):
        assert contender["error"] is None
        assert len(contender["seconds"]) == 2
        assert contender["min"] <= contender["median"] <= contender["max"]
        assert contender["allocated"] == SMALL.data
        assert contender["read"] >= SMALL.data and contender["written"] >= SMALL.data
        assert 1 << 20 < contender["peak"] < 1 << 28
    rounds = [a / b for a, b in zip(ours["seconds"], cp["seconds"])]
    assert cp["ratio"] == 1.0 and ours["ratio"] == pytest.approx(sum(rounds) / 2)


def test_memory_is_kept_in_small_blocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def children() -> list[int]:
        """Their resident sets, in KiB; ps is one of them."""
        words = ["ps", "-o", "rss=", "--ppid", str(os.getpid())]
        return [int(word) for word in subprocess.run(words, stdout=subprocess.PIPE, text=True).stdout.split()]

    before = len(children())
    monkeypatch.setattr(memory, "REPORTING", tmp_path)
    with memory.kept(256 << 20):
        found = children()
    assert len(found) == before + 1
    # A page of each MiB, and Python; not the 256 MiB.
    assert max(found) < 64 << 10
    monkeypatch.setattr(memory, "REPORTING", tmp_path / "none")
    with memory.kept(256 << 20):
        assert len(children()) == before


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("cp --sparse=never {0} {1}", "of it are data"),
        ("cp {0} {1}; printf x | dd conv=notrunc bs=1 seek=5000 of={1} status=none", "content differs"),
        ("cp {0} {1}; truncate -s +1 {1}", "its size is"),
        ("true", "there is no copy"),
        ("echo a reason >&2; exit 3", "status 3: a reason"),
    ],
)
def test_a_wrong_result_is_noticed(tmp_path: Path, script: str, said: str) -> None:
    def commands(source: Path, copy: Path) -> dict[str, list[str]]:
        return {**honest(source, copy), "cp": ["sh", "-c", script.format(source, copy)]}

    ours, cp = measured(tmp_path, small_case(commands))["contenders"]
    assert ours["error"] is None
    assert said in cp["error"]
    assert "median" not in cp and ours["ratio"] is None


def test_the_limit(tmp_path: Path) -> None:
    def commands(source: Path, copy: Path) -> dict[str, list[str]]:
        return {**honest(source, copy), "cp": ["sh", "-c", "sleep 100 & wait"]}

    ours, cp = measured(tmp_path, small_case(commands, frozenset(["cp"])), limit=0.5)["contenders"]
    assert cp["over"] == 0.5 and cp["once"] and len(cp["seconds"]) == 1
    # Who was killed is nobody to be faster than.
    assert ours["ratio"] is None


def test_missing_peers_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peers.PACKAGES, "no-such-copier", "no-such-package")

    def commands(source: Path, copy: Path) -> dict[str, list[str]]:
        return {**honest(source, copy), "no-such-copier -x": ["no-such-copier", "-x"]}

    entry = measured(tmp_path, small_case(commands, names=("sparsesync", "cp", "no-such-copier -x")))
    assert [contender["name"] for contender in entry["contenders"]] == ["sparsesync", "cp"]
    assert "no-such-package" in entry["skipped"]["no-such-copier -x"]
    assert peers.missing({"no-such-copier", "cp"}) == {"no-such-copier": "no-such-package"}


def test_the_choice_of_peers(tmp_path: Path) -> None:
    entry = measured(tmp_path, small_case(honest), chosen={"rsync"})
    assert [contender["name"] for contender in entry["contenders"]] == ["sparsesync"]
    assert "--peers" in entry["skipped"]["cp"]


def test_a_peer_that_there_is_not(capsys: Any) -> None:
    assert program.main(["--peers", "cp", "rsnyc"]) == 2
    assert "rsnyc" in capsys.readouterr().err
    assert program.main(["--only", "start", "--only", "strat"]) == 2
    assert "strat;" in capsys.readouterr().err


def test_what_cannot_be_used_is_named_in_a_line(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(program, "kept", lambda size: pytest.fail("it takes much memory before it looks"))
    Path("benchmarks.json").write_text("an hour's work")
    for argv in (["--directory", str(tmp_path / "no")], ["--output", str(tmp_path / "no" / "x")]):
        assert program.main(["--only", "start", *argv]) == 1
        said = capsys.readouterr().err.splitlines()
        assert str(tmp_path / "no") in said[-1]
    assert Path("benchmarks.json").read_text() == "an hour's work"
    with pytest.raises(SystemExit):
        program.main(["--runs", "0"])
    empty = tmp_path / "empty"
    empty.write_text("{}")
    begun = tmp_path / "begun"
    begun.write_text('{"cases": [], "quick": false}')
    for path in (tmp_path / "no", empty, begun, Path(__file__)):
        assert report.main([str(path)]) == 2
        assert str(path) in capsys.readouterr().err.splitlines()[-1]


def test_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_counters()
    need_tools("cp", "rsync")
    for module in (cases, cases_ssh):
        monkeypatch.setattr(module, "all_cases", lambda seed, quick: [])
    monkeypatch.setattr(cases, "all_cases", lambda seed, quick: [small_case(honest)])
    monkeypatch.setattr(peers, "missing", lambda names: {"nbdcopy": "libnbd-bin"})
    work = tmp_path / "work"
    work.mkdir()
    assert program.main(["--quick", "--directory", str(work), "--output", str(tmp_path / "results.json")]) == 0
    assert list(work.iterdir()) == []
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["missing"] == [{"program": "nbdcopy", "package": "libnbd-bin"}]
    assert results["quick"] and "--quick" in results["command"]
    assert {"processor", "processors", "memory", "kernel", "system"} <= set(results["machine"])
    assert {"sparsesync", "python", "cp", "rsync"} <= set(results["versions"])
    assert results["floor"] < 32 << 20
    text = "\n".join(report.markdown(results))
    assert "libnbd-bin" in text and "copy a small file" in text and "rsync -S: skipped, not today" in text
    rounds, medians, fastest = report._repeated(results, results)
    assert rounds.startswith("ratios, the medians over the rounds: 1 of 1 within 15 %")
    assert medians.startswith("ratios of medians: 1 of 1 within 15 %")
    assert fastest.startswith("ratios of fastest runs: 1 of 1 within 15 %")


def test_a_wrong_result_is_the_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_counters()

    def broken(source: Path, copy: Path) -> dict[str, list[str]]:
        return {**honest(source, copy), "cp": ["false"]}

    monkeypatch.setattr(cases, "all_cases", lambda seed, quick: [small_case(broken)])
    monkeypatch.setattr(cases_ssh, "all_cases", lambda seed, quick: [])
    assert program.main(["--quick", "--directory", str(tmp_path), "--output", str(tmp_path / "results.json")]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("to_all", [False, True], ids=["runner", "all"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_behind(tmp_path: Path, number: int, to_all: bool) -> None:
    """Also when all processes of the session get the signal, as from a terminal or timeout(1)."""
    need_root("mounting needs root")
    need_tools("mkfs.ext4", "mount", "rsync")
    work = tmp_path / "work"
    work.mkdir()
    run = subprocess.Popen(
        [
            sys.executable, "-m", "benchmarks", "--quick", "--only", "copy/ext4/100G", "--peers", "rsync",
            "--directory", work, "--output", tmp_path / "results.json",
        ],
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert run.stderr
    ours = 0
    for line in run.stderr:
        ours += b"sparsesync:" in line
        if ours == 4:  # rsync is next, and takes long
            break
    for _ in range(200):
        if f"rsync -S {work}" in subprocess.run(["ps", "-ewwo", "args"], stdout=subprocess.PIPE, text=True).stdout:
            break
        time.sleep(0.05)
    else:
        pytest.fail("rsync has not begun")
    (os.killpg if to_all else os.kill)(run.pid, number)
    with run.stderr:
        said = run.stderr.read()
    assert run.wait(60) == (130 if number == signal.SIGINT else 143), said
    assert b"Traceback" not in said
    assert list(work.iterdir()) == []
    assert str(work) not in Path("/proc/self/mountinfo").read_text()
    assert str(work) not in subprocess.run(["losetup", "-a"], stdout=subprocess.PIPE, text=True).stdout
    commands = subprocess.run(["ps", "-ewwo", "args"], stdout=subprocess.PIPE, text=True).stdout
    assert not [line for line in commands.splitlines() if str(work) in line and "pytest" not in line]


def test_a_host(tmp_path: Path) -> None:
    need_root("a network namespace needs root")
    need_tools("ip", "tc", "ssh", "sshd", "ssh-keygen")
    with links.host(links.Link("slow", 10 * links.MBIT, 0.02), tmp_path / "host") as there:
        assert there.shaped_by in ("netem", "a relay in user space")
        there.accounts.write_text("")
        before = there.wire()
        sent = bytes(256 * KIB)
        done = subprocess.run([*there.rsh.split(), "anybody", "cat; exit 7"], input=sent, stdout=subprocess.PIPE)
        assert done.stdout == sent and done.returncode == 7
        assert there.wire() - before > 2 * len(sent)
        (account,) = map(json.loads, there.accounts.read_text().splitlines())
        assert account["status"] == 7 and account["read"] >= len(sent)
        interface = there.interface
    assert not (Path("/sys/class/net") / interface).exists()


@pytest.mark.parametrize("each", [math.inf, 10e6])
def test_the_relay_passes_everything_on(tmp_path: Path, each: float) -> None:
    import socket
    import threading

    server = socket.create_server(("127.0.0.1", 0))

    def echo() -> None:
        connection, _ = server.accept()
        with connection:
            while data := connection.recv(1 << 16):
                connection.sendall(data)

    thread = threading.Thread(target=echo, daemon=True)
    thread.start()
    sent = os.urandom(300_000)
    with relay.relay("127.0.0.1", server.getsockname()[1], 100e6, 0.001, each) as port:  # noqa: SIM117
        with socket.create_connection(("127.0.0.1", port)) as near:
            writer = threading.Thread(target=lambda: (near.sendall(sent), near.shutdown(socket.SHUT_WR)))
            writer.start()
            received = b"".join(iter(partial(near.recv, 1 << 16), b""))
            writer.join()
    assert received == sent
    thread.join(10)
    server.close()


@pytest.mark.slow
def test_who_was_slow_once_is_still_a_rival(tmp_path: Path) -> None:
    """A single run says little: it is the second slow one after which a peer is not repeated."""
    count = "n=$(cat {0}.count 2>/dev/null); echo x$n >{0}.count"

    def commands(source: Path, copy: Path) -> dict[str, list[str]]:
        once = count + '; [ "$n" ] || sleep 1; cp {0} {1}'
        return {
            **honest(source, copy),
            "cp": ["sh", "-c", once.format(source, copy)],
            "tar": ["sh", "-c", f"sleep 1; cp {source} {copy}"],
        }

    case = small_case(commands, names=("sparsesync", "cp", "tar"))
    _, cp, tar = measured(tmp_path, case, patience=0.5, runs=3)["contenders"]
    assert (cp["once"], len(cp["seconds"])) == (False, 3)
    assert (tar["once"], len(tar["seconds"])) == (True, 1)


def test_who_is_close_is_measured_more_closely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "MOST_RUNS", 6)

    def commands(source: Path, copy: Path) -> dict[str, list[str]]:
        return {**honest(source, copy), "tar": ["sh", "-c", f"sleep 0.5; cp {source} {copy}"]}

    case = small_case(commands, names=("sparsesync", "cp", "tar"))
    ours, cp, tar = (len(it["seconds"]) for it in measured(tmp_path, case, enough=60)["contenders"])
    assert (ours, cp, tar) == (6, 6, 2)


def test_the_first_rounds_count_towards_enough(tmp_path: Path) -> None:
    def commands(source: Path, copy: Path) -> dict[str, list[str]]:
        return {name: ["sh", "-c", f"sleep 0.2; cp {source} {copy}"] for name in ("sparsesync", "cp")}

    ours, cp = (it["seconds"] for it in measured(tmp_path, small_case(commands), enough=0.7)["contenders"])
    assert len(ours) == len(cp) == 2


def odd(error: Exception) -> Case:
    @contextlib.contextmanager
    def opened(work: Path) -> Iterator[Prepared]:
        raise error
        yield

    return Case("copy/odd", "copy", ("sparsesync", "cp"), opened)


def test_a_case_that_cannot_be_made(tmp_path: Path) -> None:
    entry = measured(tmp_path, odd(RuntimeError("mount: unknown filesystem type")))
    assert entry["contenders"] == [] and entry["skipped"]["cp"] == "mount: unknown filesystem type"
    assert report._line(entry) is None


def test_a_case_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the results and the status, and the others go on."""
    need_counters()
    full = odd(OSError(28, "No space left on device"))
    monkeypatch.setattr(cases, "all_cases", lambda seed, quick: [full, small_case(honest)])
    monkeypatch.setattr(cases_ssh, "all_cases", lambda seed, quick: [])
    assert program.main(["--quick", "--directory", str(tmp_path), "--output", str(tmp_path / "results.json")]) == 1
    failed, fine = json.loads((tmp_path / "results.json").read_text())["cases"]
    row = report._line(failed)
    assert row and "No space left on device" in row[1]
    assert [it["error"] for it in fine["contenders"]] == [None, None]


def test_ours_was_wrong_or_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_counters()

    def slow(source: Path, copy: Path) -> dict[str, list[str]]:
        return {**honest(source, copy), "sparsesync": ["sleep", "60"]}

    monkeypatch.setattr(cases, "all_cases", lambda seed, quick: [small_case(slow)])
    monkeypatch.setattr(cases_ssh, "all_cases", lambda seed, quick: [])
    options = ["--quick", "--limit", "1", "--directory", str(tmp_path), "--output", str(tmp_path / "results.json")]
    assert program.main(options) == 1
    [case] = json.loads((tmp_path / "results.json").read_text())["cases"]
    verdict = goals._worst("", [case], 1.0, goals._to_best)
    assert verdict.reached is False and "killed" in verdict.measured
    ours = case["contenders"][0]
    case["contenders"][0] = {"name": "sparsesync", "ours": True, "baseline": False, "error": "no"}
    row = report._line(case)
    assert ours["over"] and row and "sparsesync is wrong" in row[1]


def test_goals_are_not_reached_by_what_is_wrong_or_was_killed() -> None:
    def judged(**changed: Any) -> goals.Verdict:
        ours: dict[str, Any] = {
            "name": "sparsesync", "ours": True, "baseline": False, "over": None, "once": True, "seconds": [1.0],
            "median": 1.0, "ratio": 1.0, "peak": 1, "far_peak": None, "command": [],
        }  # fmt: skip
        rsync = {**ours, "name": "rsync -S", "ours": False, "seconds": [1000.0], "median": 1000.0}
        for name, change in changed.items():
            {"ours": ours, "rsync": rsync}[name].update(change)
        case = {"name": "copy/ext4/100G-950M", "contenders": [ours, rsync]}
        return next(it for it in goals.judge({"cases": [case]}) if "200 times" in it.goal)

    assert judged().reached is True
    assert judged(ours={"error": "its content differs"}).reached is False
    assert judged(rsync={"over": 900.0}).reached is None


def test_memory_of_one_end_is_not_that_of_both() -> None:
    ours: dict[str, Any] = {
        "name": "sparsesync", "ours": True, "median": 1.0, "peak": 20 * MIB, "far_peak": None, "command": [],
    }  # fmt: skip
    case = {"name": "ssh/1G/first", "contenders": [ours]}
    assert goals._memory([case]).reached is None
    ours["far_peak"] = 21 * MIB
    assert goals._memory([case]) == ("peak memory of each process but rsync: 48 MiB, at both ends",
                                     "21 MiB (ssh/1G/first, far end)", True)  # fmt: skip
    ours["peak"] = 50 * MIB
    assert goals._memory([case]).reached is False


def test_what_slows_both_of_a_round_is_not_in_the_ratio() -> None:
    def took(*seconds: float) -> dict[str, Any]:
        return {"seconds": list(seconds), "median": sorted(seconds)[len(seconds) // 2], "once": len(seconds) == 1}

    ours, peer = took(2.0, 2.0, 6.0, 20.0, 20.0), took(1.0, 1.0, 1.0, 10.0, 10.0)
    assert ours["median"] / peer["median"] == 6.0
    assert goals.ratio(ours, peer) == 2.0
    # Who ran once stood beside no one round.
    assert goals.ratio(ours, took(1.5)) == 4.0


def test_a_report_without_plots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    with Starter(tmp_path) as starter:
        entry = Runner(starter, runs=1, limit=60, patience=20, seed=1).run(small_case(honest), tmp_path)
    for contender, calls in zip(entry["contenders"], (3.0, 2.0)):
        contender["calls"] = calls
    results = {
        "command": "python -m benchmarks", "started": "now", "quick": False, "missing": [], "versions": {}, "floor": 1,
        "machine": {"processors": 1, "processor": "one", "memory": 1, "kernel": "7", "system": "Debian"},
        "cases": [{**entry, "name": f"apparent/{size}", "axes": {"apparent": size}} for size in (1, 2)],
    }  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(results))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert report.main([str(tmp_path / "results.json"), "-o", str(tmp_path / "report")]) == 0
    text = (tmp_path / "report/benchmarks.md").read_text()
    assert "| apparent/2 | " in text and "**cp is wrong**" not in text
    assert "| apparent/1 | sparsesync 3, cp 2 |" in text
    assert "no plots without matplotlib" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        report.main([str(tmp_path / "results.json")] * 3)


def test_names_and_goals() -> None:
    """The quick run has the cases of the full one, and every goal finds its cases and contenders."""
    listed = [[*cases.all_cases(1, quick), *cases_ssh.all_cases(1, quick)] for quick in (False, True)]
    full = {case.name for case in listed[0]}
    assert len(full) == len(listed[0]) == len(listed[1])
    made = [
        {
            "name": case.name,
            "contenders": [
                {
                    "name": name, "ours": name.startswith("sparsesync"), "baseline": False, "over": None, "once": True,
                    "seconds": [1.0], "median": 1.0, "ratio": 1.0, "peak": 1, "far_peak": 1, "command": [],
                }
                for name in case.names
            ],
        }
        for case in listed[0]
    ]  # fmt: skip
    verdicts = goals.judge({"cases": made})
    assert not [verdict for verdict in verdicts if verdict.reached is None]
    assert all(verdict.reached is None for verdict in goals.judge({"cases": []}))
    # Who writes all of a file again is a peer where it has changed, too.
    for case in listed[0]:
        if case.name.startswith("ssh/"):
            assert {"tar | ssh tar", "qemu-img to qemu-nbd by ssh"} <= set(case.names), case.name


def test_inputs_come_from_the_seed(tmp_path: Path) -> None:
    a, b, other = (tmp_path / name for name in "abc")
    for path, seed in ((a, 1), (b, 1), (other, 2)):
        inputs.make_file(path, SMALL, seed)
    assert a.read_bytes() == b.read_bytes() != other.read_bytes()
    assert inputs.check(a, b) == SMALL.data
    assert inputs.change(b, 0.25, 1) == 4
    assert b.stat().st_mtime > a.stat().st_mtime + 30
    with pytest.raises(Wrong, match="content differs"):
        inputs.check(a, b)
    inputs.pack(a, other)
    assert other.stat().st_size == SMALL.data


def test_a_copy_without_the_holes_is_wrong(mounted: Mounted) -> None:
    """Filled ones are data; those of a file that was allocated as a whole look like holes to lseek(2)."""
    source, filled, allocated = (mounted("ext4") / name for name in ("source", "filled", "allocated"))
    inputs.make_file(source, Layout(64 * MIB, MIB, 16), 1)
    subprocess.run(["cp", "--sparse=never", source, filled], check=True)
    with pytest.raises(Wrong, match="are data"):
        inputs.check(source, filled)
    subprocess.run(["cp", source, allocated], check=True)
    subprocess.run(["fallocate", "-l", str(64 * MIB), allocated], check=True)
    with pytest.raises(Wrong, match="are allocated"):
        inputs.check(source, allocated)


def test_trees_are_compared(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    inputs.make_tree(source, 150, 1, sparse=2)
    subprocess.run(["cp", "-a", source, copy], check=True)
    inputs.check_tree(source, copy)
    changed = next(copy.rglob("file-0000120"))
    st = changed.stat()
    changed.write_bytes(bytes(st.st_size))
    os.utime(changed, ns=(st.st_atime_ns, st.st_mtime_ns))
    with pytest.raises(Wrong, match="content differs"):
        inputs.check_tree(source, copy)
    changed.unlink()
    with pytest.raises(Wrong, match="other names"):
        inputs.check_tree(source, copy)
