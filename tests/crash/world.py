"""The simulated host: its disk, its machine, its clock; and who is told of every step that anybody takes on it."""

import contextlib
import dataclasses
import json
import os
import secrets
import socketserver
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from installer.switch import shelf
from tests.crash import raw
from tests.crash.machine import Machine
from tests.crash.records import JOURNAL, Meaning, Reader
from tests.crash.syscalls import Calls
from tests.crash.tree import Disk, Entry, Image, Remains, digest

LOCK = "/run/sysbox-deploy.lock"
LOCKS = (LOCK, "/run/sysbox-deploy-switch.lock")


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A moment of the host. `how` is what was about to be done then."""

    image: Image
    machine: Machine
    how: str = ""


class Faults:
    """What goes wrong, for the world to ask; by itself, nothing."""

    def call(self, name: str, path: str) -> None:
        """May raise OSError in the place of a system call."""

    def room(self, path: str, data: bytes) -> bytes:
        """What of a write fits."""
        return data

    def command(self, argv: tuple[str, ...]) -> str:
        """How the command is to fail: before, half, after, or late (a time-out once all is done); empty: not."""
        return ""

    def request(self, verb: str, path: str) -> str:
        """How the API is to answer: a status, cut, lost or silent; empty: as it should."""
        return ""


class World:
    """One simulated host below a folder."""

    def __init__(self, root: Path) -> None:
        self.disk = Disk(root, frozenset({JOURNAL, *LOCKS}))
        self.machine = Machine()
        self.clock = 0.0
        self.watch: Callable[[str], None] = lambda how: None
        self.faults = Faults()
        self.log: list[str] = []
        self.reader = Reader()
        self._calls = Calls(self)
        self._whole = False
        self._machine_key = ""
        self._journal: tuple[Entry | None, int] = (None, Meaning().key({}))

    # what the program does

    def before(self, call: str, path: str) -> None:
        """A system call of the program's."""
        self.watch(f"{call} {path}")
        self.faults.call(call, path)

    def reading(self, call: str, path: str) -> None:
        """One that only reads."""
        self.faults.call(f"read: {call}", path)

    def torn(self, path: str, half: Entry) -> None:
        """A file half written."""
        whole = self.disk.image[path]
        change = digest(path, whole) ^ digest(path, half)
        self.disk.image[path] = half
        self.disk.digest ^= change
        self.watch(f"write {path}")
        self.disk.image[path] = whole
        self.disk.digest ^= change

    def short(self, path: str, data: bytes) -> bytes:
        """How much of a write fits on the disk."""
        return self.faults.room(path, data)

    # what the host's own programs do

    def act(self, how: str) -> None:
        """One of the host's own programs is about to do something."""
        self._machine_key = ""
        if not self._whole:
            self.watch(how)
            self.log.append(how)

    @contextlib.contextmanager
    def whole(self, how: str) -> Iterator[None]:
        """What is done in the body is done by the kernel or by systemd itself: our end does not cut it off."""
        self.act(how)
        before, self._whole = self._whole, True
        try:
            yield
        finally:
            self._whole = before

    def put(self, path: str, data: bytes | str, mode: int = 0o644, *, synced: bool = False) -> None:
        """A file of the host's own, with its folders, in one rename."""
        self.act(f"host writes {path}")
        self.make_folders(os.path.dirname(path))
        real = self.disk.real(path)
        staged = f"{real}.model"
        fd = raw.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        raw.write(fd, data.encode() if isinstance(data, str) else data)
        raw.fchmod(fd, mode)
        raw.close(fd)
        raw.rename(staged, real)
        self.disk.refresh(path)
        if synced:
            self.sync(path)

    def link(self, path: str, target: str) -> None:
        """A symbolic link of the host's own."""
        self.act(f"host links {path}")
        self.make_folders(os.path.dirname(path))
        with contextlib.suppress(FileNotFoundError):
            raw.unlink(self.disk.real(path))
        raw.symlink(target, self.disk.real(path))
        self.disk.refresh(path)

    def rename(self, old: str, new: str) -> None:
        """mv, within a folder."""
        self.act(f"host renames {old} to {new}")
        raw.rename(self.disk.real(old), self.disk.real(new))
        self.disk.moved(old, new)

    def remove(self, path: str, *, synced: bool = False) -> None:
        """Removes a file, a link or an empty folder, if it is there."""
        entry = self.disk.image.get(path)
        if entry is None:
            return
        self.act(f"host removes {path}")
        real = self.disk.real(path)
        raw.rmdir(real) if entry.kind == "dir" else raw.unlink(real)
        self.disk.refresh(path)
        if synced:
            self.disk.synced(os.path.dirname(path))

    def sync(self, path: str) -> None:
        """A file, its name, and the names of its folders."""
        self.disk.synced(path)
        while path != "/":
            path = os.path.dirname(path)
            self.disk.synced(path)

    def make_folders(self, path: str) -> None:
        """A folder with its parents."""
        if path == "/" or path in self.disk.image:
            return
        self.make_folders(os.path.dirname(path))
        raw.mkdir(self.disk.real(path), 0o755)
        raw.chmod(self.disk.real(path), 0o755)
        self.disk.refresh(path)

    def text(self, path: str) -> str:
        """A file's text, empty where there is none."""
        entry = self.disk.image.get(path)
        return entry.data.decode("utf-8", "surrogateescape") if entry and entry.kind == "file" else ""

    def names(self, folder: str) -> list[str]:
        """What stands in a folder."""
        entry = self.disk.image.get(folder)
        return sorted(raw.listdir(self.disk.real(folder))) if entry and entry.kind == "dir" else []

    def below(self, folder: str) -> list[str]:
        """All that stands below a folder, deepest last."""
        return sorted(p for p in self.disk.image if p.startswith(f"{folder}/"))

    # time

    def sleep(self, seconds: float) -> None:
        """Time passes: what the host has under way ends, and timers may fire."""
        self.clock += seconds
        self.finish()
        for unit, left in list(self.machine.timers.items()):
            self.machine.timers[unit] = left - seconds
            if left <= seconds:
                from tests.crash import program

                program.fire(self, unit)
                self.finish()

    def finish(self, only: str = "") -> None:
        """Lets the host's own jobs end, or those of the units that start so."""
        from tests.crash import program

        while mine := [unit for unit in self.machine.jobs if unit.startswith(only)]:
            program.step(self, mine[0])
        self._machine_key = ""

    # moments

    def take(self, how: str = "") -> Snapshot:
        """The host as it is."""
        return Snapshot(dict(self.disk.image), self.machine.copy(), how)

    def restore(self, moment: Snapshot) -> None:
        """The host as it was, all of it synced."""
        self.disk.restore(moment.image)
        self.machine = moment.machine.copy()
        self.clock = 0.0
        self._machine_key = ""
        self.log = []

    def key(self) -> tuple[int, int, str]:
        """What tells this moment from another: disk, meaning of the journal, machine."""
        if not self._machine_key:
            self._machine_key = self.machine.key()
        return (self.disk.digest, self._meaning_key(self.disk.image.get(JOURNAL)), self._machine_key)

    def dark_key(self, remains: Remains) -> tuple[int, int, str]:
        """What tells one disk without power from another."""
        node = json.dumps(self.machine.bare_node(), sort_keys=True)
        return (remains.dark, self._meaning_key(remains.entry(self.disk, JOURNAL)), node)

    def _meaning_key(self, entry: Entry | None) -> int:
        if entry is not self._journal[0]:
            self._journal = (entry, self.reader.read(entry.data if entry else b"")[1])
        return self._journal[1]

    def meaning(self) -> Meaning:
        """What the journal says."""
        entry = self.disk.image.get(JOURNAL)
        return self.reader.read(entry.data if entry else b"")[0]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """While the program runs: its system calls are watched, and its time is ours."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(time, "sleep", self.sleep))
            stack.enter_context(mock.patch.object(time, "monotonic", lambda: self.clock))
            # the registry that it serves for the time of a carry is asked by nobody here, and heeded at once
            stack.enter_context(mock.patch.object(socketserver.BaseServer, "serve_forever", _nothing))
            stack.enter_context(mock.patch.object(socketserver.BaseServer, "shutdown", _nothing))
            heeded = property(lambda _: True, _nothing)
            stack.enter_context(mock.patch.object(shelf._Server, "probed", heeded, create=True))
            stack.enter_context(mock.patch.object(secrets, "token_hex", lambda number: "5" * 2 * number))
            stack.enter_context(self._calls.watched())
            yield
        self._machine_key = ""


def _nothing(*_: Any, **__: Any) -> None:
    return None
