"""Nodes that stand right before the switch of their kubelet, what happens to them, and how they are afterwards."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from installer.engine import switching
from installer.engine.cleanup import _Cleanup
from installer.engine.install import LOCK, Install
from installer.engine.report import Reporter
from installer.errors import DeployError
from installer.host import Host
from installer.journal import Journal
from installer.settings import Settings
from tests import supply
from tests.components import cache
from tests.node import images, state
from tests.node.control_plane import ControlPlane
from tests.node.disk import Disk
from tests.node.node import Node

REPOSITORY = Path(__file__).parents[1]
SWITCH = "/var/lib/sysbox-deploy/switch"
CONTAINERD, CRIO = "unix:///run/containerd/containerd.sock", "unix:///run/crio/crio.sock"
REPLICAS = 2
_SECONDS = {
    "HEALTH_TIMEOUT": "12",
    "SETTLE": "2",
    "CONFIRM_TIMEOUT": "300",
    "POD_STOP_TIMEOUT": "3",
    "KUBERNETES_TIMEOUT": "20",
}
# Holds the host's program, or what starts it, before a call that a test names; nobody else on the node is held.
_GATE = f"""\
#!/bin/sh
call="$(cat {SWITCH}/state 2>/dev/null): ${{0##*/}} $*"
if [ -e /run/gate/at ] && echo "$call" | grep -qE -f /run/gate/at &&
  {{ grep -q sysbox-deploy-switch /proc/self/cgroup || echo "$call" | grep -q 'start sysbox-deploy-switch'; }}; then
  /usr/bin/mv /run/gate/at /run/gate/reached
  while [ -e /run/gate/reached ]; do sleep 0.02; done
