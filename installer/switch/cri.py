"""A runtime asked through the CRI, by crictl on the host."""

import json
import time
from dataclasses import dataclass
from typing import Any

from installer.errors import DeployError, PermanentError, RefusedError
from installer.host import Host

_GRACE = "io.kubernetes.container.terminationGracePeriod"
_POD_GRACE = "io.kubernetes.pod.terminationGracePeriod"
_GRACE_SECONDS = 30  # the kubelet's own default
_PULL_SECONDS = 900


@dataclass(frozen=True)
class Container:
    """A running container: its id, and the seconds that its pod gives it to end."""

    id: str
    grace: int


@dataclass(frozen=True)
class Sandbox:
    """A pod's sandbox as the runtime has it."""

    id: str
    name: str
    handler: str
    ready: bool


def find(host: Host, commands: frozenset[str]) -> str:
    """crictl's name on the host. Raises RefusedError where there is none."""
    if "crictl" not in commands:
        raise RefusedError(
            "the node has no crictl, without which pods can't be ended while the kubelet moves",
            where="PATH",
            remedy="install the package cri-tools on the node (kubeadm's nodes have it)",
        )
    return "crictl"


def ask(host: Host, crictl: str, endpoint: str, *argv: str, timeout: int = 30) -> Any:
    """crictl's answer as JSON. Raises DeployError."""
    said = host.run(crictl, *_at(endpoint), "--timeout", f"{timeout}s", *argv, "-o", "json", timeout=timeout + 10)
    return json.loads(said.out)


def pull(host: Host, crictl: str, endpoint: str, name: str, auth: str = "") -> None:
    """Pulls an image; `auth` is base64 of USER:PASSWORD. Raises CommandError."""
    argv = (crictl, *_at(endpoint), "pull", name)
    if auth:
        # By a pipe and the environment: everybody on the node may read a command's arguments.
        read = 'IFS= read -r CRICTL_AUTH && export CRICTL_AUTH && exec "$@"'
        host.run("sh", "-c", read, "sh", *argv, timeout=_PULL_SECONDS, stdin=f"{auth}\n".encode())
    else:
        host.run(*argv, timeout=_PULL_SECONDS)


def running(host: Host, crictl: str, endpoint: str) -> list[Container]:
    """The running containers of the node's pods."""
    found = ask(host, crictl, endpoint, "ps", "--state", "Running").get("containers") or []
    return [Container(c["id"], _grace(c.get("annotations") or {})) for c in found]


def sandboxes(host: Host, crictl: str, endpoint: str) -> list[Sandbox]:
    """Every pod sandbox, ended ones too."""
    found = ask(host, crictl, endpoint, "pods").get("items") or []
    return [
        Sandbox(
            s["id"],
            f"{s['metadata']['namespace']}/{s['metadata']['name']}",
            s.get("runtimeHandler", ""),
            s["state"] == "SANDBOX_READY",
        )
        for s in found
    ]


def wait_ready(host: Host, crictl: str, endpoint: str, timeout: int) -> None:
    """Waits until the runtime says that it and its network are ready. Raises PermanentError."""
    deadline = time.monotonic() + timeout
    why = ""
    while time.monotonic() < deadline:
        try:
            status = ask(host, crictl, endpoint, "info", timeout=20)["status"]["conditions"]
            bad = [c for c in status if c["type"] in ("RuntimeReady", "NetworkReady") and not c["status"]]
            if not bad:
                return
            why = "; ".join(f"{c['type']}: {c['reason']} {c['message']}" for c in bad)
        except DeployError as error:
            why = error.found
        time.sleep(1)  # the runtime tells nobody when it gets ready
    raise PermanentError(
        "the new runtime is not ready",
        where=endpoint,
        found=why,
        remedy="see its log; is the cluster's CNI configuration there?",
    )


def remove_images(host: Host, crictl: str, endpoint: str, names: list[str]) -> None:
    """Removes images, as far as that goes."""
    host.run(crictl, *_at(endpoint), "rmi", *names, timeout=120, check=False)


def _at(endpoint: str) -> tuple[str, ...]:
    # Both, for the node's crictl.yaml may name another runtime for images.
    return "--runtime-endpoint", endpoint, "--image-endpoint", endpoint


def _grace(annotations: dict[str, str]) -> int:
    said = annotations.get(_GRACE) or annotations.get(_POD_GRACE) or ""
    return int(said) if said.isdigit() else _GRACE_SECONDS
