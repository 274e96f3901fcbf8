"""`make demo`: a disposable node prepared, shown, cleaned up, and compared with what it was."""

import os
import subprocess
import sys
import time

from tests import supply
from tests.node import node as nodes
from tests.node import snapshot
from tests.node.control_plane import ControlPlane
from tests.node.node import Node


def installer(node: Node, settings: dict[str, str], *argv: str) -> int:
    """Runs the program from the checkout on the node; its output goes where ours goes. Returns its exit status."""
    command = [sys.executable, "-m", "installer", "--init", str(node.init_pid), *argv]
    print(f"$ sysbox-deploy {' '.join(argv)}", flush=True)
    return subprocess.run(command, env={**os.environ, **settings}, check=False).returncode


def main() -> int:
    """The demonstration. Returns 0 where the node is as it was before, else 1."""
    start = time.monotonic()
    say("building or finding CRI-O, the Sysbox stand-in and their repository")
    things = supply.prepare()
    cluster = ControlPlane()
    say("starting a control plane: etcd, kube-apiserver, controller-manager, scheduler")
    cluster.up()
    try:
        say("booting a node: Debian 12, systemd, containerd, kubelet")
        with nodes.disposable() as node:
            code = show(node, cluster, things)
    finally:
        cluster.down()
    say(f"took {time.monotonic() - start:.0f} s")
    return code


def show(node: Node, cluster: ControlPlane, things: supply.Supply) -> int:
    """Install and cleanup on one node."""
    settings = {
        **things.give(node),
        "NODE_NAME": node.name,
        "KUBECONFIG": str(cluster.kubeconfig),
    }
    before = snapshot.take(node)
    for command in (["plan"], ["install", "--once"], ["status"]):
        if installer(node, settings, *command):
            return 1
    print(cluster.kubectl("get", "node", node.name, "-o", "wide", "-L", "crio-runtime,sysbox-runtime").stdout)
    if installer(node, settings, "cleanup", "--once"):
        return 1
    differs = snapshot.compare(before, snapshot.take(node))
    print("\n".join(differs) or "restored: every path, package and unit as before")
    return 1 if differs else 0


def say(text: str) -> None:
    """One line of our own."""
    print(f"demo: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
