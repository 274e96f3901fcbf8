"""The whole job as an operator does it: label, `kubectl apply -k`, wait; by the manifests and the built image."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.components import cache
from tests.node import images, state
from tests.node.control_plane import ControlPlane
from tests.node.node import Node

REPOSITORY = Path(__file__).parent.parent
MANIFESTS = REPOSITORY / "k8s-manifests"
STATE = "/var/lib/sysbox-deploy"
_SECONDS = 300
_RESTARTS = 2  # one is the switch's


def installer(node: Node, settings: dict[str, str], *argv: str) -> subprocess.CompletedProcess[str]:
    """Runs the program from the checkout on the node."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith("SYSBOX_")}
    return subprocess.run(
        [sys.executable, "-m", "installer", "--init", str(node.init_pid), *argv],
        cwd=REPOSITORY,
        env={**ours, **settings},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def build_image() -> Path:
    """The archive of the image, as `make image` builds it."""
    with cache.locked(cache.root() / "image.lock"):
        done = subprocess.run(["make", "image"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"`make image` failed: {(done.stdout + done.stderr)[-3000:]}")
    return REPOSITORY / "build/sysbox-deploy.tar"


@dataclass
class Operator:
    """Somebody with kubectl and a copy of the manifests, whose settings and image he may write into it."""

    cluster: ControlPlane
    node: Node
    profile: str
    manifests: Path
    applied: list[str] = field(default_factory=list)

    def label(self) -> None:
        """Labels the node for the profile's pods."""
        self.cluster.kubectl("label", "node", self.node.name, f"{self.profile}-install=yes")

    def daemonset(self, job: str) -> str:
        """The name of a job's DaemonSet."""
        return f"{self.profile}-{'deploy' if job == 'install' else 'cleanup'}-k8s"

    def configure(self, settings: dict[str, str]) -> None:
        """Writes settings to where the README says."""
        file = self.manifests / "config/settings.yaml"
        document = yaml.safe_load(file.read_text())
        document["data"] |= settings
        file.write_text(yaml.safe_dump(document))

    def use(self, image: str) -> None:
        """Writes the image's name to where the README says."""
        file = self.manifests / "daemonset/kustomization.yaml"
        document = yaml.safe_load(file.read_text())
        document["images"][0]["newName"], document["images"][0]["newTag"] = image.rsplit(":", 1)
        file.write_text(yaml.safe_dump(document))

    def apply(self, job: str) -> None:
        """`kubectl apply -k`."""
        self.applied.append(job)
        self.cluster.kubectl("apply", "-k", str(self.manifests / self.profile / job))

    def delete(self, job: str) -> None:
        """`kubectl delete -k`."""
        self.cluster.kubectl(
            "delete", "-k", str(self.manifests / self.profile / job), "--ignore-not-found", timeout=_SECONDS
        )
        self.applied.remove(job)

    def wait(self, job: str) -> None:
        """`kubectl rollout status`; where it does not get there, the error tells the whole story."""
        argv = ("rollout", "status", "-n", "kube-system", f"daemonset/{self.daemonset(job)}", "--timeout=10s")
        deadline = time.monotonic() + _SECONDS
        while (done := self.cluster.kubectl(*argv, check=False)).returncode:
            again = [
                one["restartCount"] for pod in self.pods(job) for one in pod["status"].get("containerStatuses", [])
            ]
            if time.monotonic() > deadline or max(again, default=0) > _RESTARTS:
                raise AssertionError(f"{job} did not end: {done.stdout}{done.stderr}\n{self.story(job)}")

    def do(self, job: str) -> None:
        """Applies and waits."""
        self.apply(job)
        self.wait(job)

    def pods(self, job: str) -> list[dict[str, Any]]:
        """The job's pods on the node."""
        found = self.cluster.get(
            *("pods", "-n", "kube-system", "-l", f"app.kubernetes.io/name={self.daemonset(job)}"),
            f"--field-selector=spec.nodeName={self.node.name}",
        )
        return list(found["items"])

    def pod(self, job: str) -> dict[str, Any]:
        """The job's one pod on the node."""
        (one,) = self.pods(job)
        return one

    def container(self, job: str) -> dict[str, Any]:
        """The status of its pod's container."""
        (one,) = self.pod(job)["status"]["containerStatuses"]
        return dict(one)

    def log(self, job: str) -> str:
        """What its pod printed."""
        return self.cluster.kubectl("logs", "-n", "kube-system", self.pod(job)["metadata"]["name"]).stdout

    def story(self, job: str) -> str:
        """Everything that explains a failure."""
        told = [self.cluster.kubectl("describe", "node", self.node.name, check=False).stdout]
        for pod in self.pods(job):
            name = pod["metadata"]["name"]
            told += [json.dumps(pod["status"].get("containerStatuses"), indent=1)]
            told += [self.cluster.kubectl("logs", "-n", "kube-system", name, check=False).stdout]
        told.append(self.node.run("cat", f"{STATE}/switch/log", check=False).stdout)
        for unit in ("crio", "kubelet"):
            told.append(self.node.run("journalctl", "-u", unit, "-n", "25", "--no-pager", check=False).stdout)
        return "\n".join(told)


@contextmanager
def operator(cluster: ControlPlane, node: Node, profile: str, folder: Path) -> Iterator[Operator]:
    """An operator whose objects go when the test ends, however it does. One at a time: their names are fixed."""
    with cache.locked(state.run_dir() / f"manifests-{profile}.lock"):
        manifests = folder / "k8s-manifests"
        shutil.copytree(MANIFESTS, manifests)
        made = Operator(cluster, node, profile, manifests)
        # what a test that was killed has left
        for job in ("install", "cleanup"):
            cluster.kubectl("delete", "-k", str(manifests / profile / job), "--ignore-not-found", "--wait=false")
        try:
            yield made
        finally:
            for job in list(made.applied):
                cluster.kubectl("delete", "-k", str(manifests / profile / job), "--ignore-not-found", "--wait=false")


def renamed(archive: Path, name: str, folder: Path) -> Path:
    """The same image under another name."""
    made = folder / "renamed.tar"
    with tarfile.open(archive) as old, tarfile.open(made, "w") as new:
        for member in old:
            content = old.extractfile(member)
            if member.name == "index.json" and content:
                index = json.load(content)
                for manifest in index["manifests"]:
                    manifest["annotations"]["org.opencontainers.image.ref.name"] = name
                data = json.dumps(index).encode()
                member.size, content = len(data), io.BytesIO(data)
            new.addfile(member, content)
    return made


def bystanders(node: Node, name: str, replicas: int = 3) -> str:
    """A Deployment on the node of an image that no registry has, as YAML."""
    return f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: {name} }}
