"""CRI-O from a signed apt repository, pinned to the kubelet's minor; or the one that is there, adopted."""

from debian.deb822 import Deb822

from installer import support
from installer.changes import DataDirectory, InstallPackage, WriteFile
from installer.facts.model import Facts
from installer.settings import Settings
from installer.steps.base import Nothing, Wanted
from installer.support import Repository

_DATA = ("/etc/crio", "/etc/containers", "/usr/share/containers", "/var/lib/containers", "/var/lib/crio")
PACKAGE = "cri-o"
_PREFERENCES = "/etc/apt/preferences.d/sysbox-deploy-crio"
# The package's own networks would hand pods addresses that the cluster does not know.
_NO_NETWORKS = ("/etc/cni/net.d/*",)


def is_adopted(facts: Facts) -> bool:
    """Whether CRI-O was on the host before us: it is configured, and stays at cleanup."""
    return bool(facts.crio.version) and not any(key.startswith("package:cri-o") for key in facts.ours)


def wanted(facts: Facts, settings: Settings) -> Wanted:
    """Where CRI-O keeps its data, where apt finds it, and the package itself."""
    if is_adopted(facts):
        yield Nothing(f"CRI-O {facts.crio.version} is there already; adopted, and kept at cleanup")
        return
    for path in _DATA:
        yield DataDirectory(path)
    repositories = repositories_of(facts, settings)
    for repository in repositories:
        key = facts.keys[repository.key_uri]
        # A binary key starts with a byte beyond ASCII; an armored one may have a comment or an empty line first.
        keyring = f"/etc/apt/keyrings/{file_name(repository)}.{'asc' if key[:1].isascii() else 'gpg'}"
        yield WriteFile(keyring, key)
        yield WriteFile(
            f"/etc/apt/sources.list.d/{file_name(repository)}.sources", _source(repository, settings, keyring)
        )
    packages = [package for repository in repositories for package in repository.packages]
    minor = _minor(facts)
    pins = [{"Package": p, "Pin": f"version {minor}.*", "Pin-Priority": "1001"} for p in packages if p == PACKAGE]
    yield WriteFile(_PREFERENCES, "\n".join(Deb822(pin).dump() or "" for pin in pins))
    for package in packages:
        yield InstallPackage(package, f"{minor}.*" if package == PACKAGE else "", exclude=_NO_NETWORKS)


def repositories_of(facts: Facts, settings: Settings) -> tuple[Repository, ...]:
    """The operator's repository, or the default ones of that minor. Raises RefusedError where there is none."""
    if not settings.crio_repository:
        return support.crio_repositories(_minor(facts), facts.os)
    uri = settings.crio_repository.replace("{minor}", _minor(facts))
    uri = f"file:{uri}" if uri.startswith("/") else uri
    key = settings.crio_repository_key or f"{uri.rstrip('/')}/Release.key"
    return (Repository(PACKAGE, uri, key, tuple(sorted(settings.fingerprints)), (PACKAGE,)),)


def file_name(repository: Repository) -> str:
    """The name of our files for a repository: apt ignores sources whose names have colons."""
    return "sysbox-deploy-" + repository.name.replace(":", "-")


def _source(repository: Repository, settings: Settings, keyring: str) -> str:
    suite, *components = settings.crio_repository_suite.split() if settings.crio_repository else ["/"]
    fields = {"Types": "deb", "URIs": repository.uri, "Suites": suite}
    if components:
        fields["Components"] = " ".join(components)
    return Deb822({**fields, "Signed-By": keyring}).dump() or ""


def _minor(facts: Facts) -> str:
    return facts.kubelet.minor if facts.kubelet else ""
