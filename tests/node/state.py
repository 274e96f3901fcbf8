"""Who owns what: folders of running things name the processes that want them, so that nothing outlives those.

An owner is a process, by id and start time (an id alone may come round again), or a person ("kept"), who
takes things down by hand. Whatever has only dead owners is fair game for `reap`.
"""

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tests.components import cache

_KEPT = "kept"


def run_dir() -> Path:
    """Where everything that runs keeps its state."""
    folder = cache.root() / "run"
    folder.mkdir(exist_ok=True)
    return folder


def tag() -> str:
    """A short name for this cache, in the names of kernel objects: two caches on a machine do not collide."""
    return "sbx" + hashlib.sha256(str(cache.root()).encode()).hexdigest()[:5]


def lock() -> AbstractContextManager[None]:
    """Held while shared things come or go; short."""
    return cache.locked(run_dir() / "lock")


@dataclass(frozen=True)
class Process:
    """A process that can't be mistaken for a later one with the same id."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> "Process | None":
        """The process that has this id now; a zombie is none."""
        try:
            # the name, in brackets, may hold anything; after it come state (3rd field) and start time (22nd)
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    @classmethod
    def parse(cls, text: str) -> "Process":
        pid, started = text.split("-")
        return cls(int(pid), int(started))

    def __str__(self) -> str:
        return f"{self.pid}-{self.started}"

    @property
    def alive(self) -> bool:
        return Process.of(self.pid) == self

    def end(self, grace: float = 10.0) -> None:
        """TERM, then KILL; back when it is gone."""
        for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
            if not self.alive:
                return
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return
            if poll(lambda: not self.alive, patience, every=0.02):
                return
        raise TimeoutError(f"process {self.pid} does not die")


def poll(condition: Callable[[], bool], seconds: float, every: float = 0.1) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
        _collect_children()
    return True


def _collect_children() -> None:
    """Detached helpers that we started are our children still; one that ended must not stay a zombie."""
    for pid in list(_children):
        try:
            if os.waitpid(pid, os.WNOHANG)[0]:
                _children.discard(pid)
        except ChildProcessError:
            _children.discard(pid)


_children: set[int] = set()


def adopt(pid: int) -> None:
    """Note a detached child, whose exit status nobody will ask for."""
    _children.add(pid)


def claim(folder: Path, kept: bool = False) -> None:
    """Make this process (or, kept, a person) an owner of the folder."""
    owners = folder / "owners"
    owners.mkdir(parents=True, exist_ok=True)
    (owners / (_KEPT if kept else str(_me()))).touch()


def release(folder: Path, kept: bool = False) -> None:
    (folder / "owners" / (_KEPT if kept else str(_me()))).unlink(missing_ok=True)


def _me() -> Process:
    me = Process.of(os.getpid())
    assert me is not None
    return me


def owned(folder: Path) -> bool:
    """Whether anybody alive still wants the folder; dead owners are forgotten on the way."""
    wanted = False
    for owner in (folder / "owners").glob("*"):
        if owner.name == _KEPT or Process.parse(owner.name).alive:
            wanted = True
        else:
            owner.unlink(missing_ok=True)
    return wanted


def save(file: Path, data: object) -> None:
    temporary = file.with_name(f".{file.name}.new")
    temporary.write_text(json.dumps(data, indent=1) + "\n")
    temporary.rename(file)
