"""The disposable node: Debian under its own systemd, in seconds, with a kubelet on containerd if asked."""

import contextlib
import json
import os
import secrets
import shlex
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from tests import components
from tests.node import cgroups, debian, join, network, nspawn, prepare, process, rootfs, state, warden
from tests.node.control_plane import ControlPlane
from tests.node.disk import Disk

ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "TERM": "dumb",
}
_POWER_OFF = signal.SIGRTMIN + 4  # systemd(1)
_NODES = 200  # addresses, and pod subnets, that the network has


class Node:
    """One node, running or off, known by its folder. Make one with `Node.create`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name
        about = json.loads((folder / "node.json").read_text())
        self.index: int = about["index"]
        self.kubernetes: bool = about["kubernetes"]
        self.minor: str = about["minor"]
        self.layout: str = about["layout"]
        self.ip = network.address(self.index)
        self.disk = Disk(folder / "disk", [Path(layer) for layer in about["layers"]])
        self.cgroups = [Path(group) for group in about["cgroups"]]
        self.namespace = f"{state.tag()}-{self.name}"

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
    ) -> "Node":
        """A node that has not booted yet. With `kubernetes` a control plane must be up when it boots.

        Without, it has the same files, but the kubelet is not enabled. `kubelet_config` is YAML to add to its
        configuration. `kept` nodes outlive this process.
        """
        layers = [rootfs.kubernetes(minor, layout), rootfs.base()]
        if store is None:
            store = rootfs.store()
        warden.reap()
        with state.lock():
            network.up(debian.apt_hosts())
            folder = reserve(
                name, kept, kubernetes=kubernetes, layout=layout, minor=minor, layers=list(map(str, layers))
            )
        warden.watch()
        node = cls(folder)
        node.disk.create(store)
        node._identify()
        if kubelet_config:
            config = "/var/lib/kubelet/config.yaml"
            node.disk.put(config, (layers[0] / config[1:]).read_text() + kubelet_config)
        if kubernetes:
            join.lay(node.disk, ControlPlane(), node.name, node.index)
        return node

    @classmethod
    def find(cls, name: str) -> "Node":
        """The node of that name, whoever made it."""
        folder = state.run_dir() / "nodes" / name
        if not (folder / "node.json").exists():
            raise LookupError(
                f"there is no node {name}; there are: {', '.join(f.name for f in warden.nodes()) or 'none'}"
            )
        return warden.node(folder)

    def _identify(self) -> None:
        self.disk.put("/etc/hostname", f"{self.name}\n")
        # without one it would be a first boot, in which systemd applies its presets to every unit
        self.disk.put("/etc/machine-id", f"{uuid.uuid4().hex}\n", 0o444)
        self.disk.put("/etc/hosts", f"127.0.0.1 localhost\n{self.ip} {self.name}\n")

    @property
    def init_pid(self) -> int:
        """The id, on this machine, of the node's first process."""
        pid = self._find_init()
        if pid is None:
            raise RuntimeError(f"node {self.name} does not run; {process.tail(self.folder, 'console')}")
        return pid

    @property
    def running(self) -> bool:
        return self._find_init() is not None

    @property
    def root(self) -> Path:
        """The node's file tree while it runs. Its absolute symbolic links resolve on this machine, though."""
        return Path(f"/proc/{self.init_pid}/root")

    @contextlib.contextmanager
    def tree(self) -> Iterator[Path]:
        """The running node's file tree, to be read."""
        yield self.root

    def _find_init(self) -> int | None:
        outer = process.find("console", self.folder)
        if outer is None:
            return None
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split():
                if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                    return int(child)
        return None

    def run(
        self, *argv: str, check: bool = True, input: str | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as root in all of the node's namespaces, as a privileged pod with hostPID can."""
        done = subprocess.run(
            # the inner timeout ends what runs on the node; ending nsenter alone would leave it behind
            self.enter("timeout", "--signal=KILL", f"{timeout}", *argv),
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout + 10,
            check=False,
        )
        if check and done.returncode:
            output = (done.stdout + done.stderr).strip()[-3000:]
            raise RuntimeError(f"on node {self.name}, `{shlex.join(argv)}` failed ({done.returncode}): {output}")
        return done

    def enter(self, *argv: str) -> list[str]:
        """The command that runs argv on the node from this machine."""
        namespaces = ["-m", "-u", "-i", "-n", "-p", "-C", "--root", "--wd"]
        variables = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        return ["nsenter", "-t", str(self.init_pid), *namespaces, "--", "env", "-i", *variables, *argv]

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file on the running node, its folders made as needed."""
        script = 'mkdir -p "$(dirname "$0")" && cat >"$0" && chmod "$1" "$0"'
        self.run("sh", "-c", script, path, f"{mode:o}", input=text)

    def put(self, source: Path, path: str, mode: int = 0o755) -> None:
        """Copy a file of this machine onto the running node."""
        script = 'mkdir -p "$(dirname "$0")" && cat >"$0" && chmod "$1" "$0"'
        with source.open("rb") as stream:
            subprocess.run(self.enter("sh", "-c", script, path, f"{mode:o}"), stdin=stream, check=True)

    def load_image(self, archive: Path) -> None:
        """An OCI archive's images for containerd's pods."""
        with archive.open("rb") as stream:
            argv = self.enter("ctr", "-n", "k8s.io", "images", "import", "-")
            done = subprocess.run(argv, stdin=stream, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"containerd on {self.name} refused {archive}: {done.stderr.strip()}")

    def load_image_for_crio(self, archive: Path) -> None:
        """An OCI archive's images for CRI-O's pods, written into its store from this machine."""
        stores = self.disk.folder / "containers"
        with tempfile.TemporaryDirectory() as scratch:
            place = ["--root", f"{stores}/storage", "--runroot", scratch, "--storage-driver", "overlay"]
            argv = ["buildah", *place, "pull", "--quiet", f"oci-archive:{archive}"]
            # overlay's own mounts, made on the way, stay in a namespace that ends with it
            done = subprocess.run(["unshare", "--mount", *argv], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"`{shlex.join(argv)}` failed: {done.stderr.strip()}")

    def boot(self) -> None:
        """Boot the disk; back when systemd has started everything."""
        if self.running:
            raise RuntimeError(f"node {self.name} runs already")
        cgroups.make(self.cgroups)
        network.attach(self.index, self.namespace)
        if self.kubernetes:
            network.service_address_to_api(self.namespace)
        process.start("console", nspawn.command(self.name, self.namespace, self.disk, self.cgroups), self.folder)
        if not state.poll(self._is_settled, 60, every=0.05) or not self.running:
            raise RuntimeError(f"node {self.name} did not boot; {process.tail(self.folder, 'console')}")

    def _is_settled(self) -> bool:
        if process.find("console", self.folder) is None:
            return True
        if self._find_init() is None:
            return False
        asked = self.run("systemctl", "is-system-running", check=False)
        return asked.stdout.strip() in ("running", "degraded")

    def poweroff(self) -> None:
        """Shut down cleanly."""
        os.kill(self.init_pid, _POWER_OFF)
        if not state.poll(lambda: process.find("console", self.folder) is None, 90):
            raise TimeoutError(f"node {self.name} does not power off; {process.tail(self.folder, 'console')}")
        self.kill()

    def kill(self) -> None:
        """Cut the power: everything on the node ends at once. (What it has written stays, synced or not.)"""
        init = self._find_init()
        if init is not None:
            # with the first process of a process namespace, the kernel ends all others in it
            with contextlib.suppress(ProcessLookupError):
                os.kill(init, signal.SIGKILL)
            state.poll(lambda: process.find("console", self.folder) is None, 10, every=0.02)
        process.stop("console", self.folder, grace=0)
        # nspawn removes it only when it ends by itself, and only from a tmpfs
        with contextlib.suppress(OSError):
            os.rmdir(f"/run/systemd/nspawn/propagate/{self.name}")

    def wait_ready(self, timeout: float = 120) -> None:
        """Until the cluster says that the node is Ready."""
        join.wait_ready(ControlPlane(), self.name, self._started_at(), timeout, self.why_not)

    def _started_at(self) -> float:
        return (self.folder / "console.pid").stat().st_mtime

    def why_not(self) -> str:
        """For an error message: the end of the kubelet's log."""
        if not self.running:
            return process.tail(self.folder, "console")
        return self.run("journalctl", "-u", "kubelet", "-n", "20", "--no-pager", "-o", "cat", check=False).stdout

    def destroy(self) -> None:
        """Nothing of it stays: process, mount, namespace, control group, file, or Node object."""
        self.dismantle()
        warden.reap()

    def dismantle(self) -> None:
        """`destroy`, without a look at what else may go."""
        self.kill()
        cgroups.remove(self.cgroups)
        network.detach(self.index, self.namespace)
        if self.kubernetes:
            join.forget(ControlPlane(), self.name)
        self.disk.remove()
        (self.folder / "node.json").unlink(missing_ok=True)
        for file in sorted(self.folder.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        self.folder.rmdir()


def reserve(name: str | None, kept: bool, **about: object) -> Path:
    """A folder with a free index and an owner. The caller holds the lock."""
    home = state.run_dir() / "nodes"
    taken = {Node(folder).index for folder in warden.nodes()}
    index = next(i for i in range(1, _NODES) if i not in taken)
    # an index comes round again, and with it a name must not: the cluster may still know its last bearer
    folder = home / (name or f"node-{index}-{secrets.token_hex(2)}")
    if folder.exists():
        raise FileExistsError(f"there is a node {folder.name} already")
    state.claim(folder, kept)
    groups = [str(group) for group in cgroups.paths(f"{state.tag()}-{folder.name}")]
    state.save(folder / "node.json", {"index": index, "cgroups": groups, **about})
    return folder


@contextlib.contextmanager
def disposable(
    name: str | None = None,
    *,
    kubernetes: bool = True,
    layout: str = "kubeadm",
    minor: str = components.MINOR,
    kubelet_config: str = "",
) -> Iterator[Node]:
    """A node for the length of a `with`: booted, and Ready if it is a Kubernetes node."""
    prepare.machine()
    node = Node.create(name, kubernetes=kubernetes, layout=layout, minor=minor, kubelet_config=kubelet_config)
    try:
        node.boot()
        if kubernetes:
            node.wait_ready()
        yield node
    finally:
        node.destroy()
