"""The second kind of node: an emulated machine, with a kernel, modules, control groups and power of its own.

It has a node's interface. Nothing of it is a process of this machine, though: there is no `init_pid` or `root`.
"""

import contextlib
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from tests import components
from tests.node import debian, join, network, prepare, process, rootfs, state, vm_disk, vm_qemu, warden
from tests.node.control_plane import ControlPlane
from tests.node.disk import Disk
from tests.node.node import ENVIRONMENT, Node, reserve

_BOOT_SECONDS = 300
_SOCKET = "ssh.socket"


class Vm(Node):
    """One machine, running or off, known by its folder. Make one with `Vm.create`."""

    @classmethod
    def create(
        cls,
        name: str | None = None,
        *,
        kubernetes: bool = True,
        layout: str = "kubeadm",
        minor: str = components.MINOR,
        kubelet_config: str = "",
        store: Path | None = None,
        kept: bool = False,
    ) -> "Vm":
        """As `Node.create`; containerd's store is always the usual one."""
        prepare.machine(emulator=True)
        layer = rootfs.kubernetes(minor, layout)
        vm_disk.image()
        warden.reap()
        with state.lock():
            network.up(debian.apt_hosts())
            folder = reserve(name, kept, vm=True, kubernetes=kubernetes, layout=layout, minor=minor, layers=[])
        warden.watch()
        node = cls(folder)
        # what is laid on the disk as a node's is; the machine's own is one file
        node.disk = Disk(node.disk.folder, [layer, rootfs.base()])
        node.disk.create(None)
        node._identify()
        node.disk.put("/etc/node-address", f"{node.ip}\n")
        if kubelet_config:
            config = "/var/lib/kubelet/config.yaml"
            node.disk.put(config, (layer / config[1:]).read_text() + kubelet_config)
        if kubernetes:
            join.lay(node.disk, ControlPlane(), node.name, node.index)
        vm_disk.create(node.image, [layer], node.disk)
        return node

    @property
    def image(self) -> Path:
        """Its disk."""
        return self.folder / "disk.img"

    @property
    def init_pid(self) -> NoReturn:
        raise RuntimeError(f"{self.name} is an emulated machine: its processes are not this one's")

    @property
    def root(self) -> NoReturn:
        raise RuntimeError(f"{self.name} is an emulated machine: its files are not this one's")

    @property
    def running(self) -> bool:
        return process.find("console", self.folder) is not None

    def run(
        self, *argv: str, check: bool = True, input: str | None = None, timeout: float = 600
    ) -> "subprocess.CompletedProcess[str]":
        """As a node's, and as patient as an emulated machine asks for."""
        return super().run(*argv, check=check, input=input, timeout=timeout)

    def enter(self, *argv: str) -> list[str]:
        """The command that runs argv on the machine from this one."""
        variables = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        there = shlex.join(["env", "-i", *variables, *argv])
        # from its folder: a socket's name must be short
        return ["env", "-C", str(self.folder), "ssh", "-F", "none", "-T", "-S", _SOCKET, f"root@{self.ip}", "--", there]

    @contextlib.contextmanager
    def tree(self) -> Iterator[Path]:
        """The running machine's files, to be read from its disk; it stands still meanwhile."""
        with self._frozen(), vm_disk.mounted(self.image) as root:
            yield root

    @contextlib.contextmanager
    def _frozen(self) -> Iterator[None]:
        """All that was written is on the disk, and nothing is written. One command freezes and thaws, come what may."""
        program = "fsfreeze --freeze / && echo && timeout 120 head -c 1; fsfreeze --unfreeze /"
        with subprocess.Popen(
            self.enter("sh", "-c", program), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as running:
            assert running.stdin is not None and running.stdout is not None
            try:
                if not running.stdout.readline():
                    raise RuntimeError(f"the file system of {self.name} can't be frozen")
                yield
            finally:
                running.stdin.close()

    def load_image_for_crio(self, archive: Path) -> NoReturn:
        raise RuntimeError(f"CRI-O's store on {self.name} is out of reach from here")

    def boot(self) -> None:
        """Boot the disk; back when systemd has started everything."""
        if self.running:
            raise RuntimeError(f"node {self.name} runs already")
        vm_qemu.attach(self.index)
        process.start("console", vm_qemu.command(self.name, self.index, self.image), self.folder)
        self._settle()

    def reboot(self) -> None:
        """Restart it cleanly, the kernel too; back when systemd has started everything."""
        before = self.boot_id()
        self._leave("reboot")
        deadline = time.monotonic() + _BOOT_SECONDS
        while time.monotonic() < deadline:
            self._settle()
            if self.boot_id() != before:
                return
            process.stop("ssh", self.folder, grace=0)
        raise TimeoutError(f"node {self.name} does not reboot; {process.tail(self.folder, 'console')}")

    def boot_id(self) -> str:
        """Another one each boot."""
        return self.run("cat", "/proc/sys/kernel/random/boot_id").stdout

    def _settle(self) -> None:
        if not state.poll(self._is_reachable, _BOOT_SECONDS, every=0.2) or not self.running:
            raise RuntimeError(f"node {self.name} did not boot; {process.tail(self.folder, 'console')}")
        self.run("systemctl", "is-system-running", "--wait", check=False, timeout=_BOOT_SECONDS)

    def _is_reachable(self) -> bool:
        """Whether the one connection that all commands share is there; tries to make it."""
        if not self.running:
            return True
        socket = self.folder / _SOCKET
        if process.find("ssh", self.folder) is None:
            socket.unlink(missing_ok=True)
            process.start("ssh", self._connection(), self.folder)
        return socket.exists()

    def _connection(self) -> list[str]:
        known = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        patience = ["-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=20", "-o", "ServerAliveCountMax=6"]
        me = ["-o", "BatchMode=yes", "-i", str(vm_disk.image().identity), f"root@{self.ip}"]
        inside = ["ip", "netns", "exec", network.namespace(), "env", "-C", str(self.folder)]
        return [*inside, "ssh", "-F", "none", "-N", "-M", "-S", _SOCKET, *known, *patience, *me]

    def _leave(self, verb: str) -> None:
        """Tells systemd to; the connection may end before it says so."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.run("systemctl", verb, check=False, timeout=60)
        process.stop("ssh", self.folder, grace=0)

    def poweroff(self) -> None:
        """Shut down cleanly."""
        self._leave("poweroff")
        if not state.poll(lambda: not self.running, _BOOT_SECONDS):
            raise TimeoutError(f"node {self.name} does not power off; {process.tail(self.folder, 'console')}")
        self.kill()

    def kill(self) -> None:
        """Cut the power: what the machine has not synced is lost."""
        process.stop("console", self.folder, grace=0)
        process.stop("ssh", self.folder, grace=0)
        (self.folder / _SOCKET).unlink(missing_ok=True)

    def wait_ready(self, timeout: float = 600) -> None:
        """Until the cluster says that the node is Ready."""
        super().wait_ready(timeout)

    def dismantle(self) -> None:
        """`destroy`, without a look at what else may go."""
        self.kill()
        vm_qemu.detach(self.index)
        super().dismantle()


@contextlib.contextmanager
def emulated(*, kubernetes: bool = True, kubelet_config: str = "") -> Iterator[Vm]:
    """A machine for the length of a `with`: booted, and Ready if it is a Kubernetes node."""
    node = Vm.create(kubernetes=kubernetes, kubelet_config=kubelet_config)
    try:
        node.boot()
        if kubernetes:
            node.wait_ready()
        yield node
    finally:
        node.destroy()
