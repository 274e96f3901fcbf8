"""The simulated host's disk: a real folder, known entry by entry, with what a power cut would leave of it."""

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.crash import raw

VOLATILE = ("/proc/", "/sys/", "/run/")
SYNC_DEPTH = 3  # more unsynced directory entries than that are tried first, last and none only


class Entry(NamedTuple):
    """What stands at a path. `data` is a file's content or a link's target."""

    kind: str
    mode: int
    uid: int
    gid: int
    data: bytes
    xattrs: tuple[tuple[str, bytes], ...] = ()


Image = dict[str, Entry]
"""A whole tree by path, `/` itself left out."""


class Pending(NamedTuple):
    """A change of directory entries that nothing has synced yet: which folder must be, and what it does."""

    folder: str
    gone: tuple[str, ...]
    come: tuple[tuple[str, "Node"], ...]


class Node:
    """A file, directory or link, whatever its name: as it is, and as it would be after a power cut."""

    __slots__ = ("now", "synced")

    def __init__(self, now: Entry, synced: Entry | None) -> None:
        self.now = now
        self.synced = synced


class Disk:
    """The folder below `root`, and its image; every change is told to `refresh`, `moved` or `synced`.

    `digest` stands for all of it but the paths `apart`; `dark` for what of that a disk without power holds.
    `version` grows with every change, also of what is synced.
    """

    def __init__(self, root: Path, apart: frozenset[str] = frozenset()) -> None:
        self.root = str(root)
        self.image: Image = {}
        self.digest = 0
        self.dark = 0
        self.version = 0
        self._apart = apart
        self._nodes: dict[str, Node] = {}
        self._kept: dict[str, Node] = {}
        self._dirty: set[str] = set()
        self._pending: list[Pending] = []

    def real(self, path: str) -> str:
        """Where it lies, links not followed."""
        return self.root + path

    def load(self) -> None:
        """Takes in the folder as it is, all of it synced."""
        self.image, self.digest, self.dark = {}, 0, 0
        for path in self._walk():
            self._set(path, read(self.real(path)))
        self.synced_all()

    def restore(self, image: Image) -> None:
        """Makes the folder that image again, all of it synced."""
        for path in sorted(self.image.keys() - image.keys(), reverse=True):
            _remove(self.real(path), self.image[path].kind)
            self._set(path, None)
        for path in sorted(p for p, e in image.items() if self.image.get(p) != e):
            old = self.image.get(path)
            if old and (old.kind != image[path].kind or old.kind == "link"):
                shutil.rmtree(self.real(path)) if old.kind == "dir" else os.unlink(self.real(path))
            _make(self.real(path), image[path])
            self._set(path, image[path])
        self.synced_all()

    def refresh(self, path: str) -> None:
        """Something was done to what stands at `path`."""
        entry = read(self.real(path))
        old = self.image.get(path)
        if entry == old:
            return
        self._set(path, entry)
        if entry is None:
            self._nodes.pop(path, None)
            self._dirty.discard(path)
            self._pending.append(Pending(os.path.dirname(path), (path,), ()))
        elif old is None or old.kind != entry.kind:
            self._nodes[path] = Node(entry, entry if entry.kind != "file" else None)
            self._pending.append(Pending(os.path.dirname(path), (), ((path, self._nodes[path]),)))
        else:
            self._nodes[path].now = entry
        if entry and entry.kind == "file":
            self._dirty.add(path)
        elif entry:
            self._nodes[path].synced = entry

    def moved(self, old: str, new: str) -> None:
        """A file or link was renamed within its folder."""
        self._set(old, None)
        self._set(new, read(self.real(new)))
        node = self._nodes.pop(old)
        self._nodes[new] = node
        self._dirty -= {old, new}
        if node.now != node.synced:
            self._dirty.add(new)
        self._pending.append(Pending(os.path.dirname(new), (old,), ((new, node),)))

    def synced(self, path: str) -> None:
        """fsync: of a file, its content; of a directory, its entries."""
        path = path or "/"
        if path in self._nodes and self._nodes[path].now.kind == "file":
            self.version += path in self._dirty
            self._nodes[path].synced = self._nodes[path].now
            self._dirty.discard(path)
            return
        for one in [p for p in self._pending if p.folder == path]:
            _apply(self._kept, one)
            self._pending.remove(one)
            self.version += 1

    def synced_all(self) -> None:
        """sync: nothing is left to lose."""
        self._nodes = {path: Node(entry, entry) for path, entry in self.image.items()}
        self._kept = dict(self._nodes)
        self._dirty = set()
        self._pending = []
        self.version += 1

    def after_power_cuts(self) -> Iterator["Remains"]:
        """What the disk may hold after a power cut now: of what was not synced none, some in order, or all names."""
        touched = {path for one in self._pending for path in (*one.gone, *(name for name, _ in one.come))} | self._dirty
        kept = dict(self._kept)
        yield self._remains(kept, touched)
        for number, one in enumerate(self._pending, 1):
            _apply(kept, one)
            if number <= SYNC_DEPTH or number == len(self._pending):
                yield self._remains(kept, touched)

    def _remains(self, kept: dict[str, Node], touched: set[str]) -> "Remains":
        changed: dict[str, Entry | None] = {}
        for path in touched:
            node = kept.get(path)
            changed[path] = (node.synced or Entry("file", 0o600, 0, 0, b"")) if node else None
        gone = [f"{path}/" for path, entry in changed.items() if entry is None and self._is_folder(path)]
        if gone:
            changed |= {path: None for path in (*self.image, *changed) if path.startswith(tuple(gone))}
        for path in sorted(changed):
            folder = os.path.dirname(path)
            if changed[path] and folder != "/" and not changed.get(folder, self.image.get(folder)):
                changed[path] = None
        found = self.dark
        for path, entry in changed.items():
            now = self.image.get(path)
            if not path.startswith(VOLATILE) and path not in self._apart:
                found ^= (digest(path, now) if now else 0) ^ (digest(path, entry) if entry else 0)
        return Remains(changed, found)

    def _is_folder(self, path: str) -> bool:
        return path in self.image and self.image[path].kind == "dir"

    def _set(self, path: str, entry: Entry | None) -> None:
        self.version += 1
        old = self.image.pop(path, None)
        if entry is not None:
            self.image[path] = entry
        if path in self._apart:
            return
        change = (digest(path, old) if old else 0) ^ (digest(path, entry) if entry else 0)
        self.digest ^= change
        if not path.startswith(VOLATILE):
            self.dark ^= change

    def _walk(self) -> Iterator[str]:
        for folder, folders, files in os.walk(self.root):
            below = folder.removeprefix(self.root)
            for name in (*folders, *files):
                yield f"{below}/{name}"


