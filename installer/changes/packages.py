"""Packages, by apt on the host: what we added is known from dpkg itself, and only that goes again."""

import dataclasses
import json
import re
from typing import ClassVar

import tenacity

from installer import log
from installer.changes.base import InPlace, Record, Vault
from installer.errors import CommandError, PermanentError, TemporaryError
from installer.facts import debian
from installer.facts.model import Facts
from installer.host import Host, Result

_UNIT = "sysbox-deploy-apt.service"
_QUIET = {
    "DEBIAN_PRIORITY": "critical",
    # needrestart would restart services that are none of our business.
    "NEEDRESTART_SUSPEND": "1",
}
_OPTIONS = (
    "-o",
    "Dpkg::Options::=--force-confdef",
    "-o",
    "Dpkg::Options::=--force-confold",
    "-o",
    "APT::Install-Recommends=false",
)
_PASSING = re.compile(
    r"Could not get lock|Unable to acquire the dpkg|Resource temporarily unavailable|Temporary failure resolving"
    r"|Could not connect|Connection (failed|timed out|refused|reset)|Could not resolve|Failed to fetch|Unable to fetch"
    r"|50[0234] |Hash Sum mismatch|Unable to connect|is not \(yet\) available"
)
_UNSIGNED = re.compile(r"(NO_PUBKEY|BADSIG|EXPSIG|EXPKEYSIG|KEYEXPIRED|is not signed|not available: NODATA)[^\n]*")
_PATIENCE_SECONDS = 900
_UNFINISHED = "/var/lib/dpkg/updates"


@dataclasses.dataclass(frozen=True)
class InstallPackage(InPlace):
    """One package with its dependencies. `version` is a pattern as apt-get takes it (`1.34.*`), or empty.

    `commands` are programs that serve as well: where the host has them all, nothing is installed. `exclude` are
    patterns of paths that dpkg leaves out.
    """

    kind: ClassVar[str] = "package"
    name: str
    version: str = ""
    commands: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return f"package:{self.name}"

    def describe(self) -> str:
        return f"install package {self.name}" + (f" {self.version}" if self.version else "")

    def satisfied(self, facts: Facts) -> str:
        have = facts.packages.get(self.name)
        if have and _matches(self.version, have):
            return f"package {self.name} {have} is installed"
        if not have and self.commands and set(self.commands) <= facts.commands:
            return f"{', '.join(self.commands)} is there without the package"
        return ""

    def capture(self, host: Host, vault: Vault) -> Record:
        return {"packages": vault.put(json.dumps(debian.installed(host, every=True), sort_keys=True).encode())}

    def apply(self, host: Host, vault: Vault, before: Record) -> Record:
        wanted = self.name + (f"={self.version}" if self.version else "")
        host.wait_out(_UNIT)
        _finish(host)
        if not _candidate(host, self.name, self.version):
            update(host)
        install(host, wanted, *(f"Dpkg::Options::=--path-exclude={path}" for path in self.exclude))
        had = json.loads(vault.get(before["packages"]))
        # What others add from now on is told apart from what we added.
        return {"added": sorted(set(debian.installed(host, every=True)) - set(had))}

    def verify(self, host: Host) -> None:
        have = debian.installed(host).get(self.name, "")
        if not _matches(self.version, have) or not have:
            raise PermanentError(
                f"package {self.name} is not installed as wanted",
                found=have or "not installed",
                where="dpkg-query -W " + self.name,
                remedy=f"see why: apt-get install {self.name}",
            )

    def undo(self, host: Host, vault: Vault, before: Record, after: Record) -> list[str]:
        host.wait_out(_UNIT)
        _finish(host)
        there = debian.installed(host, every=True)
        # A run that was cut off could not say what it added: then it is all that came since our look before it.
        added = after["added"] if "added" in after else set(there) - set(json.loads(vault.get(before["packages"])))
        free, kept = _removable(host, sorted(set(added) & set(there)))
        if free:
            # One that was only half unpacked can't be had again without the network; it goes as it is.
            force = ("-o", "Dpkg::Options::=--force-remove-reinstreq")
            _apt(host, "apt-get", "purge", "--yes", *_OPTIONS, *force, *free)
        return [f"package {name} stays: {why} need it" for name, why in kept.items()]


