"""What is supported, and what differs between what is: support.toml, asked by name."""

import dataclasses
import functools
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from installer.errors import RefusedError
from installer.facts.model import Os
from installer.settings import variable

Version = tuple[int, int]
"""Major and minor."""


@dataclasses.dataclass(frozen=True)
class Shiftfs:
    """Whether a kernel wants shiftfs, and the branch of shiftfs-dkms that builds for it, if one does."""

    need: Literal["needed", "recommended", "none"]
    branch: str = ""
    repository: str = ""
    commit: str = ""


@dataclasses.dataclass(frozen=True)
class Repository:
    """A flat apt repository (suite `/`), where its key is, and the fingerprints that a key there may have."""

    name: str
    uri: str
    key_uri: str
    fingerprints: tuple[str, ...]
    packages: tuple[str, ...]


@functools.cache
def data() -> dict[str, Any]:
    """support.toml."""
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text())


def version_of(text: str) -> Version | None:
    """Major and minor of a version as 1.34, v1.28.5-gke.1200 or 1.6.20~ds1; None for anything else."""
    found = re.fullmatch(r"v?(0|[1-9][0-9]{0,4})\.(0|[1-9][0-9]{0,4})([-.~+].*)?", text)
    return (int(found[1]), int(found[2])) if found else None


def known(text: str) -> Version:
    """Major and minor of a version in support.toml."""
    major, minor = text.split(".")
    return int(major), int(minor)


def distro(os: Os) -> dict[str, Any] | None:
    """support.toml's entry for that release of a distribution; None where it is not supported."""
    return next((d for d in data()["distro"] if (d["id"], d["version"]) == (os.id, os.version)), None)


def for_kernel(version: Version) -> Shiftfs:
    """What a kernel of that major and minor wants of shiftfs."""
    table = data()["shiftfs"]
    need: Literal["needed", "recommended", "none"] = "none"
    if version < known(table["recommended_below"]):
        need = "needed" if version < known(table["needed_below"]) else "recommended"
    for source in table["source"]:
        if "{}.{}".format(*version) in source["kernels"]:
            return Shiftfs(need, source["branch"], source["repository"], source["commit"])
    return Shiftfs(need)


def breaks_shiftfs(release: str) -> bool:
    """Whether shiftfs is known not to work on that very kernel (release as uname -r)."""
    return any(re.match(re.escape(broken) + r"(\D|$)", release) for broken in data()["shiftfs"]["broken_releases"])


def crio_repositories(minor: str, os: Os) -> tuple[Repository, ...]:
    """Where CRI-O of that minor (as 1.34) comes from by default, all of them needed. Raises RefusedError."""
    wanted = [entry for entry in data()["crio"]["repository"] if minor in entry["minors"]]
    kubic = (distro(os) or {}).get("kubic", "")
    if not wanted or (not kubic and any("{os}" in entry["uri"] for entry in wanted)):
        raise RefusedError(
            f"no default package repository has CRI-O {minor} for {os.id} {os.version}",
            where="support.toml",
            found=f"CRI-O {minor}, {os.id} {os.version}",
            remedy=f"name one that has it: {variable('crio_repository')}, {variable('crio_key_fingerprint')}",
        )
    return tuple(_repository(entry, minor, kubic) for entry in wanted)


def fuse_package(os: Os, sysbox_version: str = "") -> str:
    """The package with the FUSE helpers that this Sysbox starts (any Sysbox where none is named)."""
    if "fusermount3" in fuse_commands(sysbox_version):
        return "fuse3"
    return str((distro(os) or {}).get("fuse", "fuse3"))


def fuse_commands(sysbox_version: str = "") -> tuple[str, ...]:
    """The FUSE helpers that this Sysbox starts."""
    since = known(data()["fuse"]["fuse3_only_since_sysbox"])
    version = version_of(sysbox_version)
    return ("fusermount3",) if version is not None and version >= since else ("fusermount",)


def _repository(entry: dict[str, Any], minor: str, kubic: str) -> Repository:
    uri = entry["uri"].format(minor=minor, os=kubic)
    name = entry["name"].format(minor=minor)
    return Repository(name, uri, uri + "Release.key", tuple(entry["fingerprints"]), tuple(entry["packages"]))
