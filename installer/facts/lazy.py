"""Parts of the host that steps may ask for by name, read when first asked, the same ever after."""

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from installer.facts import debian
from installer.facts.model import Module, Sysctl
from installer.host import FileState, Host, Tree, decode

T = TypeVar("T")


class Looked(Mapping[str, T]):
    """A mapping whose values are looked up on the host once; a name of which nothing is there is not in it."""

    def __init__(self, look: Callable[[str], T | None]) -> None:
        self._look = look
        self._seen: dict[str, T | None] = {}

    def __getitem__(self, name: str) -> T:
        if name not in self._seen:
            self._seen[name] = self._look(name)
        value = self._seen[name]
        if value is None:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return (name for name, value in self._seen.items() if value is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def files(tree: Tree) -> Mapping[str, FileState]:
    """What each path leads to."""
    return Looked(lambda path: tree.state(tree.followed(path)))


def links(tree: Tree) -> Mapping[str, FileState]:
    """What stands at each path itself."""
    return Looked(tree.state)


def sysctls(tree: Tree) -> Mapping[str, Sysctl]:
    """Kernel settings by dotted name."""

    def look(name: str) -> Sysctl | None:
        path = "/proc/sys/" + name.replace(".", "/")
        data = tree.read(path) if tree.exists(path) else None
        return None if data is None else Sysctl(" ".join(decode(data).split()), tree.writable(path))

    return Looked(look)


def modules(tree: Tree, release: str) -> Mapping[str, Module]:
    """Kernel modules by name: loaded or built in, or on the disk for the running kernel."""
    folder = f"/lib/modules/{release}"
    built_in, on_disk = (decode(tree.read(f"{folder}/modules.{name}") or b"") for name in ("builtin", "dep"))
    systems = decode(tree.read("/proc/filesystems") or b"")

    def look(name: str) -> Module:
        file = name.replace("-", "_")
        spellings = (f"/{file}.ko", f"/{file.replace('_', '-')}.ko")
        # One that is built in has a folder in /sys/module only if it has parameters.
        loaded = tree.exists(f"/sys/module/{file}") or f"\t{name}\n" in systems or any(s in built_in for s in spellings)
        return Module(loaded, loaded or any(s in on_disk for s in spellings))

    return Looked(look)


def offers(host: Host) -> Mapping[str, str]:
    """The version of each package that apt's lists have."""
    return Looked(lambda name: next(iter(debian.offered(host, name)), None))
