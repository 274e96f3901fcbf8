"""Stands between the program and the host's disk: every system call that changes it is told of before it is made.

The program is not changed and does not know: `os` itself is wrapped while it runs, for paths below the root.
"""

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from tests.crash.tree import Disk, Entry

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Watcher(Protocol):
    """Who is told, and may raise OSError in the call's place."""

    disk: Disk

    def before(self, call: str, path: str) -> None:
        """A call that changes the disk is about to be made."""

    def reading(self, call: str, path: str) -> None:
        """One that only reads is."""

    def torn(self, path: str, half: Entry) -> None:
        """The file would hold this if we died in the middle of a write."""

    def short(self, path: str, data: bytes) -> bytes:
        """How much of a write the disk has room for."""


class Calls:
    """The wrapped calls, for one watcher."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._disk = watcher.disk
        self._root = watcher.disk.root + "/"
        self._real: dict[str, Callable[..., Any]] = {}

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """While the body runs."""
        wrapped = {name: getattr(self, f"_{name}") for name in _NAMES}
        self._real = {name: getattr(os, name) for name in _NAMES}
        opened = io.open
        io.open = self._io_open(opened)
        try:
            for name, call in wrapped.items():
                setattr(os, name, call)
            yield
        finally:
            for name, call in self._real.items():
                setattr(os, name, call)
            io.open = opened

    def _path(self, path: Any, dir_fd: int | None = None) -> str | None:
        """The host's path of what a call names; None where it is not on the host."""
        if isinstance(path, int):
            name = self._real["readlink"](f"/proc/self/fd/{path}")
        elif dir_fd is not None:
            name = self._real["readlink"](f"/proc/self/fd/{dir_fd}") + "/" + os.fspath(path)
        else:
            name = os.fspath(path)
        return name.removeprefix(self._root[:-1]) if name.startswith(self._root) else None

    def _around(self, call: str, path: Any, *more: Any, dir_fd: int | None = None, **named: Any) -> Any:
        at = self._path(path, dir_fd)
        given = {**named, **({"dir_fd": dir_fd} if dir_fd is not None else {})}
        if at is None:
            return self._real[call](path, *more, **given)
        if call in _ON_CONTENT:
            self._show_torn(at)
        self._watcher.before(call, at)
        result = self._real[call](path, *more, **given)
        self._disk.refresh(at)
        return result

    def _show_torn(self, at: str) -> None:
        """Python's buffer was flushed since the last call: the kernel may have had half of it."""
        old = self._disk.image.get(at)
        self._disk.refresh(at)
        new = self._disk.image.get(at)
        if old and new and len(new.data) > len(old.data) + 1:
            half = len(old.data) + (len(new.data) - len(old.data)) // 2
            self._watcher.torn(at, new._replace(data=new.data[:half]))

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        at = self._path(path, dir_fd)
        if at is None or not flags & _WRITING:
            if at is not None:
                self._watcher.reading("open", at)
            return int(self._real["open"](path, flags, mode, dir_fd=dir_fd))
        if at in self._disk.image and not flags & os.O_TRUNC:
            self._watcher.reading("open", at)
            return int(self._real["open"](path, flags, mode, dir_fd=dir_fd))
        return int(self._around("open", path, flags, mode, dir_fd=dir_fd))

    def _io_open(self, real: Callable[..., Any]) -> Any:
        def opened(file: Any, *more: Any, **named: Any) -> Any:
            if not isinstance(file, int) and (at := self._path(file)) is not None:
                self._watcher.reading("open", at)
            return real(file, *more, **named)

        return opened

    def _write(self, fd: int, data: Any) -> int:
        at = self._path(fd)
        if at is None:
            return int(self._real["write"](fd, data))
        self._watcher.before("write", at)
        content = self._watcher.short(at, bytes(data))
        if len(content) > 1:
            done = int(self._real["write"](fd, content[: len(content) // 2]))
            self._disk.refresh(at)
            self._watcher.before("write on", at)
            done += int(self._real["write"](fd, content[done:]))
        else:
            done = int(self._real["write"](fd, content))
        self._disk.refresh(at)
        return done

    def _fsync(self, fd: int) -> None:
        at = self._path(fd)
        if at is None:
            if os.path.realpath(f"/proc/self/fd/{fd}") != self._root[:-1]:
                self._real["fsync"](fd)
                return
            at = "/"
        self._show_torn(at)
        self._watcher.before("fsync", at)
        self._disk.synced(at)

    def _rename(self, src: Any, dst: Any) -> None:
        old, new = self._path(src), self._path(dst)
        if old is None or new is None:
            self._real["rename"](src, dst)
            return
        self._watcher.before("rename", new)
        self._real["rename"](src, dst)
        self._disk.moved(old, new)

    def _replace(self, src: Any, dst: Any) -> None:
        self._rename(src, dst)

    def _symlink(self, target: Any, path: Any, *more: Any, **named: Any) -> None:
        at = self._path(path)
        if at is not None:
            self._watcher.before("symlink", at)
        self._real["symlink"](target, path, *more, **named)
        if at is not None:
            self._disk.refresh(at)

    def _listdir(self, path: Any = ".") -> list[str]:
        if (at := self._path(path)) is not None:
            self._watcher.reading("listdir", at)
        found: list[str] = self._real["listdir"](path)
        return found

    def _readlink(self, path: Any, *, dir_fd: int | None = None) -> Any:
        return self._real["readlink"](path, dir_fd=dir_fd)

    def _unlink(self, *given: Any, **named: Any) -> None:
        self._around("unlink", *given, **named)

    def _mkdir(self, *given: Any, **named: Any) -> None:
        self._around("mkdir", *given, **named)

    def _rmdir(self, *given: Any, **named: Any) -> None:
        self._around("rmdir", *given, **named)

    def _chmod(self, *given: Any, **named: Any) -> None:
        self._around("chmod", *given, **named)

    def _chown(self, *given: Any, **named: Any) -> None:
        self._around("chown", *given, **named)

    def _fchmod(self, *given: Any, **named: Any) -> None:
        self._around("fchmod", *given, **named)

    def _fchown(self, *given: Any, **named: Any) -> None:
        self._around("fchown", *given, **named)

    def _ftruncate(self, *given: Any, **named: Any) -> None:
        self._around("ftruncate", *given, **named)

    def _setxattr(self, *given: Any, **named: Any) -> None:
        self._around("setxattr", *given, **named)

    def _removexattr(self, *given: Any, **named: Any) -> None:
        self._around("removexattr", *given, **named)


_NAMES = (
    *("open", "write", "fsync", "rename", "replace", "symlink", "listdir", "readlink", "unlink", "mkdir", "rmdir"),
    *("chmod", "chown", "fchmod", "fchown", "ftruncate", "setxattr", "removexattr"),
)
_ON_CONTENT = frozenset({"fchmod", "fchown", "ftruncate", "setxattr"})