fi
exec "/usr/bin/${{0##*/}}" "$@"
"""
_GATED = ("systemctl", "crictl", "mv", "rm")


def prepare(folder: Path) -> None:
    """A node's disk with everything installed but the kubelet's move, as layers for others."""
    things = supply.prepare()
    node = Node.create(kubernetes=False)
    try:
        node.boot()
        _install_up_to_the_switch(node, things)
        # what is installed is not fetched again
        node.run("rm", "-r", supply.ON_NODE)
        node.poweroff()
        for part in ("upper", "containers", "containerd"):
            _copy(node.disk.folder / part, folder / part)
        state.save(folder / "settings.json", things.settings)
    finally:
        node.destroy()


def _install_up_to_the_switch(node: Node, things: supply.Supply) -> None:
    given = {name.removeprefix("SYSBOX_DEPLOY_").lower(): value for name, value in things.give(node).items()}
    known = {f.name for f in dataclasses.fields(Settings)}
    settings = Settings(**{name: value for name, value in given.items() if name in known})  # type: ignore[arg-type]
    host = Host(node.init_pid)
    with host.lock(LOCK):
        report = Reporter(settings, "sysbox")
        made = Install(host, settings, "sysbox", Journal(host), report)
        made.steps = tuple(step for step in made.steps if step.name != "kubelet")
        made.run()


def _copy(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    subprocess.run(["cp", "-a", f"{source}/.", str(target)], check=True)


@contextlib.contextmanager
def prepared(folder: Path, cluster: ControlPlane) -> Iterator["Case"]:
    """A fresh node of the cluster from what `prepare` left, with pods and a container of somebody else."""
    node = Node.create(store=folder / "containerd")
    try:
        _copy(folder / "containers", node.disk.folder / "containers")
        about = json.loads((node.folder / "node.json").read_text())
        about["layers"].insert(0, str(folder / "upper"))
        state.save(node.folder / "node.json", about)
        node.disk = Disk(node.disk.folder, [Path(layer) for layer in about["layers"]])
        for name in _GATED:
            node.disk.put(f"/usr/local/sbin/{name}", _GATE, 0o755)
        node.boot()
        node.wait_ready()
        case = Case(node, cluster, json.loads((folder / "settings.json").read_text()))
        case.begin()
        yield case
    finally:
        node.destroy()


@dataclass
class Case:
    """One node, its pods, and the settings of its installs."""

    node: Node
    cluster: ControlPlane
    settings: dict[str, str]
    pods: dict[str, str] = field(default_factory=dict)
    foreign: str = ""

    def begin(self) -> None:
        """Lets the pods run, and a container that the kubelet does not own."""
        self.settings |= {
            **{f"SYSBOX_DEPLOY_{name}": value for name, value in _SECONDS.items()},
            "NODE_NAME": self.node.name,
            "KUBECONFIG": str(self.cluster.kubeconfig),
        }
        self.cluster.kubectl("apply", "-f", "-", input=_pods(self.node))
        self.start_foreign()
        self.expect("containerd")
        self.pods = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in self._pods()}

    def start_foreign(self) -> None:
        """A container in another of containerd's namespaces."""
        with images.busybox().open("rb") as stream:
            argv = self.node.enter("ctr", "-n", "other", "images", "import", "-")
            subprocess.run(argv, stdin=stream, capture_output=True, check=True)
        self.node.run("ctr", "-n", "other", "run", "-d", images.BUSYBOX, "foreign", "sleep", "99999")
        self.foreign = self.main_of_foreign()
        assert self.foreign

    def main_of_foreign(self) -> str:
        """The process in it."""
        return self.node.run("pgrep", "-fx", "sleep 99999", check=False).stdout.strip()

    def start(self, *argv: str, **settings: str) -> "subprocess.Popen[str]":
        """Starts the program from the checkout on the node; `back` is the kubelet's way back alone."""
        given = {f"SYSBOX_DEPLOY_{name}": value for name, value in settings.items()}
        ours = {k: v for k, v in os.environ.items() if not k.startswith("SYSBOX_")}
        module = "tests.switching" if argv == ("back",) else "installer"
        return subprocess.Popen(
            [sys.executable, "-m", module, "--init", str(self.node.init_pid), *argv],
            cwd=REPOSITORY,
            env={**ours, **self.settings, **given},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *argv: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Runs it to its end."""
        with self.start(*argv, **settings) as process:
            out, _ = process.communicate(timeout=300)
        return subprocess.CompletedProcess(argv, process.returncode, out)

    def install(self, **settings: str) -> None:
        """An install that succeeds."""
        done = self.run("install", "--once", **settings)
        assert done.returncode == 0, done.stdout + self.story()
        self.expect("cri-o")
        assert self.labels() == {"crio-runtime": "running", "sysbox-runtime": "running"}
        self.expect_no_traces()

    def back(self, **settings: str) -> None:
        """The kubelet's way back, as cleanup goes it, and no more of a cleanup."""
        done = self.run("back", **settings)
        assert done.returncode == 0, done.stdout + self.story()
        self.expect("containerd")
        self.expect_no_traces()

    def fails(self, *argv: str, **settings: str) -> str:
        """Runs it; it fails, and the label says so. Returns what it printed."""
        with self.start(*argv, **settings) as process:
            return self.failed(process)

    def failed(self, process: "subprocess.Popen[str]") -> str:
        """The same of one that was started."""
        out, _ = process.communicate(timeout=300)
        assert process.returncode in (1, 3), out + self.story()
        assert self.labels() == {"crio-runtime": "failed", "sysbox-runtime": "failed"}, out
        return out

    def rolls_back(self, process: "subprocess.Popen[str]", cause: str, **settings: str) -> str:
        """It ends with the node as it was, and this cause named; the same is not tried again. Returns its output."""
        out = self.failed(process)
        assert cause in out
        self.expect("containerd")
        self.expect_no_traces()
        pid = self.main_pid("kubelet")
        assert cause in self.fails("install", "--once", **settings)
        assert self.main_pid("kubelet") == pid
        return out

    def labels(self) -> dict[str, str]:
        """Ours, of the node."""
        found: dict[str, str] = self.cluster.get("node", self.node.name)["metadata"]["labels"]
        return {name: found[name] for name in ("crio-runtime", "sysbox-runtime") if name in found}

    def hold_at(self, pattern: str) -> None:
        """Has the host's program stop before its next command that matches."""
        self.node.write("/run/gate/at", pattern + "\n")

    def wait_held(self, seconds: float = 60) -> None:
        """Until it is held there."""
        self.wait("the host's program reaches the gate", lambda: self.exists("/run/gate/reached"), seconds)

    def let_go(self) -> None:
        """Lets it go on."""
        self.node.run("rm", "/run/gate/reached")

    def exists(self, path: str) -> bool:
        return os.path.lexists(f"{self.node.root}{path}")

    def state(self) -> str:
        """The state of the move, as the host has it."""
        try:
            return Path(f"{self.node.root}{SWITCH}/state").read_text().strip()
        except FileNotFoundError:
            return "none"

    def wait_state(self, wanted: str, seconds: float = 60) -> None:
        self.wait(f"the move is {wanted}", lambda: self.state() == wanted, seconds)

    def wait(self, what: str, condition: Callable[[], bool], seconds: float) -> None:
        """Until it is so; an error tells the whole story."""
        if not state.poll(condition, seconds, every=0.05):
            raise AssertionError(f"after {seconds} s it is not so that {what}\n{self.story()}")

    def story(self) -> str:
        """What explains a failure."""
        told = [self.node.run("sh", "-c", f"tail -n 60 {SWITCH}/log {SWITCH}/cause {SWITCH}/state", check=False).stdout]
        for unit in ("crio", "kubelet"):
            told.append(self.node.run("journalctl", "-u", unit, "-n", "15", "--no-pager", check=False).stdout)
        return "\n".join(told)

    def expect(self, runtime: str, seconds: float = 60) -> None:
        """The node serves on that runtime, and on no other, with every pod that it had, each once."""
        missing = ""

        def serves() -> bool:
            nonlocal missing
            missing = self._missing(runtime)
            return not missing

        if not state.poll(serves, seconds, every=0.3):
            raise AssertionError(f"not serving on {runtime} after {seconds} s: {missing}\n{self.story()}")
        assert self.foreign in ("", self.main_of_foreign()), "somebody else's container was ended"

    def _missing(self, runtime: str) -> str:
        endpoint = CRIO if runtime == "cri-o" else CONTAINERD
        if self.kubelet_endpoint() != endpoint:
            return f"the kubelet was told {self.kubelet_endpoint()}"
        node = self.cluster.get("node", self.node.name)["status"]
        if not node["nodeInfo"]["containerRuntimeVersion"].startswith(f"{runtime}://"):
            return f"the API still says {node['nodeInfo']['containerRuntimeVersion']}"
        if not any(c["type"] == "Ready" and c["status"] == "True" for c in node["conditions"]):
            return "the node is not Ready"
        pods = self._pods()
        if self.pods and {p["metadata"]["name"]: p["metadata"]["uid"] for p in pods} != self.pods:
            return "other pods than before"
        ready = [p for p in pods if _is_ready(p, runtime)]
        if len(ready) != REPLICAS:
            return f"{len(ready)} of {REPLICAS} pods run on {runtime}"
        copies = self.node.run("pgrep", "-fxc", "sleep 100000", check=False).stdout.strip()
        return "" if copies == str(REPLICAS) else f"the pods' processes run {copies} times"

    def _pods(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.cluster.get("pods", "-l", f"app={self.node.name}")["items"]
        return found

    def main_pid(self, unit: str) -> str:
        return self.node.run("systemctl", "show", "--property=MainPID", "--value", unit).stdout.strip()

    def kubelet_endpoint(self) -> str:
        """What the running kubelet was told; the last flag wins."""
        try:
            words = Path(f"{self.node.root}/proc/{self.main_pid('kubelet')}/cmdline").read_text().split("\0")
        except FileNotFoundError:
            return ""
        flag = "--container-runtime-endpoint="
        return ([word.removeprefix(flag) for word in words if word.startswith(flag)] or [""])[-1]

    def expect_no_traces(self) -> None:
        """Nothing of the move itself is left on the host."""
        found = self.node.run(
            "sh", "-c", f"ls -d {SWITCH} /etc/systemd/system/*/sysbox-deploy* /etc/systemd/system/sysbox-deploy* "
            "/etc/default/.*sysbox-deploy* /etc/systemd/system/kubelet.service.d 2>/dev/null", check=False
        )  # fmt: skip
        assert found.stdout == ""
        assert "sysbox-deploy" not in self.node.run("systemctl", "list-units", "--all", "--no-legend").stdout

    def is_active(self, unit: str) -> str:
        return self.node.run("systemctl", "is-active", unit, check=False).stdout.strip()

    def unreachable_api(self) -> str:
        """The path of a kubeconfig that leads nowhere."""
        file = self.node.folder / "unreachable.kubeconfig"
        text = self.cluster.kubeconfig.read_text()
        file.write_text(re.sub(r"https://127.0.0.1:\d+", "https://127.0.0.1:1", text))
        return str(file)

    def cut_off_from_api(self) -> None:
        """The node reaches the API no more."""
        self.node.run("iptables", "-I", "OUTPUT", "-p", "tcp", "--dport", "6443", "-j", "DROP")

    def join_api(self) -> None:
        self.node.run("iptables", "-D", "OUTPUT", "-p", "tcp", "--dport", "6443", "-j", "DROP")

    def cut_power(self) -> None:
        """Everything on the node ends at once; then it boots."""
        self.node.kill()
        self.foreign = ""
        self.node.boot()
        self.node.wait_ready()


def kill(process: "subprocess.Popen[str]") -> None:
    """Ends it with all that it has started, as a pod ends, and waits."""
    for pid in [*_descendants(process.pid), process.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


def _descendants(pid: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
        return [found for child in children for found in (*_descendants(child), child)]
    return []


def _is_ready(pod: dict[str, Any], runtime: str) -> bool:
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))
    containers = pod["status"].get("containerStatuses", [])
    return ready and all(c.get("containerID", "").startswith(f"{runtime}://") for c in containers)


def _pods(node: Node) -> str:
    return f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: {node.name} }}
