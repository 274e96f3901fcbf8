"""The move prepared in a real cluster: nothing is pulled while pods are down, and nobody is left behind a cordon."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import oci, supply, whole
from tests.node.control_plane import ControlPlane
from tests.node.network import GATEWAY, listen
from tests.node.node import Node
from tests.oci import Blobs, Registry

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]

PASSWORD = "robot:correct horse$battery"
CONTENT = "données/héhé 日本語.txt"
_PODS = """
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: {name} }}
spec:
  replicas: 2
  selector: {{ matchLabels: {{ app: {name} }} }}
  template:
    metadata: {{ labels: {{ app: {name} }} }}
    spec:
      nodeSelector: {{ kubernetes.io/hostname: {node} }}
      terminationGracePeriodSeconds: 1
      imagePullSecrets: [{{ name: {node} }}]
      containers:
      - {{ name: main, image: "{image}", command: [/bin/busybox, sleep, "100000"] }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {{ name: {name} }}
spec: {{ minAvailable: 2, selector: {{ matchLabels: {{ app: {name} }} }} }}
"""


def busybox() -> bytes:
    program = Path("/usr/bin/busybox")
    return (program if program.exists() else Path("/bin/busybox")).read_bytes()


@pytest.fixture
def registry(machine: None) -> Iterator[Registry]:
    """One that wants a password, and has one image."""
    blobs = Blobs()
    top = blobs.image([{"bin/": b"", "bin/busybox": busybox()}, {"only-in-the-registry": b"1"}])
    with oci.serving(Registry(blobs, {"team/private:1": top["digest"]}, PASSWORD), listen()) as made:
        yield made


@pytest.fixture
def things(machine: None) -> supply.Supply:
    return supply.prepare()


def configure_containerd(node: Node, where: str) -> None:
    """A registry without TLS, by certs.d; and layers that are thrown away once they are unpacked."""
    node.write(f"/etc/containerd/certs.d/{where}/hosts.toml", f'server = "http://{where}"\n[host."http://{where}"]\n')
    text = node.run("cat", "/etc/containerd/config.toml").stdout
    plugin = '[plugins."io.containerd.grpc.v1.cri"'
    more = f'{plugin}.registry]\nconfig_path = "/etc/containerd/certs.d"\n'
    more += f"{plugin}.containerd]\ndiscard_unpacked_layers = true\n"
    node.write("/etc/containerd/config.toml", text + more)
    node.run("systemctl", "restart", "containerd")


def apply(cluster: ControlPlane, node: Node, name: str, image: str) -> None:
    cluster.kubectl("apply", "-f", "-", input=_PODS.format(name=name, node=node.name, image=image))
    cluster.kubectl("rollout", "status", f"deployment/{name}", "--timeout=90s")


def pods(cluster: ControlPlane, name: str) -> list[dict[str, Any]]:
    return list(cluster.get("pods", "-l", f"app={name}")["items"])


def pulled(cluster: ControlPlane, name: str) -> list[str]:
    """What the kubelet says that it pulled for these pods."""
    events = cluster.get("events", "--field-selector=reason=Pulling")["items"]
    return [one["message"] for one in events if one["involvedObject"]["name"].startswith(name)]


def test_the_move_is_prepared_with_every_image_and_told_before(
    cluster: ControlPlane, node: Node, registry: Registry, things: supply.Supply, tmp_path: Path
) -> None:
    where = f"{GATEWAY}:{registry.port}"
    configure_containerd(node, where)
    secret = ("create", "secret", "docker-registry", node.name, f"--docker-server={where}")
    user, _, password = PASSWORD.partition(":")
    cluster.kubectl(*secret, f"--docker-username={user}", f"--docker-password={password}")
    blobs = Blobs()
    layers = [{"bin/": b"", "bin/busybox": busybox()}, {"données/": b"", CONTENT: b"here"}, {"gone": b"x"}]
    top = blobs.image(layers)
    local = f"nowhere.invalid/{node.name}/several:1"
    node.load_image(blobs.archive(tmp_path / "local.tar", {local: top}))
    mine, theirs = f"local-{node.name}", f"private-{node.name}"
    settings = {**things.give(node), "NODE_NAME": node.name, "KUBECONFIG": str(cluster.kubeconfig)}
    settings |= {"SYSBOX_DEPLOY_SWITCH_REQUIRES_ALL_IMAGES": "true", "SYSBOX_DEPLOY_LOG_FORMAT": "json"}
    try:
        apply(cluster, node, mine, local)
        apply(cluster, node, theirs, f"{where}/team/private:1")
        plan = whole.installer(node, settings | {"SYSBOX_DEPLOY_DRAIN": "true"}, "plan", "--json", "--profile", "crio")
        said = json.loads(plan.stdout)
        check_the_outlook(said["switch"], local, f"{where}/team/private:1")
        draining = {"SYSBOX_DEPLOY_DRAIN": "true", "SYSBOX_DEPLOY_DRAIN_TIMEOUT": "3"}
        stopped = whole.installer(node, settings | draining, "install", "--once", "--profile", "crio")
        assert stopped.returncode == 1
        assert "The disruption budget" in stopped.stderr
        check_it_serves(cluster, node, "containerd")
        before = pulled(cluster, mine), pulled(cluster, theirs)
        asked = len(registry.asked)
        done = whole.installer(node, settings, "install", "--once", "--profile", "crio")
        assert done.returncode == 0, done.stderr
        check_it_serves(cluster, node, "cri-o")
        for name in (mine, theirs):
            cluster.kubectl("rollout", "status", f"deployment/{name}", "--timeout=60s")
        assert (pulled(cluster, mine), pulled(cluster, theirs)) == before
        # It was brought by the first attempt; what came of that stays.
        assert len(registry.asked) == asked
        (one, *_) = pods(cluster, mine)
        shown = cluster.kubectl("exec", one["metadata"]["name"], "--", "/bin/busybox", "cat", f"/{CONTENT}").stdout
        assert shown == "here"
        events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
        assert events[-1]["api_requests"] <= 12
        for output in (plan, stopped, done):
            assert "battery" not in output.stdout + output.stderr
            assert base64.b64encode(PASSWORD.encode()).decode() not in output.stdout + output.stderr
        assert "battery" not in node.run("cat", f"{whole.STATE}/journal").stdout
        undone = whole.installer(node, settings, "cleanup", "--once", "--profile", "crio")
        assert undone.returncode == 0, undone.stderr
        check_it_serves(cluster, node, "containerd")
    finally:
        cluster.kubectl("delete", "deployment,pdb", mine, theirs, "--ignore-not-found", "--wait=false")
        cluster.kubectl("delete", "secret", node.name, "--ignore-not-found")


def check_the_outlook(seen: dict[str, Any], local: str, private: str) -> None:
    images = {image["name"]: image for image in seen["images"]}
    assert images[local]["source"] == "containerd"
    assert images[local]["size"] > 100_000
    assert images[private] == {"name": private, "source": "registry", "size": None}
    assert len(seen["pods"]) == 4
    assert {one["pod"] for one in seen["held"]} == set(seen["pods"]) == set(seen["leaving"])
    assert all("The disruption budget" in one["why"] for one in seen["held"])
    assert all(space["free"] > space["needed"] > 0 for space in seen["spaces"])
    assert seen["outage"]["estimate"]


def check_it_serves(cluster: ControlPlane, node: Node, runtime: str) -> None:
    found = cluster.get("node", node.name)
    assert found["status"]["nodeInfo"]["containerRuntimeVersion"].startswith(runtime)
    assert not found["spec"].get("unschedulable")
    assert "sysbox-deploy/cordoned" not in found["metadata"]["annotations"]
    assert re.search("True", next(c["status"] for c in found["status"]["conditions"] if c["type"] == "Ready"))