class Remains(NamedTuple):
    """What a power cut leaves: how the disk then differs from now, and its digest."""

    changed: dict[str, Entry | None]
    dark: int

    def entry(self, disk: Disk, path: str) -> Entry | None:
        """What stands at a path then."""
        return self.changed[path] if path in self.changed else disk.image.get(path)

    def image(self, disk: Disk) -> Image:
        """All of it, but for what is only in memory."""
        whole = {**disk.image, **self.changed}
        return {path: entry for path, entry in whole.items() if entry and not path.startswith(VOLATILE)}


def digest(path: str, entry: Entry) -> int:
    """A number for what stands where; those of a tree are joined by exclusive or."""
    return int.from_bytes(hashlib.blake2b(repr((path, entry)).encode(), digest_size=16).digest(), "big")


def read(real: str) -> Entry | None:
    """What stands at a path of this machine."""
    try:
        info = os.lstat(real)
    except (FileNotFoundError, NotADirectoryError):
        return None
    mode = stat.S_IMODE(info.st_mode)
    xattrs = tuple((n, os.getxattr(real, n, follow_symlinks=False)) for n in sorted(_xattrs(real)))
    if stat.S_ISLNK(info.st_mode):
        return Entry("link", 0o777, info.st_uid, info.st_gid, raw.readlink(real).encode())
    if stat.S_ISDIR(info.st_mode):
        return Entry("dir", mode, info.st_uid, info.st_gid, b"", xattrs)
    fd = raw.open(real, os.O_RDONLY)
    try:
        data = os.read(fd, info.st_size + 1)
    finally:
        os.close(fd)
    return Entry("file", mode, info.st_uid, info.st_gid, data, xattrs)


def _xattrs(real: str) -> list[str]:
    return [n for n in os.listxattr(real, follow_symlinks=False) if n.startswith(("user.", "trusted."))]


def _make(real: str, entry: Entry) -> None:
    if entry.kind == "link":
        os.symlink(entry.data, real)
        return
    if entry.kind == "dir":
        if not os.path.isdir(real):
            os.mkdir(real)
    else:
        fd = raw.open(real, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(fd, entry.data)
        finally:
            os.close(fd)
    os.chown(real, entry.uid, entry.gid)
    os.chmod(real, entry.mode)
    for name in _xattrs(real):
        os.removexattr(real, name)
    for name, value in entry.xattrs:
        os.setxattr(real, name, value)


def _remove(real: str, kind: str) -> None:
    os.rmdir(real) if kind == "dir" else os.unlink(real)


def _apply(kept: dict[str, Node], one: Pending) -> None:
    for path in one.gone:
        kept.pop(path, None)
    kept.update(one.come)
