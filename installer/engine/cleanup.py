"""Cleanup: the journal played backwards, from what the host holds."""

from installer import log
from installer.changes import SwitchRuntime, UnitState
from installer.engine import look, switching
from installer.engine.install import LOCK, _others, undo
from installer.engine.report import CRI_SOCKET, Reporter
from installer.errors import DeployError, RefusedError
from installer.host import Host
from installer.journal import Entry, Journal
from installer.plan import make_cleanup
from installer.settings import Settings
from installer.switch import move


def cleanup(host: Host, settings: Settings, profile: str) -> list[str]:
    """Takes the profile's changes back; returns what had to stay. Raises DeployError."""
    with host.lock(LOCK):
        journal = Journal(host)
        report = Reporter(settings, profile)
        others = _others(journal, profile)
        try:
            return _Cleanup(host, settings, profile, journal, report).run()
        except DeployError as error:
            report.failed(others, error)
            raise


class _Cleanup:
    def __init__(self, host: Host, settings: Settings, profile: str, journal: Journal, report: Reporter) -> None:
        self.host, self.settings, self.profile = host, settings, profile
        self.journal, self.report = journal, report
        self.others = _others(journal, profile)

    def run(self) -> list[str]:
        """The whole of it."""
        mine, shared = make_cleanup(self.journal.entries, self.profile)
        if mine or shared:
            moves = any(isinstance(entry.change, SwitchRuntime) for entry in mine)
            self.report.removing(self.others, f"{len(mine)} changes to take back", moves=moves)
        with log.phase("recover"):
            switching.resume(self.host, self.journal, self.settings, self.report)
        kept: list[str] = []
        for entry in shared:
            log.get().info(f"stays, for {entry.others(self.profile)}: {entry.change.describe()}")
            self.journal.unclaim(entry, self.profile)
        mine, _ = make_cleanup(self.journal.entries, self.profile)
        restart = self._to_restart(mine)
        for at, entry in enumerate(mine, 1):
            log.get().info(f"[{at}/{len(mine)}] undo {entry.step}: {entry.change.describe()}")
            kept += self._undo(entry)
        for entry in restart:
            self._restart(entry)
        # Before the journal goes, which alone knows what the annotation said before us.
        self.report.socket(self._endpoint())
        if not self.journal.entries:
            move.disarm(self.host)
            self.journal.destroy()
        self.report.gone(self.others)
        return kept

    def _undo(self, entry: Entry) -> list[str]:
        if isinstance(entry.change, SwitchRuntime):
            facts = look.look(self.host, self.settings, self.journal, control_plane=False)
            self.journal.undoing(entry)
            kept = switching.back(self.host, self.journal, entry, self.settings, facts, self.report)
            self.journal.undone(entry, kept)
            return kept
        return undo(self.host, self.journal, entry)

    def _to_restart(self, mine: list[Entry]) -> list[Entry]:
        """Running units that were there before us, or stay, and read what goes now, or went before a crash."""
        going = {entry.change.key for entry in mine}
        units = [(e, e.change) for e in self.journal.entries if isinstance(e.change, UnitState)]
        reading = [e for e, unit in units if e.stale or set(unit.watches) & going]
        return [e for e in reading if e.change.key not in going or e.before["active"]]

    def _restart(self, entry: Entry) -> None:
        assert isinstance(entry.change, UnitState)
        self.host.run("systemctl", "try-restart", entry.change.unit, timeout=180)
        if self.journal.entry(entry.change.key) is entry and entry.state == "done":
            self.journal.done(entry, {})  # it has read what is left: the next install has no need to start it again

    def _endpoint(self) -> str | None:
        """What the node's annotation is to say: what it said before us, or where the kubelet is while others stay."""
        if not self.journal.entries:
            known = self.journal.notes.get(CRI_SOCKET)
            return None if known is None else str(known)
        try:
            facts = look.look(self.host, self.settings, self.journal, control_plane=False)
        except RefusedError as error:
            # Everything is taken back by now; a file of the kubelet's that we can't read changes nothing about that.
            log.get().warning(f"the kubelet's runtime can't be told: {error.what}", where=error.where)
            return None
        return facts.kubelet.endpoint if facts.kubelet else None
