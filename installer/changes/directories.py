"""Directories in which a service that we bring keeps its data; they go with it."""

import dataclasses
from typing import ClassVar

from installer.changes.base import InPlace, Record, Vault
from installer.errors import PermanentError
from installer.facts.model import Facts
from installer.host import Host


@dataclasses.dataclass(frozen=True)
class DataDirectory(InPlace):
    """A directory that was absent or empty, filled by a service of ours from now on; emptied again at undo."""

    kind: ClassVar[str] = "data"
    path: str

    @property
    def key(self) -> str:
        return f"data:{self.path}"

    def describe(self) -> str:
        return f"keep data in {self.path} (absent or empty before; goes at cleanup)"

    def satisfied(self, facts: Facts) -> str:
        if self.path not in facts.files:
            return ""
        if self.key in facts.ours:
            return f"{self.path} is ours"
        return "" if facts.files[self.path].size == 0 else f"{self.path} was there before us; it stays"

    def capture(self, host: Host, vault: Vault) -> Record:
        made: list[str] = []
        at = self.path
        while not host.exists(at):
            made.insert(0, at)
            at = at.rsplit("/", 1)[0] or "/"
        return {"made": made}

    def apply(self, host: Host, vault: Vault, before: Record) -> Record:
        host.make_directory(self.path)
        return {}

    def verify(self, host: Host) -> None:
        if not host.exists(self.path):
            raise PermanentError("the directory is not there", where=self.path)

    def undo(self, host: Host, vault: Vault, before: Record, after: Record) -> list[str]:
        if host.exists(self.path):
            self._unmount(host)
            # --one-file-system: whatever is still mounted below is not ours to empty.
            host.run(*["find", self.path, "-xdev", "-mindepth", "1", "-depth", "-delete"], timeout=600)
        return [f"{made} is not empty; it stays" for made in reversed(before["made"]) if not _gone(host, made)]

    def _unmount(self, host: Host) -> None:
        mounts = [line.split(" ")[4] for line in host.run("cat", "/proc/self/mountinfo").out.splitlines()]
        for mount in sorted((m for m in mounts if m.startswith(self.path + "/")), reverse=True):
            host.run("umount", mount)


def _gone(host: Host, path: str) -> bool:
    return not host.exists(path) or host.remove_directory(path)
