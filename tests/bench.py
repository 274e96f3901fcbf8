"""`make bench`: what the program costs, beside the bare commands in the same run; numbers into build/bench.json."""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from installer.cluster.connect import connect
from installer.cluster.node import Node as Seen
from tests import supply
from tests.node import images
from tests.node import node as nodes
from tests.node.control_plane import ControlPlane
from tests.node.node import Node

ROOT = Path(__file__).parents[1]
OUT = ROOT / "build" / "bench.json"
PODS = 10
CRIO, CONTAINERD = "unix:///run/crio/crio.sock", "unix:///run/containerd/containerd.sock"
NOOPS = 3
BARE_MOVES = 1
AIMS = {
    "noop_cpu_seconds": 1.0,
    "noop_peak_mib": 64.0,
    "idle_mib": 2.0,
    "api_requests_install": 12.0,
    "install_over_bare": 1.15,
    "switch_outage_over_bare": 1.3,
}


@dataclass(frozen=True)
class Run:
    """A finished run: seconds of wall and CPU (its children's included), peak memory in MiB, its log's events."""

    wall: float
    cpu: float
    peak_mib: float
    events: list[dict[str, Any]]


def main() -> int:
    """Measures everything; returns 0."""
    numbers: dict[str, float] = {}
    cluster = ControlPlane()
    cluster.up()
    try:
        with nodes.disposable() as node, pods(cluster, node):
            settings = environment(cluster, node)
            plan = json.loads(installer(settings, "plan", "--json", out=True))
            say("an install, with ten pods on the node")
            began = time.time()
            installed = run(settings, "install", "--once")
            numbers["switch_outage_seconds"] = outage(cluster, node, began)
            numbers["install_seconds"] = installed.wall
            numbers["api_requests_install"] = installed.events[-1]["api_requests"]
            numbers |= noop(settings)
            numbers["idle_mib"] = idle(settings)
            say("the same move by hand")
            by_hand = [move_by_hand(cluster, node) for _ in range(BARE_MOVES)]
            numbers["bare_outage_seconds"] = sorted(by_hand)[len(by_hand) // 2]
        say("the same host commands, bare, on a fresh node")
        with nodes.disposable() as node, pods(cluster, node):
            environment(cluster, node)
            numbers["bare_seconds"] = bare(node, plan["changes"])
    finally:
        cluster.down()
    numbers["install_over_bare"] = numbers["install_seconds"] / numbers["bare_seconds"]
    numbers["switch_outage_over_bare"] = numbers["switch_outage_seconds"] / numbers["bare_outage_seconds"]
    report(numbers)
    return 0


def environment(cluster: ControlPlane, node: Node) -> dict[str, str]:
    """The settings of a run on the node, and what tells us where it is."""
    return {
        **supply.prepare().give(node),
        "NODE_NAME": node.name,
        "KUBECONFIG": str(cluster.kubeconfig),
        "SYSBOX_DEPLOY_HOST_INIT": str(node.init_pid),
        "SYSBOX_DEPLOY_LOG_FORMAT": "json",
    }


def installer(settings: dict[str, str], *argv: str, out: bool = False) -> str:
    """What the program prints."""
    done = subprocess.run(command(*argv), env={**os.environ, **settings}, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{argv} failed: {done.stderr[-3000:]}")
    return done.stdout if out else done.stderr


def run(settings: dict[str, str], *argv: str) -> Run:
    """Runs and measures the program."""
    start = time.monotonic()
    child = subprocess.Popen(
        command(*argv), env={**os.environ, **settings}, cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert child.stderr
    said = child.stderr.read()
    _, status, used = os.wait4(child.pid, 0)
    wall = time.monotonic() - start
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"{argv} failed: {said[-3000:]}")
    events = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    return Run(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, events)


def command(*argv: str) -> list[str]:
    """The program, from the checkout."""
    return [sys.executable, "-m", "installer", *argv]


def noop(settings: dict[str, str]) -> dict[str, float]:
    """The median of a few runs that change nothing."""
    runs = sorted((run(settings, "install", "--once") for _ in range(NOOPS)), key=lambda r: r.cpu)
    middle = runs[len(runs) // 2]
    return {"noop_cpu_seconds": middle.cpu, "noop_wall_seconds": middle.wall, "noop_peak_mib": middle.peak_mib}


def idle(settings: dict[str, str]) -> float:
    """Resident MiB of the process that waits after the job is done."""
    child = subprocess.Popen(command("install"), env={**os.environ, **settings}, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while Path(f"/proc/{child.pid}/comm").read_text().strip() != "sleep":
            if time.monotonic() > deadline or child.poll() is not None:
                raise RuntimeError("the program did not come to rest")
            time.sleep(0.05)
        status = Path(f"/proc/{child.pid}/status").read_text()
    finally:
        child.terminate()
        child.wait()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))


@contextlib.contextmanager
def pods(cluster: ControlPlane, node: Node) -> Iterator[None]:
    """Ten pods that run on the node."""
    spec = {
        "nodeName": node.name,
        "terminationGracePeriodSeconds": 1,
        "tolerations": [{"operator": "Exists"}],
        "containers": [{"name": "c", "image": images.BUSYBOX, "command": ["sleep", "100000"]}],
    }
    made = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"{node.name}-{i}"}, "spec": spec} for i in range(PODS)
    ]
    cluster.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": made}))
    wait_for_pods(cluster, node, "containerd")
    yield
    cluster.kubectl("delete", "pods", "--force", "--grace-period=0", *(p["metadata"]["name"] for p in made))  # type: ignore[index]


