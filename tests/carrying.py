"""A node on which images are carried: a real containerd's store, a real CRI-O's, and no kubelet that runs."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from installer.engine.install import Install
from installer.engine.report import Reporter
from installer.facts import reference
from installer.facts.crio import ENDPOINT as CRIO
from installer.facts.reference import Reference
from installer.facts.registries import OURS
from installer.host import FileState, Host
from installer.journal import Journal
from installer.settings import Settings
from installer.steps import ORDER
from installer.switch import images, store
from installer.switch.crio_store import CrioStore
from installer.switch.images import FromContainerd, FromCrio, Runtime
from installer.switch.keyring import Keyring
from installer.switch.store import Store
from tests import oci, supply
from tests.node import node as nodes
from tests.node.node import Node
from tests.oci import Blobs

CONTAINERD = "unix:///run/containerd/containerd.sock"
BLOBS = "/var/lib/containerd/io.containerd.content.v1.content/blobs"


@pytest.fixture(scope="module")
def carrier(machine: None) -> Iterator[Node]:
    """A node with containerd at work, and CRI-O as our steps leave it before the kubelet moves."""
    with nodes.disposable(kubernetes=False) as made, pytest.MonkeyPatch.context() as patched:
        for variable, value in supply.prepare().give(made).items():
            patched.setenv(variable, value)
        configure(Host(made.init_pid))
        yield made


@pytest.fixture
def host(carrier: Node) -> Host:
    """The door to it."""
    return Host(carrier.init_pid)


@pytest.fixture
def crio(host: Host) -> Runtime:
    """Its CRI-O."""
    return Runtime(host, "crictl", CRIO)


@pytest.fixture
def containerd(host: Host) -> Runtime:
    """Its containerd."""
    return Runtime(host, "crictl", CONTAINERD)


@pytest.fixture
def load(carrier: Node, tmp_path: Path) -> Callable[..., None]:
    """Puts images into containerd's store as `ctr images import` does."""

    def do(blobs: Blobs, **names: oci.Json) -> None:
        carrier.load_image(blobs.archive(tmp_path / "archive.tar", {full(name): top for name, top in names.items()}))

    return do


def configure(host: Host) -> None:
    """All steps of an install but the kubelet's."""
    settings = Settings.load()
    install = Install(host, settings, "crio", Journal(host), Reporter(settings, "crio"))
    install.steps = ORDER["crio"][:-1]
    install._change(*install.plan())


def full(name: str) -> str:
    """The name of an image that no registry has."""
    return f"nowhere.invalid/{name}:1"


def named(text: str) -> Reference:
    """The reference that the text is."""
    found = reference.parse(text)
    assert found
    return found


@contextlib.contextmanager
def reached_by_http(host: Host, where: str) -> Iterator[None]:
    """CRI-O is told that a registry has no TLS."""
    path = OURS.replace("90", "80")
    text = f'[[registry]]\nlocation = "{where}"\ninsecure = true\n'
    host.replace(path, text.encode(), FileState("file", 0o644, 0, 0))
    host.run("systemctl", "restart", "crio")
    yield
    host.remove(path)


def look(host: Host) -> Store:
    """containerd's store."""
    return store.read(host, CONTAINERD, "/var/lib/containerd", "amd64")


def bring(runtime: Runtime, *names: str, keys: Keyring | None = None) -> dict[str, str]:
    """Brings images to CRI-O; what could not be brought, and why."""
    wanted = [named(name) for name in names]
    source = FromContainerd(runtime, look(runtime.host))
    return told(images.bring(runtime, wanted, source, lambda: keys or Keyring([])))


def bring_back(runtime: Runtime, *names: str) -> dict[str, str]:
    """Brings images back to containerd."""
    source = FromCrio(runtime, CrioStore(runtime.host, "/var/lib/containers/storage"))
    return told(images.bring(runtime, [named(name) for name in names], source, lambda: Keyring([])))


def told(lost: dict[Reference, str]) -> dict[str, str]:
    """The same by the names' texts."""
    return {str(name): why for name, why in lost.items()}


def has(runtime: Runtime, name: str) -> bool:
    """What the kubelet asks, by the words of a pod."""
    at = ("--runtime-endpoint", runtime.endpoint, "--image-endpoint", runtime.endpoint)
    return runtime.host.run("crictl", *at, "inspecti", "-q", name, check=False).code == 0


def forget(runtime: Runtime, name: str) -> None:
    """Removes an image from a runtime."""
    runtime.host.run("crictl", "--image-endpoint", runtime.endpoint, "rmi", name)


def run_pod(node: Node, endpoint: str, uid: str, image: str, *commands: str) -> str:
    """A pod with a container for each command, as a kubelet makes it; returns its sandbox's id."""
    at = ("crictl", "--runtime-endpoint", endpoint, "--image-endpoint", endpoint)
    labels = {"io.kubernetes.pod.uid": uid, "io.kubernetes.pod.name": uid, "io.kubernetes.pod.namespace": "default"}
    options = {"namespace_options": {"network": 2, "pid": 1}}
    pod = {
        "metadata": {"name": uid, "namespace": "default", "uid": uid},
        "labels": labels,
        "log_directory": "/tmp",
        "linux": {"cgroup_parent": "kubepods.slice", "security_context": options},
    }
    node.write(f"/run/{uid}.json", json.dumps(pod))
    sandbox = node.run(*at, "runp", f"/run/{uid}.json").stdout.strip()
    for number, command in enumerate(commands):
        container = {
            "metadata": {"name": f"c{number}"},
            "image": {"image": image},
            "command": command.split(),
            "labels": labels,
            "log_path": f"{uid}-{number}.log",
            "linux": {"security_context": options},
        }
        node.write(f"/run/{uid}-{number}.json", json.dumps(container))
        made = node.run(*at, "create", sandbox, f"/run/{uid}-{number}.json", f"/run/{uid}.json").stdout.strip()
        node.run(*at, "start", made)
    return sandbox