spec:
  replicas: {replicas}
  selector: {{ matchLabels: {{ app: {name} }} }}
  template:
    metadata: {{ labels: {{ app: {name} }} }}
    spec:
      nodeSelector: {{ kubernetes.io/hostname: {node.name} }}
      terminationGracePeriodSeconds: 1
      containers:
      - {{ name: main, image: {images.BUSYBOX}, command: [sleep, "100000"] }}
"""


def sysbox_pod(node: Node, name: str) -> str:
    """The README's Sysbox pod, with an image that the node has, as YAML."""
    return f"""
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  annotations: {{ io.kubernetes.cri-o.userns-mode: "auto:size=65536" }}
spec:
  runtimeClassName: sysbox-runc
  nodeSelector: {{ kubernetes.io/hostname: {node.name} }}
  terminationGracePeriodSeconds: 1
  containers:
  - {{ name: main, image: {images.BUSYBOX}, command: [sleep, "100000"] }}
"""


def journal(node: Node) -> list[dict[str, Any]]:
    """The records of the node's journal."""
    lines = node.run("cat", f"{STATE}/journal").stdout.splitlines()
    return [json.loads(line.partition(" ")[2]) for line in lines]


def services(node: Node) -> str:
    """Every service and timer that runs: which process it is, and since when."""
    shown = "--property=Id,MainPID,ActiveEnterTimestampMonotonic,NRestarts,InvocationID"
    kinds = ("--type=service,timer", "--state=active", "--no-legend", "--plain")
    units = [line.split()[0] for line in node.run("systemctl", "list-units", *kinds).stdout.splitlines()]
    return node.run("systemctl", "show", shown, *units).stdout


def kubelet_arguments(node: Node) -> list[str]:
    """The running kubelet's own."""
    pid = node.run("systemctl", "show", "--property=MainPID", "--value", "kubelet").stdout.strip()
    return node.run("cat", f"/proc/{pid}/cmdline").stdout.split("\0")[:-1]


def memory_kib(node: Node, container: str) -> dict[str, int]:
    """The resident memory of each process of a container of CRI-O's, by name and id."""
    pid = json.loads(node.run("crictl", "inspect", container).stdout)["info"]["pid"]
    # hybrid or unified, one line names the container's own group
    group = node.run("cat", f"/proc/{pid}/cgroup").stdout
    mine = next(line.split(":", 2)[2] for line in group.splitlines() if container in line)
    found = {}
    for status in Path(f"{node.root}/proc").glob("[0-9]*/status"):
        try:
            if mine not in (status.parent / "cgroup").read_text():
                continue
            text = status.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        said = dict(re.findall(r"^(Name|Pid|VmRSS):\s+(\S+)", text, re.MULTILINE))
        found[f"{said['Name']} {said['Pid']}"] = int(said.get("VmRSS", 0))
    return found
