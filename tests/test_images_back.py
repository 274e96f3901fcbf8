"""What runs tells which images are wanted; and images brought back from CRI-O, or by the mirrors it was given."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog.testing

from installer.changes import WriteFile
from installer.facts import crio as crio_facts
from installer.facts import registries
from installer.facts.crio import ENDPOINT as CRIO
from installer.facts.model import Facts
from installer.facts.registries import CARRY
from installer.host import FileState, Host
from installer.settings import Settings
from installer.steps import crio_config
from installer.switch import images, network, space
from installer.switch.images import Runtime
from tests import oci
from tests.carrying import CONTAINERD, bring, bring_back, forget, full, has, look, named, run_pod
from tests.node.images import BUSYBOX, PAUSE
from tests.node.network import GATEWAY, listen
from tests.node.node import Node
from tests.oci import Blobs

pytestmark = pytest.mark.node

BUSYBOX_PROGRAM = Path("/usr/bin/busybox") if Path("/usr/bin/busybox").exists() else Path("/bin/busybox")
SLEEP = "/bin/busybox sleep 100000"


def runnable() -> oci.Layer:
    return {"bin/": b"", "bin/busybox": BUSYBOX_PROGRAM.read_bytes()}


def test_the_images_of_living_pods_are_wanted_ended_containers_too(
    carrier: Node, containerd: Runtime, load: Callable[..., None]
) -> None:
    blobs = Blobs()
    tops = {name: blobs.image([runnable(), {name: b"x"}]) for name in ("lives", "nameless", "dead")}
    load(blobs, **tops)
    run_pod(carrier, CONTAINERD, "uid-1", full("lives"), SLEEP)
    run_pod(carrier, CONTAINERD, "uid-2", BUSYBOX, "/bin/true")
    # As the kubelet does: by the id of what it found under the name.
    config = json.loads(blobs.content[tops["nameless"]["digest"]])["config"]["digest"]
    run_pod(carrier, CONTAINERD, "uid-3", config, SLEEP)
    ended = run_pod(carrier, CONTAINERD, "uid-4", full("dead"), SLEEP)
    carrier.run("crictl", "--runtime-endpoint", CONTAINERD, "stopp", ended)
    carrier.run("ctr", "-n", "k8s.io", "images", "rm", full("nameless"))
    try:
        found, nameless = images.in_use(containerd)
        assert {str(name) for name in found} == {full("lives"), BUSYBOX}
        assert nameless == [config]
    finally:
        carrier.run("crictl", "--runtime-endpoint", CONTAINERD, "rmp", "-fa")


def test_what_is_carried_runs_and_tells_its_name(carrier: Node, crio: Runtime, load: Callable[..., None]) -> None:
    blobs = Blobs()
    load(blobs, runs=blobs.image([runnable(), {"données/": b"", "données/ж": b"1"}]))
    assert bring(crio, full("runs"), PAUSE) == {}
    run_pod(carrier, CRIO, "uid-5", full("runs"), SLEEP, "/bin/busybox tail -f /données/ж")
    try:
        said = json.loads(carrier.run("crictl", "--runtime-endpoint", CRIO, "ps", "-o", "json").stdout)["containers"]
        assert [one["state"] for one in said] == ["CONTAINER_RUNNING"] * 2
        found, nameless = images.in_use(crio)
        assert [str(name) for name in found] == [full("runs")]
        assert nameless == []
    finally:
        carrier.run("crictl", "--runtime-endpoint", CRIO, "rmp", "-fa")


def test_the_pause_image_is_pinned(carrier: Node, crio: Runtime) -> None:
    assert bring(crio, PAUSE) == {}
    said = json.loads(carrier.run("crictl", "--image-endpoint", CRIO, "images", "-o", "json").stdout)["images"]
    assert [one["pinned"] for one in said if PAUSE in one["repoTags"]] == [True]
    effective = crio_facts.effective(crio.host) or {}
    assert crio_facts.value(effective, "crio.image.pinned_images") == [PAUSE]


def test_the_nodes_network_and_room_are_judged_by_what_cri_o_says(host: Host) -> None:
    effective = crio_facts.effective(host) or {}
    containerd = Facts().containerd
    network.check(host, effective, containerd)
    (one, *_) = space.look(host, effective, look(host), [named(BUSYBOX)])
    assert one.path == "/var/lib/containers/storage"
    assert 1 << 20 < one.needed < one.free


def test_mirrors_and_authorities_of_containerd_are_cri_os_too(carrier: Node, crio: Runtime, host: Host) -> None:
    blobs = Blobs()
    top = blobs.image([{"from-the-mirror": b"1"}])
    with oci.serving(oci.Registry(blobs, {"proxy/library/mirrored-of-nowhere:1": top["digest"]}), listen()) as registry:
        where = f"{GATEWAY}:{registry.port}"
        carrier.write(
            "/etc/containerd/certs.d/docker.io/hosts.toml",
            f'server = "https://registry-1.docker.io"\n[host."http://{where}/v2/proxy"]\noverride_path = true\n',
        )
        config = '[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "/etc/containerd/certs.d"\n'
        found = registries.read(host, config)
        wanted = crio_config.crio(Facts(registries=found), Settings())
        text = next(c.content for c in wanted if isinstance(c, WriteFile) and c.path == registries.OURS)
        before = host.read(registries.OURS) or b""
        like = FileState("file", 0o644, 0, 0)
        try:
            host.replace(registries.OURS, text.encode(), like)
            carrier.run("systemctl", "restart", "crio")
            assert bring(crio, "mirrored-of-nowhere:1") == {}
        finally:
            host.replace(registries.OURS, before, like)
            carrier.run("systemctl", "restart", "crio")
            carrier.run("rm", "-r", "/etc/containerd/certs.d")
    assert has(crio, "docker.io/library/mirrored-of-nowhere:1")
    assert any("/proxy/library/mirrored-of-nowhere/manifests/1" in one for one in registry.asked)


def test_a_carry_does_not_ask_a_mirror_for_what_containerd_has(
    carrier: Node, crio: Runtime, host: Host, tmp_path: Path
) -> None:
    blobs = Blobs()
    moved, kept = blobs.image([{"newer": b"1"}]), blobs.image([{"kept": b"1"}])
    with oci.serving(oci.Registry(blobs, {"app:1": moved["digest"]}), listen()) as registry:
        name = f"{GATEWAY}:{registry.port}/app:1"
        carrier.load_image(blobs.archive(tmp_path / "kept.tar", {name: kept}))
        carrier.write(
            "/etc/containers/registries.conf.d/80-site.conf",
            f'[[registry]]\nlocation = "{GATEWAY}:{registry.port}"\ninsecure = true\n',
        )
        carrier.run("systemctl", "restart", "crio")
        assert bring(crio, name) == {}
        carrier.run("rm", "/etc/containers/registries.conf.d/80-site.conf")
        # The tag has moved on in the registry; the pods' own image is what they get.
        assert registry.asked == []
    assert has(crio, f"{name.rpartition(':')[0]}@{kept['digest']}")


def test_a_crash_amid_a_carry_leaves_nothing_once_we_are_back(carrier: Node, crio: Runtime, host: Host) -> None:
    carrier.write(CARRY, "this is no TOML [")
    carrier.write(images.ARCHIVE, "half an image")
    images.sweep(host)
    assert not host.exists(CARRY)
    assert not host.exists(images.ARCHIVE)
    assert bring(crio, BUSYBOX) == {}


def test_what_only_cri_o_has_comes_back_without_a_registry(
    carrier: Node, crio: Runtime, containerd: Runtime, load: Callable[..., None]
) -> None:
    blobs = Blobs()
    layers = [
        {"a/": b"", "a/b": b"1" * 100_000, "gone": b"x"},
        {"données/": b"", "données/日本語_🦊": "ж".encode() * 500, "empty": b"", ".wh.gone": b""},
        runnable(),
    ]
    top = blobs.image(layers)
    name = full("back")
    load(blobs, back=top)
    assert bring(crio, name) == {}
    forget(containerd, name)
    assert not has(containerd, name)
    by_digest = f"nowhere.invalid/back@{top['digest']}"
    assert bring_back(containerd, name, by_digest) == {}
    assert has(containerd, by_digest)
    assert has(containerd, name)
    run_pod(carrier, CONTAINERD, "uid-6", name, "/bin/busybox tail -f /données/日本語_🦊")
    said = json.loads(carrier.run("crictl", "--runtime-endpoint", CONTAINERD, "ps", "-o", "json").stdout)["containers"]
    assert [one["state"] for one in said] == ["CONTAINER_RUNNING"]
    carrier.run("crictl", "--runtime-endpoint", CONTAINERD, "rmp", "-fa")


def test_a_layer_that_was_changed_in_cri_os_store_is_not_brought_back(
    carrier: Node, crio: Runtime, containerd: Runtime, load: Callable[..., None]
) -> None:
    blobs = Blobs()
    name = full("changed")
    load(blobs, changed=blobs.image([{"changed-file": b"1" * 1000}]))
    assert bring(crio, name) == {}
    forget(containerd, name)
    find = ("find", "/var/lib/containers/storage/overlay", "-path", "*/diff/changed-file")
    (path,) = carrier.run(*find).stdout.splitlines()
    carrier.run("sed", "-i", "s/1/2/g", path)
    with structlog.testing.capture_logs() as logs:
        assert set(bring_back(containerd, name)) == {name}
    assert not any(log["event"] == f"brought {name}" for log in logs)
    assert not has(containerd, name)
    assert not containerd.host.exists(images.ARCHIVE)