def wait_for_pods(cluster: ControlPlane, node: Node, runtime: str) -> float:
    """When the node was seen Ready under the runtime with all of its pods running there."""
    deadline = time.monotonic() + 180
    with Seen(node.name, connection=connect({"KUBECONFIG": str(cluster.kubeconfig)})) as seen:
        while time.monotonic() < deadline:
            now = seen.get()
            if now.ready and now.runtime_version.startswith(runtime) and running(cluster, node, runtime):
                return time.time()
            time.sleep(0.05)
    raise RuntimeError(f"the node's pods do not run under {runtime}")


def running(cluster: ControlPlane, node: Node, runtime: str) -> bool:
    """Whether all ten run, in containers of that runtime."""
    found = cluster.get("pods", f"--field-selector=spec.nodeName={node.name}")["items"]
    states = [status for pod in found for status in pod["status"].get("containerStatuses", [])]
    return len(states) == PODS and all(s["ready"] and s["containerID"].startswith(f"{runtime}:") for s in states)


def outage(cluster: ControlPlane, node: Node, began: float) -> float:
    """Seconds from the kubelet's stop until the node was Ready again and its last pod had started."""
    wait_for_pods(cluster, node, "cri-o")
    return last_start(cluster, node) - stopped(node, began)


def stopped(node: Node, began: float) -> float:
    """When the kubelet was last stopped, in seconds of the epoch."""
    said = node.run("systemctl", "show", "kubelet", "--property=ActiveExitTimestamp", "--timestamp=us+utc").stdout
    words = said.strip().partition("=")[2].split()
    when = datetime.fromisoformat(f"{words[1]}T{words[2]}").replace(tzinfo=UTC).timestamp()
    if when < began:
        raise RuntimeError("the kubelet was not stopped")
    return when


def last_start(cluster: ControlPlane, node: Node) -> float:
    """When the last of the pods' containers started, by the runtime's own nanoseconds."""
    listed = json.loads(node.run("crictl", "--runtime-endpoint", CRIO, "ps", "-o", "json").stdout)["containers"]
    starts = []
    for container in listed:
        said = json.loads(node.run("crictl", "--runtime-endpoint", CRIO, "inspect", container["id"]).stdout)
        starts.append(datetime.fromisoformat(said["status"]["startedAt"][:26].rstrip("Z") + "+00:00").timestamp())
    return max(starts)


