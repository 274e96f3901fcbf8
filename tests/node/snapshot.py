"""What a node is, so that before and after can be compared: every path, package and unit.

before = snapshot.take(node)
...
assert snapshot.compare(before, snapshot.take(node)) == []
"""

import fnmatch
import functools
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.components import cache
from tests.node import state
from tests.node.disk import STORES
from tests.node.node import Node

# the paths whose change says nothing about the node, and why
IGNORED = {
    "/boot/initrd.img-*": "made anew whenever a package brings something that could be in it",
    "/var/log/*": "logs",
    "/var/cache/*": "caches, of apt, debconf and ldconfig among others",
    "/var/lib/apt/lists/*": "apt's copy of the repositories' indices",
    "/var/lib/dpkg/*-old": "dpkg's backup of its last state",
    "/var/lib/containerd/*": "containerd's store: what runs and what was pulled",
    "/var/lib/cni*": "addresses of running pods, made with the first pod",
    "/var/lib/kubelet/pods/*": "running pods",
    "/var/lib/kubelet/*_state": "what the kubelet's managers have given to running pods",
    "/var/lib/kubelet/device-plugins/*": "the kubelet's socket and checkpoint",
    "/var/lib/systemd/timers/*": "when timers last fired",
}

# units that come and go with pods, processes and devices, or by systemd's own clock
_PASSING = (
    "*.scope",
    "*.device",
    "*.slice",
    "*.mount",
    "*.automount",
    "*.swap",
    "user@*",
    "user-runtime-dir@*",
)
_MOVING = ("activating", "deactivating", "reloading", "maintenance")


@dataclass(frozen=True)
class Snapshot:
    """Each thing by name, with a line that says all about it."""

    paths: dict[str, str]
    packages: dict[str, str]
    units: dict[str, str]

    def save(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, file: Path) -> "Snapshot":
        return cls(**json.loads(file.read_text()))


def take(node: Node) -> Snapshot:
    """The running node as it is now, once its units have settled."""
    return Snapshot(dict(_paths(node)), _packages(node), _units(node))


def compare(before: Snapshot, after: Snapshot) -> list[str]:
    """What differs, one line a thing; nothing when all is as it was."""
    lines = _compare_paths(before.paths, after.paths)
    for kind in ("package", "unit"):
        one, other = getattr(before, f"{kind}s"), getattr(after, f"{kind}s")
        for name in sorted(one.keys() | other.keys()):
            if one.get(name) != other.get(name):
                lines.append(f"{kind} {name}: {one.get(name, 'absent')} -> {other.get(name, 'absent')}")
    return lines


def _compare_paths(before: dict[str, str], after: dict[str, str]) -> list[str]:
    lines = []
    for path in sorted(before.keys() | after.keys()):
        one, other = before.get(path), after.get(path)
        if one == other:
            continue
        parent = os.path.dirname(path)
        if one is None and parent in before:
            lines.append(f"added {path}: {other}{_and_below(path, after)}")
        elif other is None and parent in after:
            lines.append(f"missing {path}: {one}{_and_below(path, before)}")
        elif one is not None and other is not None:
            lines.append(f"changed {path}: {one} -> {other}")
        # else its folder came or went too, and is reported with the number of paths in it
    return lines


def _and_below(path: str, paths: dict[str, str]) -> str:
    below = sum(other.startswith(f"{path}/") for other in paths)
    return f" (and {below} below it)" if below else ""


@functools.cache
def _ignored(path: str) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in IGNORED)


def _paths(node: Node) -> Iterator[tuple[str, str]]:
    """Every path on the node's disk that is not ignored; other mounts, such as /proc, are not on it."""
    with node.tree() as root:
        yield from _below(f"{root}/.", _Known(node))


def _below(root: str, known: "_Known") -> Iterator[tuple[str, str]]:
    pending = [("", root, os.lstat(root).st_dev)]
    while pending:
        path, real, device = pending.pop()
        status = os.lstat(real)
        if status.st_dev != device:
            if path not in STORES.values():
                continue
            device = status.st_dev
        yield path or "/", _describe(path, real, status, known)
        if stat.S_ISDIR(status.st_mode):
            for name in os.listdir(real):
                if not _ignored(f"{path}/{name}"):
                    pending.append((f"{path}/{name}", f"{real}/{name}", device))


def _describe(path: str, real: str, status: os.stat_result, known: "_Known") -> str:
    words = [stat.filemode(status.st_mode), f"{status.st_uid}:{status.st_gid}"]
    if stat.S_ISREG(status.st_mode):
        words.append(known.digest(path, real))
    elif stat.S_ISLNK(status.st_mode):
        words.append(f"to {os.readlink(real)}")
    elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        words.append(f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}")
    for name in os.listxattr(real, follow_symlinks=False):
        words.append(f"{name}={os.getxattr(real, name, follow_symlinks=False).hex()}")
    return " ".join(words)


class _Known:
    """Digests; those of the read-only layers are reckoned once and kept in the cache."""

    def __init__(self, node: Node) -> None:
        self.upper = node.disk.upper
        self.layers = [_digests_of(layer) for layer in node.disk.layers]

    def digest(self, path: str, real: str) -> str:
        if not os.path.lexists(f"{self.upper}{path}"):
            for layer in self.layers:
                if found := layer.get(path):
                    return found
        return _sha256(real)


def _sha256(file: str) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digests_of(layer: Path) -> dict[str, str]:
    kept = layer.with_name(f"{layer.name}.sha256.json")
    if not kept.exists():
        with cache.locked(kept.with_suffix(".lock")):
            if not kept.exists():
                state.save(kept, dict(_hash_tree(str(layer))))
    digests: dict[str, str] = json.loads(kept.read_text())
    return digests


def _hash_tree(top: str) -> Iterator[tuple[str, str]]:
    for folder, _, files in os.walk(top):
        for name in files:
            file = f"{folder}/{name}"
            if stat.S_ISREG(os.lstat(file).st_mode):
                yield file.removeprefix(top), _sha256(file)


def _packages(node: Node) -> dict[str, str]:
    fields = "${binary:Package}\t${Version} ${db:Status-Abbrev}\n"
    listed = dict(line.split("\t") for line in node.run("dpkg-query", "-W", "-f", fields).stdout.splitlines())
    automatic = set(node.run("apt-mark", "showauto").stdout.split())
    return {name: f"{about.strip()} {'auto' if name in automatic else 'manual'}" for name, about in listed.items()}


def _units(node: Node) -> dict[str, str]:
    active: dict[str, str] = {}

    def settled() -> bool:
        active.clear()
        active.update(_active_units(node))
        return not any(about in _MOVING for about in active.values())

    state.poll(settled, 30, every=0.2)
    files = node.run("systemctl", "list-unit-files", "--no-legend", "--no-pager", "--plain").stdout
    # a transient one's file is there while it runs: pods' scopes and slices, mostly
    enabled = {words[0]: words[1] for words in map(str.split, files.splitlines()) if words[1] != "transient"}
    # one that is inactive may be loaded or not, as systemd likes: the same as far as anybody can tell
    names = enabled.keys() | active.keys()
    return {name: f"{enabled.get(name, '-')} {active.get(name, 'inactive')}" for name in names}


def _active_units(node: Node) -> Iterator[tuple[str, str]]:
    argv = ["systemctl", "list-units", "--all", "--no-legend", "--no-pager", "--plain"]
    for line in node.run(*argv).stdout.splitlines():
        name, _, active, *_ = line.split()
        passing = any(fnmatch.fnmatchcase(name, pattern) for pattern in _PASSING)
        if active != "inactive" and not passing:
            yield name, active
