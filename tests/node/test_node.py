"""The disposable node is a machine: it boots, serves pods, loses power, and goes without a trace."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.node import images, network, snapshot, state, warden
from tests.node.control_plane import ControlPlane
from tests.node.node import Node

pytestmark = pytest.mark.node

_REPOSITORY = Path(__file__).parents[2]
_PROBE = f"""
apiVersion: apps/v1
kind: DaemonSet
metadata: {{ name: probe, namespace: kube-system }}
spec:
  selector: {{ matchLabels: {{ app: probe }} }}
  template:
    metadata: {{ labels: {{ app: probe }} }}
    spec:
      hostPID: true
      nodeSelector: {{ probe: "yes" }}
      tolerations: [{{ operator: Exists }}]
      terminationGracePeriodSeconds: 1
      containers:
      - name: probe
        image: {images.BUSYBOX}
        securityContext: {{ privileged: true }}
        command: [sh, -c, 'nsenter -t 1 -m -u -i -n -p -- systemctl is-active kubelet; exec sleep 10000']
"""


def _traces(name: str) -> list[str]:
    """Whatever on this machine still bears the node's name."""
    found = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if name in line]
    found += [str(f) for f in Path("/run/netns").glob(f"*{name}*")]
    found += [str(f) for f in Path("/sys/fs/cgroup").rglob(f"*{name}*")]
    found += [str(f) for f in Path("/run/systemd/nspawn").glob(f"*/{name}")]
    found += [str(f) for f in (state.run_dir() / "nodes").glob(name)]
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if name.encode() in line.read_bytes():
                found.append(str(line))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_systemd_runs_and_apt_works(bare_node: Node) -> None:
    assert bare_node.run("systemctl", "is-system-running").stdout == "running\n"
    assert bare_node.run("systemctl", "is-active", "containerd").stdout == "active\n"
    assert bare_node.run("systemctl", "is-active", "kubelet", check=False).stdout == "inactive\n"
    assert (bare_node.root / "etc/hostname").read_text() == f"{bare_node.name}\n"
    bare_node.run("apt-get", "update", "-q")
    assert "Installed: (none)" in bare_node.run("apt-cache", "policy", "rsync").stdout


def test_a_privileged_pod_of_a_daemonset_reaches_the_hosts_systemd(cluster: ControlPlane, node: Node) -> None:
    cluster.kubectl("label", "node", node.name, "probe=yes")
    cluster.kubectl("apply", "-f", "-", input=_PROBE)
    try:
        cluster.kubectl("-n", "kube-system", "rollout", "status", "daemonset/probe", "--timeout=60s")
        logs = cluster.kubectl("-n", "kube-system", "logs", "daemonset/probe").stdout
    finally:
        cluster.kubectl("-n", "kube-system", "delete", "daemonset", "probe", "--wait=false")
    assert logs == "active\n"


@pytest.mark.parametrize("layout", ["instance-config", "seed"])
def test_other_layouts_of_the_kubelets_files_become_ready_too(
    cluster: ControlPlane, new_node: Callable[..., Node], layout: str
) -> None:
    made = new_node(layout=layout)
    runtime = cluster.get("node", made.name)["status"]["nodeInfo"]["containerRuntimeVersion"]
    assert runtime.startswith("containerd://")


def test_a_power_cut_and_a_shutdown_keep_the_disk(bare_node: Node) -> None:
    first = bare_node.run("cat", "/proc/1/stat").stdout.split()[21]
    bare_node.write("/etc/kept", "this\n", 0o600)
    bare_node.kill()
    assert not bare_node.running
    bare_node.boot()
    bare_node.poweroff()
    assert not bare_node.running
    bare_node.boot()
    assert bare_node.run("stat", "-c", "%a", "/etc/kept").stdout == "600\n"
    assert bare_node.run("cat", "/etc/kept").stdout == "this\n"
    assert bare_node.run("cat", "/proc/1/stat").stdout.split()[21] != first


def test_a_kubernetes_node_is_ready_again_after_a_power_cut(cluster: ControlPlane, node: Node) -> None:
    node.kill()
    node.boot()
    node.wait_ready()
    assert node.run("systemctl", "is-active", "kubelet").stdout == "active\n"


def test_a_snapshot_equals_itself_and_sees_what_changes(bare_node: Node) -> None:
    before = snapshot.take(bare_node)
    assert len(before.paths) > 5000
    assert snapshot.compare(before, snapshot.take(bare_node)) == []
    bare_node.run("chmod", "600", "/etc/fstab")
    bare_node.run("mkdir", "-p", "/srv/new/folder")
    bare_node.run("rm", "/etc/debian_version")
    bare_node.run("sh", "-c", "echo 1 >>/etc/login.defs")
    bare_node.run("systemctl", "stop", "containerd")
    bare_node.run("apt-mark", "auto", "socat")
    differences = [" ".join(line.split()[:2]) for line in snapshot.compare(before, snapshot.take(bare_node))]
    assert differences == [
        "missing /etc/debian_version:",
        "changed /etc/fstab:",
        "changed /etc/login.defs:",
        "added /srv/new:",
        "changed /var/lib/apt/extended_states:",
        "package socat:",
        "unit containerd.service:",
    ]


def test_packages_that_apt_purges_leave_nothing_a_snapshot_sees(bare_node: Node) -> None:
    before = snapshot.take(bare_node)
    bare_node.run("apt-get", "update", "-q")
    bare_node.run("apt-get", "install", "-yq", "conmon", "rsync", "fuse3")
    assert "package rsync: absent" in "\n".join(snapshot.compare(before, snapshot.take(bare_node)))
    bare_node.run("apt-get", "purge", "-yq", "--auto-remove", "conmon", "rsync", "fuse3")
    assert snapshot.compare(before, snapshot.take(bare_node)) == []


def test_nodes_fetch_what_a_test_serves_at_the_gateway(bare_node: Node) -> None:
    with network.listen() as server:
        address = f"{network.GATEWAY}/{server.getsockname()[1]}"
        bare_node.run("bash", "-c", f"echo hello >/dev/tcp/{address}")
        with server.accept()[0] as connection:
            assert connection.recv(100) == b"hello\n"


def test_destroy_leaves_nothing_on_the_machine(machine: None) -> None:
    made = Node.create(kubernetes=False)
    made.boot()
    assert _traces(made.name)
    made.destroy()
    assert _traces(made.name) == []


def test_the_node_of_a_process_that_was_killed_is_reaped(machine: None) -> None:
    code = (
        "from tests.node.node import Node\nn = Node.create(kubernetes=False)\nn.boot()\n"
        "print(n.name, flush=True)\nimport signal\nsignal.pause()"
    )
    argv = [sys.executable, "-c", code]
    with subprocess.Popen(argv, cwd=_REPOSITORY, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        name = owner.stdout.readline().strip()
        assert state.owned(state.run_dir() / "nodes" / name)
        os.kill(owner.pid, signal.SIGKILL)
    # the warden may be quicker, and that is as well
    warden.reap()
    assert _traces(name) == []


def test_crio_takes_images_that_are_put_into_its_store(bare_node: Node) -> None:
    bare_node.load_image_for_crio(images.busybox())
    stored = bare_node.run("find", "/var/lib/containers/storage/overlay-images", "-name", "images.json")
    assert images.BUSYBOX in bare_node.run("cat", stored.stdout.strip()).stdout
