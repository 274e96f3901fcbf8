"""What a node installs from in tests: a signed repository with CRI-O, and the Sysbox stand-in, on the node itself."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests import components
from tests.components import cache
from tests.node.node import Node
from tests.standins.crio import build_crio
from tests.standins.repo import Repository
from tests.standins.sysbox import build_sysbox

_HERE = Path(__file__).parent / "standins"
ON_NODE = "/srv/supply"


@dataclass(frozen=True)
class Supply:
    """A folder with the repository and the package; `settings` point an install at its copy on a node."""

    folder: Path
    fingerprint: str
    sha256: str

    def give(self, node: Node) -> dict[str, str]:
        """Lays it on the node; returns the settings that an install from it needs."""
        node.run("mkdir", "-p", ON_NODE)
        for file in sorted(self.folder.rglob("*")):
            if file.is_file() and file.name != "supply.json":
                node.put(file, f"{ON_NODE}/{file.relative_to(self.folder)}", 0o644)
        return self.settings

    @property
    def settings(self) -> dict[str, str]:
        """The settings, as environment variables."""
        return {
            "SYSBOX_DEPLOY_CRIO_REPOSITORY": f"file:{ON_NODE}/repository",
            "SYSBOX_DEPLOY_CRIO_KEY_FINGERPRINT": self.fingerprint,
            "SYSBOX_DEPLOY_SYSBOX_PACKAGE": f"file:{ON_NODE}/sysbox-ce.deb",
            "SYSBOX_DEPLOY_SYSBOX_SHA256": self.sha256,
        }


def prepare(minor: str = components.MINOR) -> Supply:
    """Builds it once into the cache."""
    crio, pinns = components.path("crio", minor), components.path("pinns", minor)
    recipe = cache.digest([p for p in _HERE.rglob("*") if p.is_file()], str(crio), minor)
    folder = cache.root() / "supply" / f"{minor}-{recipe}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with cache.locked(folder.parent / ".lock"):
        if not (folder / "supply.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _build(folder, crio, pinns, f"{components.version('crio', minor).removeprefix('v')}-1.1")
    said = json.loads((folder / "supply.json").read_text())
    return Supply(folder, said["fingerprint"], said["sha256"])


def _build(folder: Path, crio: Path, pinns: Path, version: str) -> None:
    folder.mkdir(parents=True)
    repository = Repository(folder / "repository")
    repository.add(build_crio(folder.parent, crio, pinns, version))
    repository.publish()
    package = build_sysbox(folder.parent)
    package.rename(folder / "sysbox-ce.deb")
    digest = hashlib.sha256((folder / "sysbox-ce.deb").read_bytes()).hexdigest()
    said = {"fingerprint": repository.fingerprint, "sha256": digest}
    (folder / "supply.json").write_text(json.dumps(said))
