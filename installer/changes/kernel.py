"""The running kernel: a setting's value, a loaded module. What makes them last a boot is a file of its own."""

import dataclasses
from typing import ClassVar

from installer.changes.base import InPlace, Record, Vault
from installer.errors import PermanentError
from installer.facts.model import Facts
from installer.host import Host, decode


@dataclasses.dataclass(frozen=True)
class SetSysctl(InPlace):
    """A kernel setting, now. `at_least`: a higher number that stands already is left alone."""

    kind: ClassVar[str] = "sysctl"
    name: str
    value: str
    at_least: bool = False

    @property
    def key(self) -> str:
        return f"sysctl:{self.name}"

    def describe(self) -> str:
        return f"set {self.name} = {self.value}"

    def diff(self, facts: Facts) -> str:
        now = facts.sysctls.get(self.name)
        return f"- {self.name} = {now.value if now else ''}\n+ {self.name} = {self.value}\n"

    def satisfied(self, facts: Facts) -> str:
        now = facts.sysctls.get(self.name)
        return f"{self.name} is {now.value}" if now and self._enough(now.value) else ""

    def capture(self, host: Host, vault: Vault) -> Record:
        return {"value": _read(host, self.name)}

    def apply(self, host: Host, vault: Vault, before: Record) -> Record:
        _write(host, self.name, self.value)
        return {}

    def verify(self, host: Host) -> None:
        now = _read(host, self.name)
        if now is None or not self._enough(now):
            raise PermanentError("a kernel setting did not take", where=f"sysctl {self.name}", found=str(now))

    def undo(self, host: Host, vault: Vault, before: Record, after: Record) -> list[str]:
        now = _read(host, self.name)
        if now is None or before["value"] is None or now == before["value"]:
            return []
        if now != self.value:
            return [f"{self.name} is {now}, set by somebody since; it stays"]
        _write(host, self.name, before["value"])
        return []

    def _enough(self, now: str) -> bool:
        if self.at_least and now.isdigit() and self.value.isdigit():
            return int(now) >= int(self.value)
        return now.split() == self.value.split()


@dataclasses.dataclass(frozen=True)
class LoadModule(InPlace):
    """A kernel module, now."""

    kind: ClassVar[str] = "module"
    name: str

    @property
    def key(self) -> str:
        return f"module:{self.name}"

    def describe(self) -> str:
        return f"load kernel module {self.name}"

    def satisfied(self, facts: Facts) -> str:
        module = facts.modules.get(self.name)
        return f"{self.name} is loaded" if module and module.loaded else ""

    def capture(self, host: Host, vault: Vault) -> Record:
        return {"loaded": is_loaded(host, self.name)}

    def apply(self, host: Host, vault: Vault, before: Record) -> Record:
        host.run("modprobe", self.name)
        return {}

    def verify(self, host: Host) -> None:
        if not is_loaded(host, self.name):
            raise PermanentError(
                f"kernel module {self.name} is not loaded",
                where="/proc/modules",
                remedy=f"modprobe -v {self.name}",
            )

    def undo(self, host: Host, vault: Vault, before: Record, after: Record) -> list[str]:
        if before["loaded"] or not is_loaded(host, self.name):
            return []
        # Not by modprobe, which takes what the module rests on along: with `bridge`, every bridge that pods are on.
        if host.run("rmmod", self.name, check=False).code != 0:
            return [f"kernel module {self.name} is in use; it stays loaded until the next boot"]
        return []


def is_loaded(host: Host, name: str) -> bool:
    """Whether the module is loaded or built in. One that is built in may have no folder in /sys/module."""
    file = name.replace("-", "_")
    if host.exists(f"/sys/module/{file}") or f"\t{name}\n" in decode(host.read("/proc/filesystems") or b""):
        return True
    release = decode(host.read("/proc/sys/kernel/osrelease") or b"").strip()
    built_in = decode(host.read(f"/lib/modules/{release}/modules.builtin") or b"").replace("-", "_")
    return f"/{file}.ko" in built_in


def _path(name: str) -> str:
    return "/proc/sys/" + name.replace(".", "/")


def _read(host: Host, name: str) -> str | None:
    data = host.read(_path(name))
    return None if data is None else decode(data).strip()


def _write(host: Host, name: str, value: str) -> None:
    host.run("sysctl", "--write", f"{name}={value}")
