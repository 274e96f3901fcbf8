"""A Kubernetes API by KMock: a real HTTP server on loopback that keeps one node, its Events and pods.

It does what the real one does for our requests (`test_cluster_real.py` sends them to a real one): merge
patches with a resourceVersion as precondition, conditions merged by type, Events unique by name. Any answer
can be replaced, such as by `mock["get", NODE][:2] << 503`.
"""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp.test_utils
import attrs
import kmock

NAME = "worker-1"
NODE = f"/api/v1/nodes/{NAME}"
STATUS = f"{NODE}/status"
EVENTS = "/api/v1/namespaces/default/events"
PODS = "/api/v1/pods"
TOKEN = "a-token-that-must-not-be-told"

Json = dict[str, Any]


def ready_node() -> Json:
    """A worker on containerd, as kubeadm and a kubelet make it."""
    return {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {
            "name": NAME,
            "uid": "0e5c97ca-e032-4a7c-ba26-4f1804be008e",
            "resourceVersion": "1000",
            "labels": {"kubernetes.io/hostname": NAME, "crio-install": "yes"},
            "annotations": {"kubeadm.alpha.kubernetes.io/cri-socket": "unix:///run/containerd/containerd.sock"},
        },
        "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:1::/64"]},
        "status": {
            "nodeInfo": {"kubeletVersion": "v1.34.9", "containerRuntimeVersion": "containerd://1.6.20"},
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "reason": "KubeletReady",
                    "message": "kubelet is posting ready status",
                    "lastHeartbeatTime": "2026-11-22T07:27:47Z",
                    "lastTransitionTime": "2026-11-22T07:26:53Z",
                }
            ],
        },
    }


@attrs.define(kw_only=True)
class MockApi(kmock.KubernetesScaffold):
    """The handler. `node`, `events` and `pods` are what it keeps and shows."""

    node: Json = attrs.field(factory=ready_node)
    events: list[Json] = attrs.field(factory=list)
    pods: list[Json] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.fallback["get", NODE] << (lambda: self.node)
        self.fallback["patch", NODE] << self._patch_node
        self.fallback["patch", STATUS] << self._patch_status
        self.fallback["post", EVENTS] << self._add_event
        self.fallback["get", PODS] << (lambda: {"kind": "PodList", "metadata": {}, "items": self.pods})

    @property
    def asked(self) -> list[str]:
        """Every request so far, as `METHOD path`."""
        return [f"{request.method.value} {request.url.path}" for request in self]

    @property
    def last(self) -> kmock.Request:
        """The request that came last."""
        return list(self)[-1]

    def change(self, patch: Json) -> None:
        """Somebody else's merge patch of the node."""
        self.node = {**merged(self.node, patch)}
        self.node["metadata"]["resourceVersion"] = str(int(self.node["metadata"]["resourceVersion"]) + 1)

    def _patch_node(self, request: kmock.Request) -> Json:
        patch = request.data
        version = patch.get("metadata", {}).get("resourceVersion")
        if version not in (None, self.node["metadata"]["resourceVersion"]):
            raise kmock.KubernetesError(409, "Conflict", "the object has been modified")
        self.change(patch)
        return self.node

    def _patch_status(self, request: kmock.Request) -> Json:
        kept = {one["type"]: one for one in self.node["status"]["conditions"]}
        for one in request.data["status"]["conditions"]:
            if one.get("$patch") == "delete":
                kept.pop(one["type"], None)
            else:
                kept[one["type"]] = {**kept.get(one["type"], {}), **one}
        self.change({"status": {"conditions": list(kept.values())}})
        return self.node

    def _add_event(self, request: kmock.Request) -> Json:
        if request.data["metadata"]["name"] in [event["metadata"]["name"] for event in self.events]:
            raise kmock.KubernetesError(409, "AlreadyExists", "it exists")
        self.events.append(request.data)
        return self.events[-1]


@contextlib.contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[MockApi]:
    """The server, up while the body runs, on an event loop of its own thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    stack = contextlib.AsyncExitStack()
    mock = MockApi()
    server = kmock.Server(mock, server_cls=_TlsServer.of(tls) if tls else aiohttp.test_utils.RawTestServer)
    try:
        for context in (mock, server):
            asyncio.run_coroutine_threadsafe(stack.enter_async_context(context), loop).result(10)
        yield mock
    finally:
        asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def kubeconfig(folder: Path, url: str) -> Path:
    """A person's KUBECONFIG for the server at `url`."""
    file = folder / "kubeconfig"
    file.write_text(
        f"""\
apiVersion: v1
kind: Config
current-context: here
contexts: [{{name: here, context: {{cluster: here, user: me}}}}]
clusters: [{{name: here, cluster: {{server: "{url}"}}}}]
users: [{{name: me, user: {{token: {TOKEN}}}}}]
"""
    )
    return file


def cut(request: kmock.Request) -> None:
    """A step of a streamed answer: the server's end of the connection is gone, in mid-body."""
    raw = request._raw_request
    assert raw is not None
    assert raw.transport is not None
    raw.transport.abort()


def merged(old: Json, patch: Json) -> Json:
    """`old` after a JSON merge patch (RFC 7386)."""
    new = dict(old)
    for key, value in patch.items():
        if value is None:
            new.pop(key, None)
        elif isinstance(value, dict):
            new[key] = merged(old.get(key, {}), value)
        else:
            new[key] = value
    return new


class _TlsServer(aiohttp.test_utils.RawTestServer):
    context: ssl.SSLContext

    @classmethod
    def of(cls, context: ssl.SSLContext) -> type["_TlsServer"]:
        return type("TlsServer", (cls,), {"context": context})

    async def start_server(self, loop: asyncio.AbstractEventLoop | None = None, **kwargs: Any) -> None:
        await super().start_server(loop, ssl=self.context, **kwargs)
