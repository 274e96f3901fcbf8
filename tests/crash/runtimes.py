"""The services of a node: containerd, CRI-O, the kubelet and Sysbox's daemons, and what is asked of them."""

import functools
import hashlib
import json
import tomllib
from typing import Any

import tomlkit

from installer.facts import kubelet
from installer.host import Result, encode
from tests.crash.world import World

CRIO_CONF = "/etc/crio/crio.conf.d"
CMDLINE = "/proc/700/cmdline"
APP = "registry.k8s.io/app:1"
PAUSE = "registry.k8s.io/pause:3.10"
POD = {"namespace": "default", "name": "app"}
_STORE = "/var/lib/containers/storage"
_DEFAULTS = '[crio.runtime]\ncgroup_manager = "systemd"\n[crio.runtime.runtimes.crun]\n'
_UNITS = {"/run/containerd/containerd.sock": "containerd.service", "/run/crio/crio.sock": "crio.service"}
_DAEMONS = {"sysbox-mgr.service": "sysmgr.sock", "sysbox-fs.service": "sysfs.sock"}


def start(world: World, unit: str, texts: list[list[str]]) -> bool:
    """What a service does when it starts; False where it can't."""
    match unit:
        case "crio.service":
            return _start_crio(world)
        case "kubelet.service":
            return _start_kubelet(world, texts)
        case "containerd.service":
            world.put("/run/containerd/containerd.sock", b"")
        case "sysbox-mgr.service" | "sysbox-fs.service":
            return _start_daemon(world, unit)
        case _ if unit.endswith(".timer"):
            after = next(line for _, text in texts for line in text.splitlines() if line.startswith("OnActiveSec="))
            world.machine.timers[unit] = float(after.partition("=")[2].removesuffix("s"))
    return True


def _start_crio(world: World) -> bool:
    if "/usr/bin/crio" not in world.disk.image:
        return False
    files = [f"{CRIO_CONF}/{name}" for name in world.names(CRIO_CONF) if name.endswith(".conf")]
    world.machine.crio = [world.text(file) for file in files]
    world.put("/run/crio/crio.sock", b"")
    world.put("/var/lib/crio/version", "1.34.0\n")
    world.put(f"{_STORE}/storage.lock", b"")
    return True


def _start_kubelet(world: World, texts: list[list[str]]) -> bool:
    from tests.crash import cluster

    environments = {
        path: entry.data for path, entry in world.disk.image.items() if path.startswith(("/etc/", "/var/lib/kubelet/"))
        and entry.kind == "file"
    }  # fmt: skip
    units = [(path, text) for path, text in texts]
    argv = kubelet.effective(units, environments)
    endpoint = kubelet.flag(argv, "container-runtime-endpoint") or ""
    world.machine.told = list(argv)
    world.put(CMDLINE, b"".join(encode(word) + b"\0" for word in argv))
    world.machine.containers[unit_of(endpoint)] = ["c1"]
    cluster.kubelet_reports(world, endpoint)
    return True


def _start_daemon(world: World, unit: str) -> bool:
    name = unit.removesuffix(".service")
    if f"/usr/bin/{name}" not in world.disk.image:
        return False
    world.put(f"/run/sysbox/{_DAEMONS[unit]}", b"")
    if unit == "sysbox-mgr.service":
        world.put("/var/lib/sysbox/docker-vol/x", "data\n")
    return True


def stopped(world: World, unit: str) -> None:
    """What is gone once a service is."""
    match unit:
        case "crio.service":
            world.machine.crio = []
            world.remove("/run/crio/crio.sock")
            world.remove("/run/crio")
        case "kubelet.service":
            world.machine.told = []
            world.remove(CMDLINE)
            world.remove("/proc/700")
        case "containerd.service":
            world.remove("/run/containerd/containerd.sock")
            world.remove("/run/containerd")
        case "sysbox-mgr.service" | "sysbox-fs.service":
            world.remove(f"/run/sysbox/{_DAEMONS[unit]}")
            if not world.names("/run/sysbox"):
                world.remove("/run/sysbox")


def unit_of(endpoint: str) -> str:
    """The service behind an endpoint."""
    return _UNITS.get(endpoint.removeprefix("unix://").replace("/var/run/", "/run/"), "")


