"""A kernel module that DKMS builds on the host, from sources that we bring."""

import dataclasses
import shlex
from typing import ClassVar

from installer import log
from installer.changes.base import InPlace, Record, Vault
from installer.changes.files import capture_file, restore
from installer.errors import PermanentError
from installer.facts.model import Facts
from installer.host import FileState, Host, decode, encode, sha256
from installer.settings import variable

TREE = "/var/lib/dkms"
_UNIT = "sysbox-deploy-dkms.service"
_SECONDS = 1800
SUFFIXES = ("", ".gz", ".xz", ".zst")  # as the kernel's own modules are
# Where DKMS makes a key to sign with if there is none: its own place, and Ubuntu's.
_KEYS = (TREE, "/var/lib/shim-signed/mok")


@dataclasses.dataclass(frozen=True)
class BuildModule(InPlace):
    """A module for one kernel (`release`, as uname -r) from one set of sources (`files`: name and text of each).

    Another kernel, or other sources, is another change: what was built before is taken back first. The step sees to it
    that DKMS knows no module of that name but ours.
    """

    kind: ClassVar[str] = "dkms"
    name: str
    version: str
    release: str
    files: tuple[tuple[str, str], ...]

    @property
    def key(self) -> str:
        digest = sha256(encode("".join(f"{name}\0{text}\0" for name, text in self.files)))
        return f"dkms:{self.name}-{self.version}:{self.release}:{digest[:12]}"

    def describe(self) -> str:
        return f"build kernel module {self.name} {self.version} for {self.release} by DKMS"

    def diff(self, facts: Facts) -> str:
        return "".join(f"+ {path}\n" for path in (*self._sources(), module_path(self.release, self.name)))

    def satisfied(self, facts: Facts) -> str:
        laid = all(
            (now := facts.links.get(path)) and now.kind == "file" and now.sha256 == sha256(encode(text))
            for path, text in self._sources().items()
        )
        known = f"{self._tree()}/{self.version}/{self.release}" in facts.files
        built = any(module_path(self.release, self.name) + suffix in facts.files for suffix in SUFFIXES)
        return f"{self.name} {self.version} is built for {self.release}" if laid and known and built else ""

    def capture(self, host: Host, vault: Vault) -> Record:
        folders = {path: state.mode for path in self._folders() if (state := host.state(path))}
        return {
            "sources": [capture_file(host, vault, path) for path in self._sources()],
            "folders": folders,
            "indexed": host.exists(f"{self._home()}/modules.dep"),
            "keys": {folder: host.names(folder) for folder in _KEYS},
        }

    def apply(self, host: Host, vault: Vault, before: Record) -> Record:
        host.wait_out(_UNIT)
        self._forget(host)
        for record, (path, text) in zip(before["sources"], self._sources().items(), strict=True):
            host.make_directory(path.rpartition("/")[0])
            host.replace(record["path"], encode(text), FileState("file", 0o644, 0, 0))
        self._dkms(host, "add")
        self._dkms(host, "build", "-k", self.release)
        self._dkms(host, "install", "-k", self.release)
        return {}

    def verify(self, host: Host) -> None:
        magic = host.run("modinfo", "-k", self.release, "-F", "vermagic", self.name, check=False).out.split()
        if not self._installed(host, self.release) or magic[:1] != [self.release]:
            raise PermanentError(
                f"module {self.name} is not there for this kernel though DKMS says that it is",
                where=module_path(self.release, self.name),
                found=" ".join(magic) or "nothing that modinfo knows",
                remedy=f"see what is in the way: dkms status; modinfo -k {self.release} {self.name}",
            )

    def undo(self, host: Host, vault: Vault, before: Record, after: Record) -> list[str]:
        host.wait_out(_UNIT)
        self._forget(host)
        self._restore_folders(host, before["folders"])
        if not before["indexed"]:
            self._drop_index(host)
        kept = _drop_keys(host, before["keys"])
        for record, text in reversed(list(zip(before["sources"], self._sources().values(), strict=True))):
            kept += restore(host, vault, record, encode(text))
            for made in reversed(record["made"]):
                host.remove_directory(made)
        return kept

    def _home(self) -> str:
        return f"/lib/modules/{self.release}"

    def _folders(self) -> tuple[str, str]:
        return f"{self._home()}/updates", f"{self._home()}/updates/dkms"

    def _tree(self) -> str:
        return f"{TREE}/{self.name}"

    def _sources(self) -> dict[str, str]:
        """Path on the host, and text."""
        return {f"/usr/src/{self.name}-{self.version}/{name}": text for name, text in self.files}

    def _installed(self, host: Host, release: str) -> list[str]:
        paths = [module_path(release, self.name) + suffix for suffix in SUFFIXES]
        return [path for path in paths if host.state(path)]

    def _dkms(self, host: Host, verb: str, *options: str) -> None:
        argv = ["dkms", verb, "-m", self.name, "-v", self.version, *options]
        result = host.survives(_UNIT, *argv, timeout=_SECONDS)
        if result.code == 0:
            return
        made = decode(host.read(f"{self._tree()}/{self.version}/build/make.log") or b"")
        raise PermanentError(
            f"DKMS can't {verb} module {self.name} {self.version} for kernel {self.release}",
            where=shlex.join(argv),
            found="\n".join((result.out + result.err + made).strip().splitlines()[-30:]) or f"status {result.code}",
            remedy=f"see that the kernel's headers are whole; or go without: {variable('shiftfs')}=off",
        )

    def _forget(self, host: Host) -> None:
        """Takes all that DKMS has of it off the host, however far DKMS had come, and even if it is gone itself."""
        tree = self._tree()
        releases = {self.release, *host.names(f"{tree}/{self.version}")} & set(host.names("/lib/modules"))
        if host.state(f"{tree}/{self.version}/source"):
            try:
                self._dkms(host, "remove", "--all")
            except PermanentError as error:
                log.get().warning(f"{error.what}; doing without it", found=error.found)
        for release in sorted(releases):
            if left := self._installed(host, release):
                for path in left:
                    host.remove(path)
                host.run("depmod", release, timeout=300)
        if host.state(tree):
            host.run("rm", "-r", "--one-file-system", "--", tree)

    def _restore_folders(self, host: Host, folders: dict[str, int]) -> None:
        """DKMS removes them once they are empty, whoever made them."""
        for path in reversed(self._folders()):
            if path not in folders:
                host.remove_directory(path)
        for path, mode in folders.items():
            host.make_directory(path, mode)

    def _drop_index(self, host: Host) -> None:
        """Where there was no index of modules, and there are no modules, depmod's files are of no use to anybody."""
        if host.read(f"{self._home()}/modules.dep") == b"":
            for name in host.names(self._home()):
                if name.startswith("modules."):
                    host.remove(f"{self._home()}/{name}")


def module_path(release: str, name: str) -> str:
    """Where Debian's and Ubuntu's DKMS puts a module, whatever dkms.conf says; a suffix tells how it is packed."""
    return f"/lib/modules/{release}/updates/dkms/{name}.ko"


def _drop_keys(host: Host, before: dict[str, list[str]]) -> list[str]:
    """A key that DKMS made to sign our module goes, unless it may have signed others by now."""
    new = [f"{folder}/{name}" for folder, had in before.items() for name in host.names(folder) if name not in had]
    files = [path for path in new if (state := host.state(path)) and state.kind == "file"]
    others = [name for name in host.names(TREE) if (state := host.state(f"{TREE}/{name}")) and state.kind == "dir"]
    if files and others:
        return [f"DKMS's key stays ({', '.join(files)}): it may have signed {', '.join(others)}"]
    for path in files:
        host.remove(path)
    return []