def _finish(host: Host) -> None:
    """Takes up a run of dpkg that a power cut ended: until then apt refuses to work, and does not see all of it."""
    if not any(name.isdigit() for name in host.names(_UNFINISHED)):
        return
    log.get().info("finishing a run of dpkg that was interrupted")
    try:
        _apt(host, "dpkg", "--configure", "-a")
    except CommandError as error:
        # A package that can't be configured yet is for apt to deal with.
        log.get().warning(error.what, found=error.found)


def update(host: Host, *options: str) -> None:
    """apt-get update, patient with mirrors and locks. Raises PermanentError on a bad signature."""
    _apt(host, "apt-get", "update", "-o", "Acquire::Retries=3", "-o", "APT::Update::Error-Mode=any", *options)


def install(host: Host, wanted: str, *options: str) -> None:
    """apt-get install, patient; a package list that has aged is updated once."""
    extra = [word for option in options for word in ("-o", option)]
    argv = [
        "apt-get",
        "install",
        "--yes",
        "--no-remove",
        "-o",
        "Acquire::Retries=3",
        *_OPTIONS,
        *extra,
        wanted,
    ]
    try:
        _apt(host, *argv, patient=False)
    except TemporaryError:
        update(host)
        _apt(host, *argv)


def _apt(host: Host, *argv: str, patient: bool = True) -> Result:
    """Runs apt or dpkg in a host unit; retries what passes by itself, up to 15 minutes."""
    stop = tenacity.stop_after_delay(_PATIENCE_SECONDS) if patient else tenacity.stop_after_attempt(1)
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(TemporaryError),
        wait=tenacity.wait_exponential(min=2, max=30),
        stop=stop,
        before_sleep=_say_why,
        reraise=True,
    )
    return retrying(_attempt, host, *argv)


def _attempt(host: Host, *argv: str) -> Result:
    host.wait_out(_UNIT)
    result = host.survives(_UNIT, *argv, timeout=1800, environment=_QUIET)
    said = result.out + result.err
    bad = _UNSIGNED.search(said)
    if result.code == 0 and not (bad and argv[1:2] == ("update",)):
        return result
    error = CommandError(list(argv), result.code, said, " ".join(argv))
    if bad and argv[1:2] == ("update",):
        raise PermanentError(
            "a package repository's signature can't be verified",
            found=bad.group(0),
            where=" ".join(argv),
            remedy="see that the repository's key and its fingerprint setting belong together",
        ) from error
    if _PASSING.search(said):
        raise TemporaryError(
            f"{argv[0]} can't go on for now",
            where=error.where,
            found=error.found,
            remedy="wait for the other package manager, or see whether the mirror answers",
        ) from error
    raise error


def _say_why(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    found = str(getattr(error, "found", error)).splitlines()[-1:]
    log.get().warning("trying again: " + "".join(found), attempt=state.attempt_number)


def _candidate(host: Host, name: str, version: str) -> bool:
    """Whether apt's lists hold the package in that version."""
    return any(_matches(version, each) for each in debian.offered(host, name))


def _removable(host: Host, ours: list[str]) -> tuple[list[str], dict[str, str]]:
    """Those of our packages that can go without taking somebody's along, and for the others who needs them."""
    free, kept = list(ours), dict[str, str]()
    extra = _would_remove(host, free) - set(ours)
    if extra:
        for name in ours:
            needs = sorted(_would_remove(host, [name]) - set(ours))
            if needs:
                free.remove(name)
                kept[name] = ", ".join(needs)
    return free, kept


def _would_remove(host: Host, names: list[str]) -> set[str]:
    if not names:
        return set()
    said = host.run("apt-get", "--simulate", "purge", *names, timeout=120).out
    return {m.group(1) for m in re.finditer(r"^(?:Purg|Remv) (\S+)", said, re.MULTILINE)}


def _matches(pattern: str, version: str) -> bool:
    return not pattern or bool(re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), version))
