"""One run with one fault, and what is to be said of it.

A :class:`Lab` has a directory with the two C programs. :meth:`Lab.run` makes the scenario's files in a new directory,
runs the command with the fault, judges what is there, runs the command again without a fault, and judges that. Two
processes that must not meet (two labs' runs, or two threads of one) have directories of their own.

The verdict is a list of problems by kind:

    wrong       content that is neither the old nor the new, or not the new though the status is 0
    stray       something that nobody documented; a temporary file is documented for SIGKILL alone
    silent      holes were lost, and nothing was said on standard error
    status      the status is 0 though something is not as it should be, or not 0 without a word
    traceback   on standard error
    hang        it did not end
    next        the next run does not end well
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.faults.scenarios import Scenario
from tests.support.filesystems import command, need_tools

HANG_SECONDS = 60
SLACK_BYTES = 64 * 1024
"""How much more than its source a copy may have allocated: a filesystem's own blocks."""

_HERE = Path(__file__).parent
_ROOT = _HERE.parent.parent
_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8}|[0-9A-Za-z]{6})")
_PARTIAL = re.compile(r"\..+\.sparsesync-partial")


class Fault(NamedTuple):
    """What happens at the ``at``-th call of a program on one side; 0: nothing, the calls are only counted."""

    act: str = "none"
    at: int = 0
    side: str = "client"
    program: str = "python"

    def __str__(self) -> str:
        return f"{self.program}/{self.side}/{self.at}/{self.act}"

    @classmethod
    def parse(cls, text: str) -> Fault:
        program, side, at, act = text.split("/", 3)
        return cls(act, int(at), side, program)

    @property
    def kills(self) -> bool:
        """Whether a process has no time to tidy up."""
        return self.act.endswith("=9")

    @property
    def signals(self) -> bool:
        return self.act.startswith(("kill=", "group=", "parent="))

    @property
    def changes(self) -> bool:
        """Whether a file is changed by somebody else."""
        return self.act.startswith("run=")


class Call(NamedTuple):
    """A call that was counted."""

    number: int
    kind: str
    path: str


@dataclass
class Ended:
    """How a process ended; ``status`` is None if it did not."""

    status: int | None
    stderr: str
    calls: list[Call] = field(default_factory=list)
    fired: bool = False


@dataclass
class Verdict:
    """What is to be said of a run with a fault."""

    scenario: Scenario
    fault: Fault
    ended: Ended
    problems: list[tuple[str, str]] = field(default_factory=list)
    next: str = ""
    """How the next run ended."""

    def __str__(self) -> str:
        found = "; ".join(f"{kind}: {text}" for kind, text in self.problems)
        again = f"python -m tests.faults {self.scenario.name} '{self.fault}'"
        return f"{found}\n    {again}\n    status {self.ended.status}, stderr: {self.ended.stderr.strip()[-600:]!r}"

    def has(self, kind: str) -> bool:
        return any(each == kind for each, _ in self.problems)