spec:
  replicas: {REPLICAS}
  selector: {{ matchLabels: {{ app: {node.name} }} }}
  template:
    metadata: {{ labels: {{ app: {node.name} }} }}
    spec:
      nodeSelector: {{ kubernetes.io/hostname: {node.name} }}
      tolerations: [{{ operator: Exists }}]
      terminationGracePeriodSeconds: 1
      containers:
      - {{ name: main, image: {images.BUSYBOX}, command: [sleep, "100000"] }}
"""


@pytest.fixture(scope="session")
def switching_disk(machine: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `prepare` leaves, made once for all workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "switching"
    with cache.locked(folder.with_suffix(".lock")):
        if not (folder / "settings.json").exists():
            folder.mkdir()
            prepare(folder)
    return folder


@pytest.fixture
def case(switching_disk: Path, cluster: ControlPlane) -> Iterator[Case]:
    """A node right before the switch."""
    with prepared(switching_disk, cluster) as made:
        yield made


def _back() -> int:
    """The part of a cleanup that ends with the kubelet's move."""
    settings = Settings.load()
    host = Host(int(sys.argv[2]))
    report = Reporter(settings, "sysbox")
    with host.lock(LOCK):
        journal = Journal(host)
        try:
            switching.resume(host, journal, settings, report)
            cleanup = _Cleanup(host, settings, "sysbox", journal, report)
            for entry in reversed(journal.entries):
                if entry.step == "kubelet":
                    cleanup._undo(entry)
        except DeployError as error:
            print(error)
            report.failed(set(), error)
            return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(_back())
