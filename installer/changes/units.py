"""The state of a systemd unit: enabled or not, running or not, and started again when what it reads has changed."""

import dataclasses
from typing import ClassVar

import tenacity

from installer import log
from installer.changes.base import InPlace, Record, Vault
from installer.errors import CommandError, PermanentError
from installer.facts import crio
from installer.facts.model import Facts
from installer.facts.units import look
from installer.host import Host

_SOCKET_SECONDS = 10


@dataclasses.dataclass(frozen=True)
class UnitState(InPlace):
    """A unit as it should be.

    `watches` are the keys of changes after which a running unit must start again; `needs` are other units that
    it brings up, and `sockets` those that they answer on: it is no good without them.
    """

    kind: ClassVar[str] = "unit"
    unit: str
    enabled: bool = True
    active: bool = True
    watches: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    sockets: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return f"unit:{self.unit}"

    def describe(self) -> str:
        return f"{'start' if self.active else 'stop'} and {'enable' if self.enabled else 'disable'} {self.unit}"

    def satisfied(self, facts: Facts) -> str:
        now = facts.unit(self.unit)
        if now.is_active != self.active or now.is_enabled != self.enabled:
            return ""
        if self.active and not all(facts.unit(unit).is_active for unit in self.needs):
            return ""
        return f"{self.unit} is {'running' if self.active else 'stopped'}"

    def capture(self, host: Host, vault: Vault) -> Record:
        now = look(host, self.unit)
        if now.load == "masked":
            raise PermanentError(f"{self.unit} is masked", where=now.fragment, remedy=f"systemctl unmask {self.unit}")
        return {"enabled": now.enabled, "active": now.is_active}

    def apply(self, host: Host, vault: Vault, before: Record) -> Record:
        host.run("systemctl", "daemon-reload")
        host.run("systemctl", "enable" if self.enabled else "disable", "--quiet", self.unit)
        # A restart is a start where the unit is not running.
        _control(host, "restart" if self.active else "stop", self.unit)
        return {}

    def verify(self, host: Host) -> None:
        now = look(host, self.unit)
        if now.is_active != self.active or now.is_enabled != self.enabled:
            raise PermanentError(
                f"{self.unit} is not as it was put",
                found=f"{now.active}, {now.enabled}",
                where=f"systemctl status {self.unit}",
                remedy=f"see why: journalctl -u {self.unit}",
            )
        dead = [unit for unit in self.needs if self.active and not look(host, unit).is_active]
        if dead:
            raise PermanentError(
                f"{self.unit} runs without {', '.join(dead)}",
                where=f"systemctl status {dead[0]}",
                remedy=f"journalctl -u {dead[0]}",
            )
        for path in self.sockets:
            try:
                _wait_for(host, path)
            except PermanentError:
                if host.exists(path):
                    raise
                # A release may place its socket elsewhere: a daemon that runs is then all there is to see.
                log.get().warning(f"there is no socket {path}; its daemon runs, which is all that is known of it")

    def undo(self, host: Host, vault: Vault, before: Record, after: Record) -> list[str]:
        now = look(host, self.unit)
        if now.load in ("not-found", "masked"):
            return [f"{self.unit} is {now.load} now; left as it is"] if before["active"] else []
        if now.is_enabled != (before["enabled"] in ("enabled", "enabled-runtime", "alias")):
            host.run("systemctl", "disable" if now.is_enabled else "enable", "--quiet", self.unit)
        if now.is_active != before["active"]:
            _control(host, "stop" if now.is_active else "start", self.unit)
            host.run("systemctl", "reset-failed", self.unit, check=False)
        return []


@dataclasses.dataclass(frozen=True)
class ContainerRuntime(UnitState):
    """CRI-O's service: it runs when it answers, with the settings and every handler that its files name.

    CRI-O starts without a word where a handler's binary is missing or a key is misspelt, so that it is up
    proves nothing: it is asked.
    """

    kind: ClassVar[str] = "runtime"
    handlers: tuple[str, ...] = ()
    expected: tuple[tuple[str, str], ...] = ()

    def verify(self, host: Host) -> None:
        super().verify(host)
        said = crio.effective(host)
        if said is None:
            raise PermanentError("CRI-O runs but does not answer", where=crio.SOCKET, remedy="journalctl -u crio")
        runtimes = crio.value(said, "crio.runtime.runtimes")
        missing = [h for h in self.handlers if not isinstance(runtimes, dict) or h not in runtimes]
        wrong = [f"{k}={crio.value(said, k)}, not {v}" for k, v in self.expected if str(crio.value(said, k)) != v]
        if missing or wrong:
            raise PermanentError(
                "CRI-O does not use what its configuration says",
                found="; ".join([f"handler {h} is ignored" for h in missing] + wrong),
                where="/etc/crio/crio.conf.d",
                remedy="journalctl -u crio names the reason; is a later drop-in there?",
            )

    def satisfied(self, facts: Facts) -> str:
        state = super().satisfied(facts)
        runtimes = crio.value(facts.crio.effective, "crio.runtime.runtimes")
        has = isinstance(runtimes, dict) and set(self.handlers) <= set(runtimes)
        right = all(str(crio.value(facts.crio.effective, k)) == v for k, v in self.expected)
        return state if state and right and (has or not self.handlers) else ""


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(PermanentError),
    wait=tenacity.wait_fixed(0.5),
    stop=tenacity.stop_after_delay(_SOCKET_SECONDS),
    reraise=True,
)
def _wait_for(host: Host, path: str) -> None:
    """A daemon may report ready before it listens."""
    if not host.listens(path):
        raise PermanentError("nobody listens on a daemon's socket", where=path, remedy="see the daemon's journal")


def _control(host: Host, verb: str, unit: str) -> None:
    try:
        host.run("systemctl", verb, unit, timeout=180)
    except CommandError as error:
        log = host.run("journalctl", "--no-pager", "-o", "cat", "-n", "20", "-u", unit, check=False).out
        raise PermanentError(
            f"{unit} did not {verb}",
            where=f"systemctl {verb} {unit}",
            found=log.strip()[-2000:] or error.found,
            remedy=f"see journalctl -u {unit}",
        ) from error
