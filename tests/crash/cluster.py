"""The Kubernetes API, as far as the program asks it: one node, kept in the machine's memory."""

import copy
import json
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import ProtocolError, ReadTimeoutError

from installer.cluster.connect import Connection
from tests.crash import runtimes
from tests.crash.world import World
from tests.mock_api import merged

NODE = "worker"
URL = "https://api"
_PATH = f"/api/v1/nodes/{NODE}"
_SILENCE = 30.0


def new_node() -> dict[str, Any]:
    """The node before us."""
    return {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {
            "name": NODE,
            "uid": "1",
            "resourceVersion": "1",
            "labels": {"kubernetes.io/hostname": NODE},
            "annotations": {"kubeadm.alpha.kubernetes.io/cri-socket": "unix:///run/containerd/containerd.sock"},
        },
        "spec": {"podCIDR": "10.244.1.0/24"},
        "status": {
            "nodeInfo": {"kubeletVersion": "v1.34.9", "containerRuntimeVersion": "containerd://1.6.20"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}],
        },
    }


def kubelet_reports(world: World, endpoint: str) -> None:
    """A kubelet that starts tells the API what it runs on."""
    crio = runtimes.unit_of(endpoint) == "crio.service"
    status = world.machine.node["status"]
    status["nodeInfo"]["containerRuntimeVersion"] = "cri-o://1.34.0" if crio else "containerd://1.6.20"
    status.pop("runtimeHandlers", None)
    if crio:
        status["runtimeHandlers"] = [{"name": name} for name in ("", "crun", *runtimes.handlers(world))]


def connection(world: World) -> Connection:
    """A way to this API."""
    return Connection(URL, Pool(world), lambda: None, "nobody")


class Answer:
    """What urllib3 returns, as far as it is looked at."""

    def __init__(self, status: int, body: dict[str, Any], headers: dict[str, str]) -> None:
        self.status = status
        self.data = json.dumps(body).encode()
        self.headers = headers
        self.reason = ""


class Pool(urllib3.PoolManager):
    """Answers requests in the place of sockets."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def request(self, method: str, url: str, *more: Any, **named: Any) -> Any:
        """One request; how it fails is the world's to say."""
        path = urlsplit(url).path
        how = self._world.faults.request(method, path)
        if how.isdigit():
            return self._refused(int(how))
        if how == "silent":
            self._world.sleep(_SILENCE)
            raise ReadTimeoutError(None, url, "Read timed out.")  # type: ignore[arg-type]
        self._world.act(f"{method} {path}")
        answer = self._answer(method, path, json.loads(named["body"]) if named.get("body") else {})
        if how == "cut":
            raise ProtocolError("Connection broken: IncompleteRead(10 bytes read, 100 more expected)")
        return answer

    def _refused(self, status: int) -> Answer:
        headers = {"Retry-After": "1"} if status == 429 else {}
        return Answer(status, {"kind": "Status", "message": f"answered {status}"}, headers)

    def _answer(self, method: str, path: str, body: dict[str, Any]) -> Answer:
        machine = self._world.machine
        if path.endswith("/events"):
            return Answer(201, {**body, "kind": "Event"}, {})
        if path == "/api/v1/pods":
            pod = {"metadata": runtimes.POD, "spec": {"containers": [{"image": runtimes.APP}]}, "status": {}}
            return Answer(200, {"kind": "PodList", "metadata": {}, "items": [pod]}, {})
        if method == "PATCH":
            version = body.get("metadata", {}).get("resourceVersion")
            if version not in (None, machine.node["metadata"]["resourceVersion"]):
                return self._refused(409)
            machine.node = _patched(machine.node, body, status=path == f"{_PATH}/status")
            number = int(machine.node["metadata"]["resourceVersion"]) + 1
            machine.node["metadata"]["resourceVersion"] = str(number)
        return Answer(200, copy.deepcopy(machine.node), {})


def _patched(node: dict[str, Any], patch: dict[str, Any], *, status: bool) -> dict[str, Any]:
    if not status:
        made = merged(node, patch)
        return made if made["spec"].get("taints", True) else {**made, "spec": merged(made["spec"], {"taints": None})}
    kept = {one["type"]: one for one in node["status"]["conditions"]}
    for one in patch["status"]["conditions"]:
        if one.get("$patch") == "delete":
            kept.pop(one["type"], None)
        else:
            kept[one["type"]] = {**kept.get(one["type"], {}), **one}
    return merged(node, {"status": {"conditions": list(kept.values())}})
