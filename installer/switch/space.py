"""Whether the images that are carried over will fit: figures, before anything is written."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from installer.errors import DeployError, PermanentError
from installer.facts import crio
from installer.facts.reference import Reference
from installer.host import Host
from installer.switch.crio_store import CrioStore
from installer.switch.store import Store

_UNPACKED = 3  # layers of common images unpack to twice or thrice their size
ROOT = "/var/lib/containers/storage"
_PASSING = "/var/tmp"  # noqa: S108 — where CRI-O's library keeps what it downloads until it is unpacked
_AT_ONCE = 4


@dataclass(frozen=True)
class Space:
    """What is needed and what is free below `path`, in bytes."""

    path: str
    needed: int
    free: int

    @property
    def is_enough(self) -> bool:
        """Whether it fits."""
        return self.needed <= self.free

    def __str__(self) -> str:
        return f"about {size(self.needed)} of the {size(self.free)} free at {self.path}"


def look(host: Host, effective: Mapping[str, object], store: Store, names: Sequence[Reference]) -> list[Space]:
    """What carrying these needs, a file system an entry. Images that the store lacks are not counted."""
    images = [store.size(name) for name in names]
    layers = {digest: layer for image in images for digest, layer in image.items()}
    kept = sum(_UNPACKED * size if packed else size for size, packed in layers.values())
    passing = sum(sorted((sum(size for size, _ in image.values()) for image in images), reverse=True)[:_AT_ONCE])
    root = str(crio.value(effective, "crio.root") or ROOT)
    temporary = str(crio.value(effective, "crio.image.big_files_temporary_dir") or _PASSING)
    (device, free), (other, other_free) = _device(host, root), _device(host, temporary)
    if device == other:
        return [Space(root, kept + passing, free)]
    return [Space(root, kept, free), Space(temporary, passing, other_free)]


def back(host: Host, root: str, store: CrioStore, names: Sequence[Reference]) -> Space:
    """What it takes to bring these from CRI-O's store to containerd's: each twice, as archive of layers and unpacked,
    and the largest once more on the way."""
    sizes = [store.size(name) for name in names]
    return Space(root, 2 * sum(sizes) + max(sizes, default=0), _device(host, root)[1])


def check(spaces: Sequence[Space], refusal: type[DeployError] = PermanentError) -> None:
    """Raises `refusal` where something does not fit."""
    if short := [space for space in spaces if not space.is_enough]:
        raise refusal(
            "there is not room enough to carry the images of this node's pods to the other runtime",
            where=", ".join(space.path for space in short),
            found="; ".join(f"{size(s.needed)} needed, {size(s.free)} free" for s in short),
            remedy="make room: delete pods and images that are not wanted (crictl rmi --prune), or enlarge the disk",
        )


def size(count: float) -> str:
    """Bytes for people."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while count >= 1024 and len(units) > 1:
        count /= 1024
        del units[0]
    return f"{count:.0f} B" if units[0] == "B" else f"{count:.1f} {units[0]}"


def _device(host: Host, path: str) -> tuple[int, int]:
    """The file system that the path is on, or will be, and its free bytes."""
    while not host.exists(path) and path != "/":
        path = path.rpartition("/")[0] or "/"
    real = host.real(path)
    now = os.statvfs(real)
    return real.stat().st_dev, now.f_bavail * now.f_frsize
