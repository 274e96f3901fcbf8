"""What makes a Debian machine a node of the cluster: certificate, kubelet's configuration, pod network."""

import base64
import json
from collections.abc import Callable
from datetime import datetime

from tests.node import kubernetes_files, network, state
from tests.node.control_plane import ControlPlane
from tests.node.disk import Disk

# when kubeadm wrote it, it was named after the moment
_CERTIFICATE = "/var/lib/kubelet/pki/kubelet-client-2026-11-22-00-00-00.pem"
_SOCKET = "kubeadm.alpha.kubernetes.io/cri-socket"


def lay(disk: Disk, cluster: ControlPlane, name: str, index: int) -> None:
    """What `kubeadm join` leaves behind, and the enabled kubelet."""
    if not cluster.running:
        raise RuntimeError(
            "a Kubernetes node needs a cluster to join: `ControlPlane().up()` first, or kubernetes=False"
        )
    pki = cluster.pki
    pki.client(f"node-{name}", f"system:node:{name}", "system:nodes")
    disk.put(_CERTIFICATE, pki.take(f"node-{name}"), 0o600)
    disk.link("/var/lib/kubelet/pki/kubelet-client-current.pem", _CERTIFICATE)
    authority = (pki.folder / "ca.crt").read_text()
    disk.put("/etc/kubernetes/pki/ca.crt", authority)
    encoded = base64.b64encode(authority.encode()).decode()
    disk.put("/etc/kubernetes/kubelet.conf", kubernetes_files.kubelet_conf(cluster.server, encoded), 0o600)
    disk.put("/etc/cni/net.d/10-cluster.conflist", kubernetes_files.conflist(network.pods(index)))
    unit = "/usr/lib/systemd/system/kubelet.service"
    disk.link("/etc/systemd/system/multi-user.target.wants/kubelet.service", unit)


def wait_ready(cluster: ControlPlane, name: str, since: float, timeout: float, why_not: Callable[[], str]) -> None:
    """Until the node says that it is ready, and has said so since it booted; annotated as kubeadm does."""
    node = f"node/{name}"
    said = ""

    def ready() -> bool:
        nonlocal said
        asked = cluster.kubectl("get", node, "-o", "json", check=False)
        if asked.returncode:
            said = asked.stderr.strip()
            return False
        about = json.loads(asked.stdout)
        if _SOCKET not in about["metadata"].get("annotations", {}):
            cluster.kubectl("annotate", node, f"{_SOCKET}=unix:///var/run/containerd/containerd.sock")
        condition = next((c for c in about["status"].get("conditions", []) if c["type"] == "Ready"), None)
        said = str(condition)
        # a node that went without a word is still called Ready for a while
        return condition is not None and condition["status"] == "True" and _moment(condition) >= int(since)

    if not state.poll(ready, timeout, every=0.2):
        raise RuntimeError(f"node {name} is not Ready after {timeout:.0f} s: {said}; its kubelet: {why_not()}")


def _moment(condition: dict[str, str]) -> float:
    return datetime.fromisoformat(condition["lastHeartbeatTime"]).timestamp()


def forget(cluster: ControlPlane, name: str) -> None:
    """Take the node, and pods that nobody will end any more, out of the cluster, if there still is one."""
    if not cluster.running:
        return
    cluster.kubectl("delete", "node", name, "--ignore-not-found", "--wait=false", check=False)
    listed = cluster.kubectl("get", "pods", "-A", "-o", "json", f"--field-selector=spec.nodeName={name}", check=False)
    if listed.returncode:
        return
    for pod in json.loads(listed.stdout)["items"]:
        about = pod["metadata"]
        force = ["--force", "--grace-period=0", "--wait=false", "--ignore-not-found"]
        cluster.kubectl("delete", "pod", "-n", about["namespace"], about["name"], *force, check=False)