def healthy(world: World, endpoint: str) -> bool:
    """Whether the kubelet runs, was told that endpoint (empty: no flag names one), and somebody is there."""
    said = kubelet.flag(world.machine.told, "container-runtime-endpoint") or ""
    return "kubelet.service" in world.machine.active and said == endpoint


def config(world: World) -> bytes:
    """What the running CRI-O says of its configuration."""
    return _merged(tuple(world.machine.crio))


@functools.cache
def _merged(texts: tuple[str, ...]) -> bytes:
    whole: dict[str, Any] = tomllib.loads(_DEFAULTS)
    for text in texts:
        _merge(whole, tomllib.loads(text))
    return tomlkit.dumps(whole).encode()


def _merge(old: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            _merge(old[key], value)
        else:
            old[key] = value


def crictl(world: World, argv: tuple[str, ...]) -> Result:
    """crictl, of either runtime."""
    words = list(argv[1:])
    options: dict[str, str] = {}
    while words[0].startswith("--"):
        options[words[0]] = words[1]
        del words[:2]
    unit = unit_of(options["--runtime-endpoint"])
    if unit not in world.machine.active:
        return Result(1, "", f"connection error: dial {options['--runtime-endpoint']}: connect: no such file\n")
    return _cri(world, unit, words)


def _cri(world: World, unit: str, words: list[str]) -> Result:
    running = world.machine.containers.get(unit, [])
    match words[0]:
        case "info" | "version":
            ready = [{"type": t, "status": True, "reason": "", "message": ""} for t in ("RuntimeReady", "NetworkReady")]
            return _json({"status": {"conditions": ready}, "config": {}})
        case "ps":
            image = {"image": APP, "userSpecifiedImage": APP}
            labels = {"io.kubernetes.pod.uid": "1"}
            return _json(
                {"containers": [{"id": c, "imageRef": APP, "image": image, "labels": labels} for c in running]}
            )
        case "pods":
            pod = {"id": "p1", "labels": {"io.kubernetes.pod.uid": "1"}, "state": "SANDBOX_READY", "metadata": POD}
            return _json({"items": [pod] if running else []})
        case "images":
            return _json(
                {"images": [{"id": name, "repoTags": [name], "repoDigests": []} for name in images(world, unit)]}
            )
        case "pull" if "sysbox-deploy" in words[1]:
            return Result(1, "", "connection refused")  # the probe of whether CRI-O heeds what it is given
        case "pull":
            world.put(f"{_STORE}/overlay-images/{words[1].replace('/', '%')}", words[1])
        case "rmp" | "stopp":
            world.act(f"crictl rmp, of {unit}")
            world.machine.containers[unit] = []
    return Result(0, "", "")


def images(world: World, unit: str) -> list[str]:
    """The images in a runtime's store."""
    if unit == "containerd.service":
        return [APP, PAUSE]
    return [world.text(f"{_STORE}/overlay-images/{name}") for name in world.names(f"{_STORE}/overlay-images")]


def ctr(world: World, argv: tuple[str, ...]) -> Result:
    """ctr images list."""
    row = f"{APP} application/vnd.oci.image.manifest.v1+json sha256:{image_blobs()[0]} 1 MiB linux/amd64 -"
    return Result(0, f"REF TYPE DIGEST SIZE PLATFORMS LABELS\n{row}\n", "")


@functools.cache
def image_blobs() -> tuple[str, dict[str, bytes]]:
    """An image in containerd's store: its digest, and its blobs by theirs."""
    blobs: dict[str, bytes] = {}

    def add(content: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[digest] = content
        return {"digest": f"sha256:{digest}", "size": len(content)}

    manifest = {"schemaVersion": 2, "config": add(b"{}"), "layers": [add(b"a layer")]}
    return str(add(json.dumps(manifest).encode())["digest"]).removeprefix("sha256:"), blobs


def _json(said: object) -> Result:
    return Result(0, json.dumps(said), "")


def handlers(world: World) -> list[str]:
    """The handlers that files name."""
    runtime: Any = tomllib.loads(config(world).decode()).get("crio", {}).get("runtime", {})
    return [name for name in runtime.get("runtimes", {}) if name != "crun"]