class Lab:
    """The programs, and a place for runs."""

    def __init__(self, place: Path) -> None:
        need_tools("gcc", "rsync")
        self.place = place
        self.library, self.relay = place / "inject.so", place / "relay"
        command("gcc", "-O1", "-shared", "-fPIC", "-o", self.library, _HERE / "inject.c", "-ldl")
        command("gcc", "-O1", "-o", self.relay, _HERE / "relay.c", "-lpthread")
        self._count: dict[tuple[str, str, str], list[Call]] = {}

    @contextlib.contextmanager
    def directory(self) -> Iterator[Path]:
        work = Path(tempfile.mkdtemp(dir=self.place))
        try:
            yield work
        finally:
            shutil.rmtree(work, onerror=_allow_and_try_again)

    def calls(self, scenario: Scenario, side: str = "client", program: str = "python") -> list[Call]:
        """The calls of a run without a fault, which also has to be right."""
        key = scenario.name, side, program
        if key not in self._count:
            with self.directory() as work:
                files, fault = Files(scenario, work), Fault(side=side, program=program)
                verdict = Verdict(scenario, fault, self.execute(scenario, work, fault))
                files.judge(verdict)
            assert not verdict.problems, verdict
            self._count[key] = verdict.ended.calls
        return self._count[key]

    def run(
        self,
        scenario: Scenario,
        fault: Fault,
        *,
        environ: dict[str, str] | None = None,
        keep: Path | None = None,
        start: Callable[[], object] | None = None,
        through: str = "",
    ) -> Verdict:
        """Run a scenario with a fault, judge it, and run it again.

        ``start`` is called in the process, before the command; ``through`` are redirections of a shell.
        """
        with contextlib.ExitStack() as stack:
            work = keep or stack.enter_context(self.directory())
            files = Files(scenario, work)
            ended = self.execute(scenario, work, fault, environ, start, through)
            verdict = Verdict(scenario, fault, ended)
            files.judge(verdict)
            again = self.execute(scenario, work)
            files.judge_next(verdict, again)
            return verdict

    def execute(
        self,
        scenario: Scenario,
        work: Path,
        fault: Fault | None = None,
        environ: dict[str, str] | None = None,
        start: Callable[[], object] | None = None,
        through: str = "",
    ) -> Ended:
        """Run a scenario's command in a directory that was prepared; the last three are those of :meth:`run`."""
        log = work / "log"
        if fault is not None:
            (work / "count").write_bytes(bytes(8))
            log.write_bytes(b"")
        argv = scenario.argv(sys.executable, work / "files")
        if through:
            argv = ["bash", "-o", "pipefail", "-c", f'"$@" {through}', "bash", *argv]
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                argv,
                env={**self.environment(work, fault), **(environ or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                cwd=work,
                start_new_session=True,
                preexec_fn=lambda: _begin(start),
            )
            try:
                status: int | None = process.wait(HANG_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                status = None
            _wait_for_all(work)
            said.seek(0)
            ended = Ended(status, said.read().decode(errors="replace"))
        if fault is not None:
            for line in log.read_text(errors="replace").splitlines():
                number, kind, path = line.split(" ", 2)
                if kind == "fired":
                    ended.fired = True
                else:
                    ended.calls.append(Call(int(number), kind, path))
        return ended

    def environment(self, work: Path, fault: Fault | None = None) -> dict[str, str]:
        """What the command of a run finds in its environment."""
        environ = dict(os.environ, PYTHONPATH=str(_ROOT), TMPDIR=str(work / "tmp"), LC_ALL="C.UTF-8")
        environ.update(RSYNC_RSH=str(self.relay), FAULTS_RUN=str(work))
        if fault is not None:
            environ.update(
                LD_PRELOAD=str(self.library),
                FAULTS_BELOW=str(work / "files"),
                FAULTS_PROGRAM=fault.program,
                FAULTS_SIDE=fault.side,
                FAULTS_COUNT=str(work / "count"),
                FAULTS_LOG=str(work / "log"),
                FAULTS_AT=str(fault.at),
                FAULTS_ACT=fault.act.replace("FILES", str(work / "files")),
            )
        return environ


class Files:
    """The files of a run, before and after."""

    def __init__(self, scenario: Scenario, work: Path) -> None:
        self.scenario = scenario
        self.top = work / "files"
        self.top.mkdir()
        (work / "tmp").mkdir()
        scenario.prepare(self.top)
        self.old = _digests(self.top / "dst")
        self.new = _digests(self.top / "src")
        self.before = dict(self.new)
        self.theirs = [hashlib.sha256(b"theirs\n").hexdigest()]

    def judge(self, verdict: Verdict) -> None:
        """Look at what a run with a fault left."""
        ended, fault, problem = verdict.ended, verdict.fault, verdict.problems.append
        if fault.changes:
            self.new = _digests(self.top / "src")
        if ended.status is None:
            problem(("hang", f"after {HANG_SECONDS} s"))
        if "Traceback (most recent call last)" in ended.stderr:
            problem(("traceback", ended.stderr.strip().splitlines()[-1]))
        found = _digests(self.top / "dst")
        for name, digest in found.items():
            if name not in self.new:
                if not self._may_stay(name, fault) and digest not in (self.old.get(name), self.before.get(name)):
                    problem(("stray", name))
            elif digest not in (self.old.get(name), self.new[name], self.before[name], *self.theirs):
                self._judge_mixture(verdict, name)
        for name in self._wanted() if ended.status == 0 and not fault.changes else ():
            if name not in found:
                problem(("status", f"0, and {name} is missing"))
            elif found[name] != self.new[name]:
                problem(("status", f"0, and {name} is the old one"))
            elif not self.scenario.same_attributes(self.top / "src" / name, self.top / "dst" / name):
                problem(("status", f"0, and {name} has other attributes"))
        if ended.status and not ended.stderr.strip() and not fault.signals:
            problem(("status", f"{ended.status} without a word"))
        if not ended.stderr.strip():
            for name in self._lost(found):
                problem(("silent", name))

    def _judge_mixture(self, verdict: Verdict, name: str) -> None:
        ended, fault = verdict.ended, verdict.fault
        if not fault.changes:
            if not self.scenario.inplace or ended.status == 0:
                verdict.problems.append(("wrong", f"{name} is a mixture, and the status is {ended.status}"))
        elif "/src/" in fault.act:
            # Whoever reads a file that is written to gets what no moment saw. But it may not look finished, unless it
            # was said; and rsync looks again at what does not look finished.
            quiet = ended.status == 0 and not ended.stderr.strip()
            if quiet and not (self.scenario.kind == "sync" and self._shows(name)):
                verdict.problems.append(("wrong", f"{name} is torn, looks finished, and nothing was said"))

    def judge_next(self, verdict: Verdict, ended: Ended) -> None:
        """Look at what the next run left, which nothing disturbed."""
        verdict.next = "hang" if ended.status is None else str(ended.status)
        problem = verdict.problems.append
        found = _digests(self.top / "dst")
        new = _digests(self.top / "src")
        if ended.status != 0 and all(name in new for name in self._wanted()):
            problem(("next", f"status {ended.status}: {ended.stderr.strip()[-200:]}"))
        if "Traceback" in ended.stderr:
            problem(("next", "a traceback"))
        for name in self._wanted():
            if self._cannot_be_seen(verdict, name, found):
                continue
            if name in new and found.get(name) != new[name]:
                problem(("next", f"{name} is {'missing' if name not in found else 'not the new one'}"))
        for name in found:
            known = name in {*new, *self.old, *self.new, *self.before} or self._may_stay(name, verdict.fault)
            if not known and not verdict.has("stray"):
                problem(("next", f"{name} is still there"))

    def _wanted(self) -> Sequence[str]:
        return self.scenario.names or list(self.new)

    def _may_stay(self, name: str, fault: Fault) -> bool:
        base = os.path.basename(name)
        if fault.changes and name.startswith("theirs"):
            return True
        if _PARTIAL.fullmatch(base):
            return self.scenario.remote
        # A library has no signal handlers: what its caller has not caught ends the process at once.
        untidy = fault.kills or (fault.signals and self.scenario.kind == "copy2")
        return untidy and _TEMPORARY.fullmatch(base) is not None

    def _shows(self, name: str) -> bool:
        """Whether it shows that a file is not finished: rsync's quick check would look at it again."""
        source, target = os.lstat(self.top / "src" / name), os.lstat(self.top / "dst" / name)
        return source.st_size != target.st_size or source.st_mtime_ns != target.st_mtime_ns

    def _cannot_be_seen(self, verdict: Verdict, name: str, found: dict[str, str]) -> bool:
        """Whether rsync itself would not bring a file again, and what there is was whole."""
        hidden = "touch -d" in verdict.fault.act and self.scenario.kind == "sync"
        return hidden and found.get(name) == self.before[name]

    def _lost(self, found: dict[str, str]) -> Iterator[str]:
        for name, digest in found.items():
            if digest == self.new.get(name):
                source, target = os.lstat(self.top / "src" / name), os.lstat(self.top / "dst" / name)
                if (target.st_blocks - source.st_blocks) * 512 > SLACK_BYTES:
                    yield f"{name} takes {target.st_blocks // 2} KiB, its source {source.st_blocks // 2}"


def _digests(top: Path) -> dict[str, str]:
    """Each file below a directory, by its path there; what is no file, and no directory, by what it is."""
    found: dict[str, str] = {}
    for above, _, names in os.walk(top):
        for name in names:
            path = os.path.join(above, name)
            st = os.lstat(path)
            if stat.S_ISREG(st.st_mode):
                with open(path, "rb") as file:
                    digest = hashlib.sha256(file.read()).hexdigest()
            else:
                digest = f"a {stat.S_IFMT(st.st_mode):o}"
            found[os.path.relpath(path, top)] = digest
    return found


def _begin(start: Callable[[], object] | None) -> None:
    # What a shell starts in the background ignores it, and that is handed down.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if start is not None:
        start()


def _wait_for_all(work: Path) -> None:
    """Wait for what a run left behind: an agent that has just lost its client, an rsync of the other end."""
    for _ in range(int(HANG_SECONDS / 0.02)):
        if not _processes(work):
            return
        time.sleep(0.02)
    for pid in _processes(work):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _processes(work: Path) -> list[int]:
    """The processes of a run, of whatever session: they have inherited its environment."""
    marker = f"FAULTS_RUN={work}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if marker in Path("/proc", entry, "environ").read_bytes().split(b"\0"):
                    found.append(int(entry))
    return found


def _allow_and_try_again(function: Callable[[str], object], path: str, error: object) -> None:
    os.chmod(os.path.dirname(path), 0o700)
    function(path)
