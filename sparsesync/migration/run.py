"""Moving a machine's data: look, say what will be done, move, prove it; and again, at any point.

A migration is rsync with ``-aHAX --numeric-ids --one-file-system``, wrapped as by ``sync``, and what a careful person
does around it::

    preflight   both machines are asked                                     preflight.py
    findings    what they say is judged                                     findings.py
    plan        what goes by extents, what by rsync, what is left out        plan.py
    first pass  sync, while services run
    final pass  the same between --before and --after, with a proof          final_pass.py

Either machine may be another host. It is logged in to once: our agent there answers what is asked, runs the
commands, and holds the lock of the destination for as long as it lives; ``sync`` and rsync go through its connection.

Nothing is kept between two runs but the destination itself and what ``sync`` leaves in partial files. So the same
command, given again, goes on where the last one was interrupted.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Callable

from ..console.document import ending, schema
from ..console.messages import format_error
from ..console.progress import ProgressBar, Whole
from ..embedding import Embedding
from ..engine.errors import LinkError, NoSpaceError
from ..engine.queries.presets import left_out
from ..engine.roles import Planned
from ..engine.tree.scan import ScanOptions
from ..exclude import PatternOptions, excluding, place_patterns, quoter, sparse_names
from ..hosts.base import Location
from ..hosts.pool import HostPool
from ..rsync.paths import transfer_name
from ..rsync.program import Status
from ..seeding import run as seeding
from ..seeding.options.own import SeedOptions
from ..seeding.options.tracked import without
from ..seeding.result import SyncResult, as_report
from ..tracking.store import Store
from . import findings, plan, preflight
from .called.result import MigrationError
from .final_pass import FinalPass
from .findings import STOP, WARNING, Finding
from .output import RsyncOutput
from .preflight import Facts
from .request import MigrationCommand, Request
from .stores import of_stores

INTERRUPTED = "interrupted; what has arrived is kept, and the same command goes on from there"

_FINE_TIMES = [3, 1, 3]
"""The first rsync with --modify-window=-1: rsync(1)."""


class Migration:
    """One run of a migration.

    ``say``: called with each message to print, with its kind (:func:`text.print_event`).
    ``write``: called with rsync's output.
    ``bar``: makes the progress bar of a total.
    ``every_file``: report every sparse file.
    ``embedding``: of the program whose migration this is; None: the command's own.
    ``report``: what was done, ready for JSON. Sizes are bytes, times seconds.
    ``synced``: the result of the pass.
    ``told``: what became of the commands for a failure.
    ``begun``: whether there is more to it than looking.
    """

    def __init__(
        self,
        request: Request,
        say: Callable[[str, Any], object],
        write: Callable[[bytes], object],
        bar: Callable[[int], Whole] = ProgressBar,
        every_file: bool = False,
        embedding: Embedding | None = None,
    ) -> None:
        self.request = request
        self.asked: MigrationCommand = MigrationCommand(request, embedding)
        self.embedding = embedding
        self.synced: SyncResult | None = None
        self.told: list[str] = []
        self.begun: bool = False
        self.say = say
        self.write = write
        self.bar = bar
        self.every_file = every_file
        self.report: dict[str, Any] = {
            "schema": schema("migrate"),
            "sources": list(request.sources),
            "destination": request.destination,
            "pass": "check" if request.check else "plan" if request.dry_run else "final" if request.final else "first",
            "started": time.time(),
            "status": None,
            "failure": None,
        }

    def run(self) -> None:
        """Run the migration. Raises MigrationError, and before anything is done also OSError, LinkError, ValueError."""
        with contextlib.ExitStack() as stack:
            try:
                self._run(stack)
                self.report["status"] = 0
            except MigrationError as failed:
                self.report["status"], self.report["failure"] = failed.status, str(failed)
                raise
            except BaseException as error:
                self.report["status"], self.report["failure"] = ending(error)
                raise
            finally:
                self.report["seconds"] = round(time.time() - self.report["started"], 3)

    def _run(self, stack: contextlib.ExitStack) -> None:
        self._locate(stack)
        facts = preflight.gather_facts(self.source, self.destination, self.asked)
        exists = facts.probe.kind == "d"
        found = [*findings.findings(facts), *of_stores(facts)]
        self.asked.fine_times = facts.probe.nanoseconds and all(
            host.rsync and [*map(int, host.rsync.split(".")[:3])] >= _FINE_TIMES for host in facts.hosts
        )
        self._exclude(facts, stack)
        planned = None
        if not _stops(found):
            plan.check_options(self.asked)
            ends = self.source.host, self.destination.host
            names = (
                stack.enter_context(tempfile.TemporaryFile("w+", encoding="ascii")) if self.request.dry_run else None
            )
            planned = plan.make(self.asked, *ends, facts.probe.clone, exists, facts.probe.free, names)
            found += findings.of_space(facts, planned)
        commands = self.request.commands
        # What --before stops is still running now.
        stopping = self.request.final and not (commands.before or commands.before_dest or self.request.allow_live)
        found += self.in_use(facts, facts.in_use, STOP if stopping else WARNING)
        self._tell_findings(facts, found)
        if planned is not None:
            self._tell_plan(facts, planned)
            if names is not None:
                names.seek(0)
                self.say("names", map(json.loads, names))
        if _stops(found):
            raise MigrationError(1, f"{findings.stops(_stops(found))}; nothing was done")
        if self.request.check or self.request.dry_run:
            return
        assert planned is not None  # without a stop there is a plan
        if self.request.track is not None:
            without(self.request.track, self.asked.command, stack)  # it raises, before services are stopped
            Store(self.request.track).close()
        try:
            stack.enter_context(self.destination.host.locked(self.asked.path, self.asked.command.mkpath))
        except LinkError:
            raise
        except OSError as error:
            raise MigrationError(1, f"{error.filename}: {error.strerror}; nothing was done") from None
        self.begun = True
        total = planned.seeds.data + planned.others.size
        if self.request.verify:
            total += sum(survey.allocated for survey in facts.surveys.values())
        with self.bar(total) as whole:
            if self.request.final:
                FinalPass(self, facts).run(whole)
            else:
                self.one_pass(whole)
        if self.every_file:
            try:
                self._list_sparse(facts)
            except OSError as error:
                text = f"the report lacks the list of sparse files: {format_error(error)}"
                if self.embedding is not None:
                    self.embedding.warn(text)
                else:
                    warnings.warn(text, stacklevel=2)

    def _locate(self, stack: contextlib.ExitStack) -> None:
        """Find the two machines: one of them at least is this one, and the other is logged in to once."""
        command, request = self.asked.command, self.request
        remote = command.remote
        self.hosts: HostPool = stack.enter_context(
            HostPool(
                remote.shell if remote else None,
                request.python,
                prefix=remote.prefix if remote else "",
                timeout=command.timeout,
                share=True,
                embedding=self.embedding,
            )
        )
        self.source: Location
        self.destination: Location
        self.source, self.destination = self.hosts.locate_pair(request.sources[0], request.destination)
        if self.hosts.shared.control:
            self.asked.share(self.hosts.shared.control)

    def _exclude(self, facts: Facts, stack: contextlib.ExitStack) -> None:
        """From here on the command has the patterns of the presets, and of sparse files that are to be left out."""
        quote = quoter(null=True)
        relative = self.asked.command.relative
        patterns = sorted(set(place_patterns(facts.places, relative, quote)))
        self.asked.patterns = [f"--exclude={pattern}" for pattern in patterns]
        files = [place.path for place in facts.places if not place.wildcard]
        sizes = dict(zip(files, self.source.host.query("sizes", paths=files).found))
        self.report["excluded"] = [
            {"pattern": pattern, "why": place.reason, "sizes": sizes.get(place.path)}
            for place in facts.places
            for pattern in place_patterns([place], relative, quote)
        ]
        if not self.request.exclude_sparse:
            return
        locations = [self.source._replace(path=path) for path in self.asked.sources]
        names = []
        options = PatternOptions(relative, one_file_system=self.asked.command.one_file_system)
        for name, file in sparse_names(locations, facts.places, options):
            names.append(name.lstrip("/"))
            left = {"pattern": name, "why": "--exclude-sparse", "sizes": [file.size, file.allocated]}
            self.report["excluded"].append(left)
        self.asked.patterns += excluding(names, stack)

    # What is told.

    def _tell_findings(self, facts: Facts, found: Sequence[Finding]) -> None:
        self.report["findings"] = [finding._asdict() for finding in found]
        for side, host in zip(("source", "destination"), facts.hosts):
            self.report.setdefault("versions", {})[side] = host._asdict()
        self.report["apparent"] = sum(survey.size for survey in facts.surveys.values())
        self.report["allocated"] = sum(survey.allocated for survey in facts.surveys.values())
        self.say("findings", found)

    def _tell_plan(self, facts: Facts, planned: plan.Plan) -> None:
        self.report["plan"] = {
            "by_extents": asdict(planned.seeds),
            "by_rsync": asdict(planned.others),
            "created": planned.created,
            "deleted": planned.deleted,
            "kept": planned.extra,
            "left_to_rsync": planned.handoff,
        }
        self.say("plan", (planned, self.report["excluded"], [*self.request.exclude_from]))

    def ask_in_use(self, facts: Facts) -> Any:
        """Return the files of the sources that are in use now."""
        return self.source.host.query("in_use", sources=self.asked.sources, places=[*map(list, facts.places)])

    def in_use(self, facts: Facts, used: Any, level: str) -> list[Finding]:
        """Return a finding for each file in use that the command covers."""
        found = used.found
        if found and (self.asked.filters or self.request.exclude_sparse):
            covered = plan.are_covered(self.asked, [each.path for each in found])
            # Of several links one may be covered, whatever it is called.
            found = [each for each in found if each.links > 1 or each.path in covered]
        self.report["in_use"] = [each._asdict() for each in found]
        return list(findings.of_use(facts, found, used.more, level))

    # The passes.

    def one_pass(self, whole: Whole) -> None:
        """Run one sync. Raises MigrationError unless it copies everything."""
        totals = RsyncOutput(self.asked.command, whole.shown, self.write)
        argv = self.asked.argv(*totals.options)
        started = time.monotonic()
        try:
            with whole.phase(None, "rsync") as totals.advance:
                hold_back = None if self.request.final else self._hold_back
                loud = self.asked.command.verbose > 0 and not self.asked.command.quiet
                request = self.request
                seed = SeedOptions(
                    python=request.python, hold_back=hold_back, verbose=loud, track=request.track,
                    streams=request.streams,
                )  # fmt: skip
                run = functools.partial(seeding.run, bar=whole.phase, output=totals.feed, strict=True, hosts=self.hosts)
                self.synced = result = run(argv, seed, embedding=self.embedding)
            totals.end()
        except NoSpaceError as error:
            raise MigrationError(Status.FILE_IO, f"{error.filename}: {error.strerror}") from None
        except LinkError as error:
            kept = "what was received is kept, the same command goes on from there"
            raise MigrationError(Status.PROTOCOL, f"{error}; {kept}") from None
        result = result._replace(command=self.asked.shown(result.command), seconds=time.monotonic() - started)
        remote = self.asked.command.remote is not None
        self.report["sync"] = as_report(result, remote, totals.wire if remote else totals.literal, totals.literal)
        if result.status == Status.VANISHED and (not self.request.final or self.request.allow_live):
            if not self.request.final:
                text = "some files vanished while they were copied, as they do while services run"
                raise MigrationError(
                    Status.VANISHED, f"{text}; the final pass, or the same command again, copies the rest"
                )
            return
        if result.status == Status.SIGNAL:
            raise MigrationError(result.status, INTERRUPTED)
        if result.later and self.request.final and not self.request.allow_live:
            text = f"{result.later[0]}: it was written to while the final pass copied it; run the same command again"
            raise MigrationError(1, text)
        if result.status:
            raise MigrationError(result.status, f"rsync ended with status {result.status}; run the same command again")

    def _hold_back(self, changing: Sequence[Planned]) -> list[str]:
        """Return the names of the sparse files that change or are in use. A first pass keeps them from rsync."""
        host = self.source.host
        used = {each["path"]: each["links"] for each in self.report["in_use"] if each["how"] != "overlay"}
        sparse = [path for path, is_sparse in zip(used, host.query("sparse", paths=[*used]).found) if is_sparse]
        names = {self.name(path) for path in sparse} | {planned.name for planned in changing}
        if any(used[path] > 1 for path in sparse) or any(planned.links > 1 for planned in changing):
            # rsync would copy the file under another of its names.
            links: dict[tuple[int, int], set[str]] = {}
            for source in self.asked.sources:
                rules = self.asked.rules(source)
                options = ScanOptions(self.asked.command.one_file_system, every_link=True, rules=rules)
                for file, *_ in host.scan(source, options, on_error=lambda error: None):
                    if file.st.st_nlink > 1:
                        links.setdefault((file.st.st_dev, file.st.st_ino), set()).add(self.name(file.path))
            for group in links.values():
                names |= group if group & names else set()
        return [*filter(None, names)]

    def name(self, path: str) -> str:
        """Return the name in the transfer of a path at the source, or "" if it has none."""
        names = (transfer_name(source, path, self.asked.command.relative) for source in self.asked.sources)
        return next(filter(None, names), "")

    def _list_sparse(self, facts: Facts) -> None:
        """Every sparse file of the transfer, with its sizes at both ends, for the report."""
        moved = "sent" if self.asked.command.remote else "data"
        sent = {each["name"]: each[moved] for each in self.report["sync"]["seeded"]}
        found: list[dict[str, Any]] = []
        host = self.source.host
        prune = [place.path for place in facts.places if place.wildcard in ("", "/*")]
        skip = left_out(facts.places)
        for source in self.asked.sources if not self.request.exclude_sparse else ():
            options = ScanOptions(self.asked.command.one_file_system, prune=prune, rules=self.asked.rules(source))
            for scanned in host.scan(source, options, on_error=lambda error: None):
                file = scanned.file
                if skip(file.path):
                    continue
                name = transfer_name(source, file.path, self.asked.command.relative)
                found.append({"name": name, "source": [file.size, file.allocated], "sent": sent.get(str(name), 0)})
        for start in range(0, len(found), 500):
            part = found[start : start + 500]
            paths = [os.path.join(self.asked.path, each["name"]) for each in part]
            for each, sizes in zip(part, self.destination.host.query("sizes", paths=paths).found):
                each["destination"] = sizes
        self.report["sparse_files"] = found


def _stops(found: Sequence[Finding]) -> int:
    return sum(finding.level == STOP for finding in found)
