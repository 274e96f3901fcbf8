"""Install: recover, look, judge, plan, apply, prove, switch, advertise."""

import time

from installer import log
from installer.changes import InPlace, InstallFiles, SwitchRuntime
from installer.engine import look, stage, switching
from installer.engine.report import CRI_SOCKET, Reporter
from installer.errors import DeployError, PermanentError
from installer.facts.crio import ENDPOINT
from installer.facts.model import Facts
from installer.host import Host
from installer.journal import Entry, Journal
from installer.plan import Item, Plan, make
from installer.settings import Settings
from installer.steps import ORDER
from installer.steps.crio_config import RUNTIME
from installer.switch import prepare

LOCK = "/run/sysbox-deploy.lock"


def install(host: Host, settings: Settings, profile: str) -> bool:
    """Prepares the node. Says whether anything changed. Raises DeployError."""
    with host.lock(LOCK):
        journal = Journal(host)
        others = _others(journal, profile)
        report = Reporter(settings, profile)
        try:
            return Install(host, settings, profile, journal, report).run()
        except DeployError as error:
            report.failed(others, error)
            raise


class Install:
    """One run of an install."""

    def __init__(self, host: Host, settings: Settings, profile: str, journal: Journal, report: Reporter) -> None:
        self.host, self.settings, self.profile = host, settings, profile
        self.journal, self.report = journal, report
        self.others = _others(journal, profile)
        self.steps = ORDER[profile]

    def run(self) -> bool:
        """The whole of it."""
        seen = self.report.look()
        self.control_plane = bool(seen and seen.control_plane)
        self.socket = seen.annotations.get(CRI_SOCKET, "") if seen else None
        with log.phase("recover"):
            switching.resume(self.host, self.journal, self.settings, self.report)
        with log.phase("look and plan"):
            facts, plan = self.plan()
        _explain(plan)
        changed = bool(plan.todo or plan.obsolete)
        resumed = bool(self.journal.notes.get("unadvertised"))
        if changed:
            self._claim(facts, plan)
            self._change(facts, plan)
        self._own(plan)
        if changed or resumed or seen:
            self._advertise()
        log.get().info(
            "the node is prepared" if changed else "the node was prepared already; nothing was changed",
            api_requests=self.report.requests,
        )
        return changed

    def plan(self) -> tuple[Facts, Plan]:
        """Facts and plan, with nothing touched. Raises RefusedError."""
        facts = look.look(self.host, self.settings, self.journal, control_plane=getattr(self, "control_plane", False))
        findings = look.judge(facts, self.settings, self.profile)
        for finding in findings:
            if finding.level == "warn":
                log.get().warning(f"{finding.name}: {finding.what} ({finding.found})", remedy=finding.remedy)
        look.refuse(findings)
        facts = look.with_sources(self.host, self.settings, facts, self.profile)
        return facts, make(facts, self.settings, self.steps, self.journal.entries, self.profile)

    def _claim(self, facts: Facts, plan: Plan) -> None:
        moves = [item.change for item in plan.todo if isinstance(item.change, SwitchRuntime)]
        for change in moves:
            switching.refuse_again(self.journal, change, self.settings)
            prepare.early(self.host, facts, change)
        self.report.installing(self.others, f"{len(plan.todo)} changes to make", moves=bool(moves))
        self.journal.note("unadvertised", True)
        if CRI_SOCKET not in self.journal.notes:
            self.journal.note(CRI_SOCKET, self.socket)

    def _change(self, facts: Facts, plan: Plan) -> None:
        with log.phase("stage"):
            stage.stage(self.host, plan)
        for entry in plan.obsolete:
            log.get().info(f"{entry.step}: take back: {entry.change.describe()}")
            undo(self.host, self.journal, entry)
        made: list[Entry] = []
        step = ""
        for at, item in enumerate(plan.todo, 1):
            if item.step != step:
                made, step = [], item.step
            self._make(item, made, facts, f"[{at}/{len(plan.todo)}]")
        with log.phase("prove"):
            self._prove()
        stage.sweep(self.host, {i.change.sha256 for i in plan.items if isinstance(i.change, InstallFiles)})

    def _make(self, item: Item, made: list[Entry], facts: Facts, number: str) -> None:
        start = time.monotonic()
        log.get().info(f"{number} {item.step}: {item.change.describe()}")
        change = item.change
        if isinstance(change, SwitchRuntime):
            switching.there(self.host, self.journal, change, self.settings, self.profile, facts, self.report)
        elif isinstance(change, InPlace):
            try:
                self._in_place(item.step, change, made)
            except DeployError as error:
                self._roll_back(made, error)
                raise
        log.get().info(f"{number} done", seconds=round(time.monotonic() - start, 1))

    def _in_place(self, step: str, change: InPlace, made: list[Entry]) -> None:
        known = self.journal.entry(change.key)
        resumed = known is not None and known.state != "done"
        found = known.before if known and resumed else change.capture(self.host, self.journal)
        entry = self.journal.begin(step, change, found, self.profile)
        if known is None:
            made.append(entry)
        after = change.apply(self.host, self.journal, found)
        change.verify(self.host)
        self.journal.done(entry, after)

    def _roll_back(self, made: list[Entry], error: DeployError) -> None:
        """A step that fails leaves nothing of its own behind."""
        log.get().error(f"{error.what}; taking this step's {len(made)} changes back")
        for entry in reversed(made):
            undo(self.host, self.journal, entry)

    def _own(self, plan: Plan) -> None:
        """What is ours already is this profile's too."""
        for item in plan.items:
            entry = self.journal.entry(item.change.key)
            if entry:
                self.journal.claim(entry, self.profile)

    def _prove(self) -> None:
        """Nothing is left to do, by a second look at everything."""
        _, plan = self.plan()
        if plan.todo:
            raise PermanentError(
                "changes were made, but do not hold",
                found="; ".join(item.change.describe() for item in plan.todo),
                remedy="see who changes them back, then run install again",
            )

    def _advertise(self) -> None:
        self.report.wait_until_serving("cri-o", RUNTIME if self.profile == "sysbox" else "")
        self.report.running(self.others, f"profile {self.profile}: the kubelet runs on CRI-O", ENDPOINT)
        self.journal.note("unadvertised", None) if self.journal.notes else None


def undo(host: Host, journal: Journal, entry: Entry) -> list[str]:
    """Takes one entry back, and says so in the journal."""
    assert isinstance(entry.change, InPlace)
    journal.undoing(entry)
    for record in (entry.before, *entry.before.get("files", ())):
        if "path" in record:
            host.sweep(record["path"])  # a folder of ours goes only if it is empty
    kept = entry.change.undo(host, journal, entry.before, entry.after)
    for what in kept:
        log.get().warning(f"kept: {what}")
    journal.undone(entry, kept)
    return kept


def _explain(plan: Plan) -> None:
    """Says why each step that has nothing to do has nothing to do."""
    for item in plan.items:
        if item.reason:
            log.get().info(f"nothing to do: {item.step}: {item.reason}")
    for step, remark in plan.remarks:
        log.get().info(f"nothing to do: {step}: {remark}")


def _others(journal: Journal, profile: str) -> set[str]:
    """The other profiles that have something on this host."""
    return {claim for entry in journal.entries for claim in entry.claims} - {profile}
