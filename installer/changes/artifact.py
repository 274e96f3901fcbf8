"""Files that a verified archive brings: laid out one by one, each taken back exactly."""

import dataclasses
from pathlib import PurePosixPath
from typing import ClassVar

from installer.changes.base import InPlace, Record, Vault
from installer.changes.files import capture_file, reload_units
from installer.errors import PermanentError
from installer.facts import debian
from installer.facts.model import Facts
from installer.host import FileState, Host

STAGED = "/var/lib/sysbox-deploy/artifacts"
"""Where verified archives wait on the host, each named by its SHA-256."""


@dataclasses.dataclass(frozen=True)
class InstallFiles(InPlace):
    """The files of a Debian archive, without its maintainer scripts.

    `files` are (path, mode, sha256, link target) each; `texts` the content of its small text files by path,
    which later steps need.
    """

    kind: ClassVar[str] = "artifact"
    name: str
    version: str
    sha256: str
    files: tuple[tuple[str, int, str, str], ...]
    texts: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        return f"artifact:{self.name}"

    def describe(self) -> str:
        return f"install {len(self.files)} files of {self.name} {self.version} (sha256 {self.sha256[:12]}…)"

    def diff(self, facts: Facts) -> str:
        return "".join(f"+ {path}" + (f" -> {target}\n" if target else "\n") for path, _, _, target in self.files)

    def satisfied(self, facts: Facts) -> str:
        wrong = [
            path for path, mode, digest, target in self.files if not _holds(facts.links.get(path), mode, digest, target)
        ]
        return "" if wrong else f"its {len(self.files)} files are in place"

    def capture(self, host: Host, vault: Vault) -> Record:
        return {"files": [_capture(host, vault, path) for path, *_ in self.files]}

    def apply(self, host: Host, vault: Vault, before: Record) -> Record:
        archive = host.real(f"{STAGED}/{self.sha256}")
        debian.verify(archive, self.sha256)
        missing = {f[0]: f for f in self.files if not _holds(host.state(f[0]), *f[1:])}
        for path in missing:
            host.make_directory(str(PurePosixPath(path).parent))
        for path, _, _, target in missing.values():
            if target:
                host.link(path, target)
        # One pass: the archive unpacks from its start each time.
        for path, chunks in debian.contents(archive):
            if path in missing:
                _make_way(host, path)
                host.replace(path, chunks, FileState("file", missing[path][1], 0, 0))
        reload_units(host, "/systemd/system/")
        # Cleanup knows the files of every version that was here by this.
        return {"wrote": sorted(self._marks())}

    def verify(self, host: Host) -> None:
        for path, mode, digest, target in self.files:
            if not _holds(host.state(path), mode, digest, target):
                raise PermanentError(
                    f"a file of {self.name} is not as its archive has it",
                    where=path,
                    found=str(host.state(path)),
                    remedy="see whether the disk is full, then run install again",
                )

    def undo(self, host: Host, vault: Vault, before: Record, after: Record) -> list[str]:
        kept: list[str] = []
        ours = self._marks() | set(after.get("wrote", ()))
        for record in reversed(before["files"]):
            kept += _undo_one(host, vault, record, ours)
        reload_units(host, "/systemd/system/")
        return kept

    def _marks(self) -> set[str]:
        return {_mark(path, digest, target) for path, _, digest, target in self.files}


def _mark(path: str, digest: str, target: str) -> str:
    return f"{path} {digest or '-> ' + target}"


def _holds(now: FileState | None, mode: int, digest: str, target: str) -> bool:
    if now is None:
        return False
    if target:
        return now.kind == "link" and now.target == target
    return now.kind == "file" and (now.sha256, now.mode, now.uid, now.gid) == (digest, mode, 0, 0)


def _capture(host: Host, vault: Vault, path: str) -> Record:
    now = host.state(path)
    if now and now.kind == "link":
        return {"at": path, "path": path, "link": now.target, "made": []}
    return {"at": path, **capture_file(host, vault, path)}


def _undo_one(host: Host, vault: Vault, record: Record, ours: set[str]) -> list[str]:
    path = record["path"]
    now = host.state(path)
    if now is not None and _mark(record["at"], now.sha256, now.target) not in ours:
        was = record.get("state")
        same = (was and was["sha256"] == now.sha256) or record.get("link", "-") == now.target
        return [] if same else [f"{path} was changed by somebody since; left as it is"]
    if "link" in record:
        host.link(path, record["link"])
    elif record["state"]:
        state = record["state"]
        xattrs = tuple((n, v) for n, v in state["xattrs"])
        _make_way(host, path)
        host.replace(
            path,
            vault.get(state["sha256"]),
            FileState("file", state["mode"], state["uid"], state["gid"], xattrs=xattrs),
        )
    else:
        host.remove(path)
        for made in reversed(record["made"]):
            host.remove_directory(made)
    return []


def _make_way(host: Host, path: str) -> None:
    """Takes a link away, which a file would be written through. Until the file stands, the journal has the link."""
    now = host.state(path)
    if now and now.kind == "link":
        host.remove(path)
