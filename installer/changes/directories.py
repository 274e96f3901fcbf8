"""Directories in which a service that we bring keeps its data; they go with it."""

import dataclasses
from typing import ClassVar

from installer.changes.base import InPlace, Record, Vault
from installer.changes.files import missing_parents
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
        path = host.followed(self.path)  # it may be a link to another disk
        now = host.state(path)
        if now and now.kind != "dir":
            raise PermanentError(
                "a directory is expected here", where=self.path, found=f"a {now.kind}", remedy="move it away"
            )
        made = [] if now else [*missing_parents(host, path), path]
        return {"path": path, "made": made, "filled": bool(now and now.size)}

    def apply(self, host: Host, vault: Vault, before: Record) -> Record:
        host.make_directory(before["path"])
        return {}

    def verify(self, host: Host) -> None:
        if not host.exists(self.path):
            raise PermanentError("the directory is not there", where=self.path)

    def undo(self, host: Host, vault: Vault, before: Record, after: Record) -> list[str]:
        path = before["path"]
        if before["filled"]:  # by somebody, after the plan was made
            return []
        if host.exists(path):
            _unmount(host, path)
            # -xdev: whatever is still mounted below is not ours to empty.
            host.run(*["find", path, "-xdev", "-mindepth", "1", "-depth", "-delete"], timeout=600)
        return [f"{made} is not empty; it stays" for made in reversed(before["made"]) if not _gone(host, made)]


def _unmount(host: Host, path: str) -> None:
    mounts = [line.split(" ")[4] for line in host.run("cat", "/proc/self/mountinfo").out.splitlines()]
    for mount in sorted((m for m in mounts if m.startswith(f"{path}/")), reverse=True):
        host.run("umount", mount)


def _gone(host: Host, path: str) -> bool:
    return not host.exists(path) or host.remove_directory(path)