def move_by_hand(cluster: ControlPlane, node: Node) -> float:
    """The bare minimum: there is nothing to be healthy, confirmed or undone. Seconds of outage, to CRI-O."""
    node.run("systemctl", "start", "containerd")
    by_hand(node, CRIO, CONTAINERD)
    wait_for_pods(cluster, node, "containerd")
    began = time.time()
    by_hand(node, CONTAINERD, CRIO)
    return outage(cluster, node, began)


def by_hand(node: Node, old: str, new: str) -> None:
    """Stop, end the old pods, rename, reload, start."""
    flags = f"KUBELET_EXTRA_ARGS=--container-runtime-endpoint={new}\n"
    node.write("/etc/default/kubelet.new", flags)
    node.run("systemctl", "stop", "kubelet")
    node.run("crictl", "--timeout", "60s", "--runtime-endpoint", old, "rmp", "-f", "-a")
    node.run("mv", "/etc/default/kubelet.new", "/etc/default/kubelet")
    node.run("systemctl", "daemon-reload")
    node.run("systemctl", "start", "kubelet")


def bare(node: Node, changes: list[dict[str, Any]]) -> float:
    """Seconds for the plan's commands alone: no look, no journal, no proof."""
    start = time.monotonic()
    node.run("apt-get", "update")
    for item in changes:
        for argv, stdin in commands(item["change"]):
            node.run(*argv, input=stdin, timeout=600)
    return time.monotonic() - start


def commands(change: dict[str, Any]) -> Iterator[tuple[list[str], str | None]]:
    """A change as a person would type it."""
    match change["kind"]:
        case "file":
            folder = shlex.quote(str(Path(change["path"]).parent))
            yield ["sh", "-c", f"mkdir -p {folder} && cat >{shlex.quote(change['path'])}"], change["content"]
            if change["path"].endswith(".sources"):
                yield ["apt-get", "update"], None
        case "lines":
            yield ["tee", "-a", change["path"]], "".join(f"{line}\n" for line in change["lines"])
        case "package":
            wanted = change["name"] + (f"={change['version']}" if change["version"] else "")
            yield (
                [
                    "env",
                    "DEBIAN_FRONTEND=noninteractive",
                    "apt-get",
                    "install",
                    "-y",
                    "--no-install-recommends",
                    wanted,
                ],
                None,
            )
        case "artifact":
            # dpkg-deb -x would put a folder where /lib is a link.
            unpack = f"dpkg-deb --fsys-tarfile {supply.ON_NODE}/sysbox-ce.deb | tar -x --keep-directory-symlink -C /"
            yield ["sh", "-c", unpack], None
        case "sysctl":
            yield ["sysctl", "-w", f"{change['name']}={change['value']}"], None
        case "module":
            yield ["modprobe", change["name"]], None
        case "unit" | "runtime":
            yield ["systemctl", "daemon-reload"], None
            yield ["systemctl", "enable" if change["enabled"] else "disable", "--now", change["unit"]], None
        case "switch":
            yield from switch(change)


def switch(change: dict[str, Any]) -> Iterator[tuple[list[str], str | None]]:
    """The move, and the wait for the kubelet that any person would add."""
    yield ["systemctl", "stop", "kubelet"], None
    yield ["crictl", "--timeout", "60s", "--runtime-endpoint", change["old_endpoint"], "rmp", "-f", "-a"], None
    yield ["tee", change["path"]], change["content"]
    yield ["systemctl", "daemon-reload"], None
    yield ["systemctl", "start", "kubelet"], None
    probe = "until exec 3<>/dev/tcp/127.0.0.1/10248; do sleep 0.1; done"
    yield ["bash", "-c", probe], None


def report(numbers: dict[str, float]) -> None:
    """Prints and writes the numbers."""
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({k: round(v, 3) for k, v in sorted(numbers.items())}, indent=2) + "\n")
    for name, value in sorted(numbers.items()):
        aim = f"  (aim: at most {AIMS[name]:g})" if name in AIMS else ""
        print(f"{name:28} {value:8.2f}{aim}")
    print(f"written to {OUT.relative_to(ROOT)}")


def say(text: str) -> None:
    """One line of progress."""
    print(f"bench: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
