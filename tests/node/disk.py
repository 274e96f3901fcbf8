"""A node's disk: an overlay over shared read-only layers, and two folders of the real file system.

It is mounted in the node's own mount namespace only: when the node's processes are gone, so are the mounts.
"""

import os
import shlex
import shutil
from pathlib import Path

# an overlay can't carry another overlay's upper directory, so the runtimes' stores are not on it
STORES = {"containerd": "/var/lib/containerd", "containers": "/var/lib/containers"}


class Disk:
    def __init__(self, folder: Path, layers: list[Path]) -> None:
        """`layers` are the read-only trees below it, topmost first."""
        self.folder = folder
        self.layers = layers
        self.upper = folder / "upper"
        self.root = folder / "root"

    def create(self, containerd: Path | None) -> None:
        """An unwritten disk; containerd's store starts as a copy of that folder."""
        for name in ("upper", "work", "root", *STORES):
            if name == "containerd" and containerd:
                shutil.copytree(containerd, self.folder / name, symlinks=True)
            else:
                (self.folder / name).mkdir(mode=0o755, parents=True)
        self.upper.chmod(0o755)

    def mount_script(self) -> str:
        """Shell commands that mount it at `root`, to be run in a mount namespace of the node's own."""
        lower = ":".join(str(layer) for layer in self.layers)
        options = f"lowerdir={lower},upperdir={self.upper},workdir={self.folder / 'work'}"
        lines = [shlex.join(["mount", "-t", "overlay", "node", "-o", options, str(self.root)])]
        for name, place in STORES.items():
            lines.append(shlex.join(["mount", "--bind", str(self.folder / name), f"{self.root}{place}"]))
        return "\n".join(lines)

    def put(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file while the node is off."""
        file = self.upper / path.lstrip("/")
        self._make_folder(file.parent)
        file.unlink(missing_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def link(self, path: str, target: str) -> None:
        """Make a symbolic link while the node is off."""
        file = self.upper / path.lstrip("/")
        self._make_folder(file.parent)
        file.unlink(missing_ok=True)
        file.symlink_to(target)

    def _make_folder(self, folder: Path) -> None:
        """A folder in the upper layer hides the mode and owner of the one below: it must have the same."""
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        folder.mkdir(mode=0o755)
        for layer in self.layers:
            below = layer / folder.relative_to(self.upper)
            if below.is_dir():
                shutil.copystat(below, folder)
                status = below.stat()
                os.chown(folder, status.st_uid, status.st_gid)
                return

    def remove(self) -> None:
        mounted = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {self.folder}/" in line]
        if mounted:
            raise RuntimeError(f"still mounted below {self.folder}: {mounted[0]}")
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.exists():
            # something was written while we removed: once more, and this time say what is in the way
            shutil.rmtree(self.folder)
