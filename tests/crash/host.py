"""The door to the simulated host: its commands answered by the model, its files real ones below a folder."""

import contextlib
import shlex
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from installer.errors import CommandError, DeployError
from installer.facts.crio import SOCKET
from installer.host import Host, Result, Tree
from tests.crash import kernel, packages, program, runtimes, systemd
from tests.crash.world import World

Command = Callable[[World, tuple[str, ...]], Result]
_OK = Result(0, "", "")
_LISTENERS = {"sysmgr.sock": "sysbox-mgr.service", "sysfs.sock": "sysbox-fs.service", "crio.sock": "crio.service"}


class SimulatedHost(Host):
    """A host whose machine is a World."""

    def __init__(self, world: World) -> None:
        Tree.__init__(self, Path(world.disk.root))
        self.init = 0
        self.inherited = set()
        self.world = world

    def run(self, *argv: str, timeout: int = 60, stdin: bytes = b"", check: bool = True) -> Result:
        """Runs a command in the model, or fails it as the world's faults say."""
        how = self.world.faults.command(argv)
        result = self._failed(argv, how) if how else answer(self.world, argv)
        if check and result.code != 0:
            said = result.err or result.out
            raise CommandError(list(argv), result.code, said, shlex.join(argv), timed_out=result.code == 124)
        return result

    def _failed(self, argv: tuple[str, ...], how: str) -> Result:
        if how in ("after", "late"):
            answer(self.world, argv)
        return Result(124 if how in ("time-out", "late") else 1, "", "a fault of the test's")

    def http_get(self, socket_path: str, url: str, timeout: int = 10) -> bytes:
        """What CRI-O says of itself."""
        if socket_path != SOCKET or "crio.service" not in self.world.machine.active:
            raise DeployError(f"no answer on {socket_path}", where=url)
        return runtimes.config(self.world)

    @contextlib.contextmanager
    def lock(self, path: str) -> Iterator[None]:
        """The host's lock; the switch's program holds its own while it works."""
        if "switch" in path:
            self.world.finish("sysbox-deploy-switch@")
        with super().lock(path):
            yield

    def listens(self, socket_path: str) -> bool:
        """Whether the daemon behind a socket runs."""
        return _LISTENERS.get(socket_path.rpartition("/")[2], "") in self.world.machine.active

    def listen(self) -> socket.socket:
        """A socket that nobody will ever call."""
        return _Deaf()


class _Deaf(socket.socket):
    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", 40000)


def answer(world: World, argv: tuple[str, ...]) -> Result:
    """What a command does and says."""
    command = _COMMANDS.get(argv[0].rpartition("/")[2])
    assert command, f"the model does not know {argv}"
    return command(world, argv)


def _apt_get(world: World, argv: tuple[str, ...]) -> Result:
    if "--simulate" in argv:
        return packages.simulated(world, argv)
    raise AssertionError("apt-get runs in a unit of its own")


def _version(command: str, text: str) -> Command:
    def said(world: World, argv: tuple[str, ...]) -> Result:
        there = f"/usr/bin/{command}" in world.disk.image
        return Result(0, text, "") if there else Result(127, "", f"timeout: failed to run command '{command}'")

    return said


def _find(world: World, argv: tuple[str, ...]) -> Result:
    assert argv[2:] == ("-xdev", "-mindepth", "1", "-depth", "-delete"), argv
    for path in reversed(world.below(argv[1])):
        world.remove(path)
    return _OK


def _shell(world: World, argv: tuple[str, ...]) -> Result:
    assert "is-active" in argv[2], argv
    world.finish()
    return _OK


def _sync(world: World, argv: tuple[str, ...]) -> Result:
    """sync FILE…: those; with --file-system, or none named, everything."""
    named = [w for w in argv[1:] if not w.startswith("-")]
    world.act(" ".join(argv))
    if not named or "-f" in argv or "--file-system" in argv:
        world.disk.synced_all()
    for path in named:
        world.disk.synced(path)
    return _OK


def _nothing(world: World, argv: tuple[str, ...]) -> Result:
    return _OK


_COMMANDS: dict[str, Command] = {
    "systemctl": systemd.run,
    "systemd-run": program.run_in_unit,
    "dpkg-query": packages.query,
    "apt-cache": packages.madison,
    "apt-get": _apt_get,
    "crio": _version("crio", "crio version 1.34.0\nVersion:        1.34.0\n"),
    "containerd": _version("containerd", "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1\n"),
    "kubelet": _version("kubelet", "Kubernetes v1.34.9\n"),
    "crictl": runtimes.crictl,
    "ctr": runtimes.ctr,
    "modprobe": kernel.modprobe,
    "rmmod": kernel.rmmod,
    "sysctl": kernel.sysctl,
    "find": _find,
    "sh": _shell,
    "sync": _sync,
    "cat": _nothing,
    "journalctl": _nothing,
    "mountpoint": _nothing,
}
