"""What the API says about a node and its pods, as plain values."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

_CONTROL_PLANE = ("node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master")
_MIRROR = "kubernetes.io/config.mirror"
_CONTAINERS = ("initContainers", "containers", "ephemeralContainers")
_POD_KEYS = {
    *("kind", "message", "items", "metadata", "spec", "status"),
    *("namespace", "name", "annotations", _MIRROR, "ownerReferences", "controller"),
    *_CONTAINERS,
    *("image", "runtimeClassName", "phase", "uid", "imagePullPolicy", "imagePullSecrets"),
}


@dataclass(frozen=True)
class Condition:
    """A node condition. `status` is True, False or Unknown; times are the API's own, RFC 3339 in UTC."""

    status: str
    reason: str
    message: str
    changed: str
    heartbeat: str


@dataclass(frozen=True)
class NodeView:
    """A node, as the API showed it at `version` (its resourceVersion).

    `runtime_handlers` is None where the kubelet reports none (before 1.30, or a runtime that does not tell);
    "" among them is the default handler. `taints` are the API's own objects, so that foreign ones go back as
    they came.
    """

    name: str
    uid: str
    version: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    taints: tuple[Mapping[str, str], ...]
    unschedulable: bool
    pod_cidrs: tuple[str, ...]
    kubelet_version: str
    runtime_version: str
    runtime_handlers: tuple[str, ...] | None
    conditions: Mapping[str, Condition]

    @property
    def ready(self) -> bool:
        """Whether the kubelet says that it is."""
        return "Ready" in self.conditions and self.conditions["Ready"].status == "True"

    @property
    def control_plane(self) -> bool:
        """Whether its labels or taints say that the cluster's own control plane runs here."""
        keys = {*self.labels, *(taint["key"] for taint in self.taints)}
        return not keys.isdisjoint(_CONTROL_PLANE)


@dataclass(frozen=True)
class Pod:
    """A pod on the node. `owner` is its controller's kind, "" for a bare pod, Node for a static one; `always` are the
    images that it has pulled at every start."""

    namespace: str
    name: str
    owner: str
    images: tuple[str, ...]
    runtime_class: str
    static: bool
    finished: bool
    uid: str = field(default="", compare=False)
    pull_secrets: tuple[str, ...] = ()
    always: tuple[str, ...] = ()


def node(content: Mapping[str, Any]) -> NodeView:
    """The view of a Node object."""
    meta, spec, status = content["metadata"], content.get("spec", {}), content.get("status", {})
    info = status.get("nodeInfo", {})
    handlers = status.get("runtimeHandlers")
    one_cidr = [spec["podCIDR"]] if "podCIDR" in spec else []
    return NodeView(
        name=meta["name"],
        uid=meta.get("uid", ""),
        version=meta.get("resourceVersion", ""),
        labels=meta.get("labels", {}),
        annotations=meta.get("annotations", {}),
        taints=tuple(spec.get("taints", ())),
        unschedulable=spec.get("unschedulable", False),
        pod_cidrs=tuple(spec.get("podCIDRs", one_cidr)),
        kubelet_version=info.get("kubeletVersion", ""),
        runtime_version=info.get("containerRuntimeVersion", ""),
        runtime_handlers=tuple(one.get("name", "") for one in handlers) if handlers else None,
        conditions={one["type"]: _condition(one) for one in status.get("conditions", ())},
    )


def pod(content: Mapping[str, Any]) -> Pod:
    """The view of a Pod object."""
    meta, spec = content["metadata"], content.get("spec", {})
    containers = [one for kind in _CONTAINERS for one in spec.get(kind, ())]
    images = [one.get("image", "") for one in containers]
    owners = [one["kind"] for one in meta.get("ownerReferences", ()) if one.get("controller")]
    return Pod(
        namespace=meta["namespace"],
        name=meta["name"],
        owner=owners[0] if owners else "",
        images=tuple(dict.fromkeys(images)),
        runtime_class=spec.get("runtimeClassName", ""),
        static=_MIRROR in meta.get("annotations", {}),
        finished=content.get("status", {}).get("phase") in ("Succeeded", "Failed"),
        uid=meta.get("uid", ""),
        pull_secrets=tuple(one["name"] for one in spec.get("imagePullSecrets", ()) if one.get("name")),
        always=tuple(dict.fromkeys(c.get("image", "") for c in containers if c.get("imagePullPolicy") == "Always")),
    )


def serving(runtime: str, handler: str = "", since: str = "") -> Callable[[NodeView], str]:
    """For `Node.wait_until`: what keeps a node from serving under `runtime` (say cri-o), "" if nothing does.

    `handler` must be listed where the node lists handlers at all. `since` (RFC 3339, UTC) is the moment after
    which the kubelet must have reported, so that an older report is not taken for proof.
    """

    def missing(view: NodeView) -> str:
        if not view.runtime_version.startswith(f"{runtime}://"):
            return f"its container runtime is {view.runtime_version or 'not reported'}, not {runtime}"
        if not view.ready:
            report = view.conditions.get("Ready")
            return f"it is not Ready: {report.message if report else 'its kubelet does not say'}"
        if since and view.conditions["Ready"].heartbeat < since:
            return f"its kubelet has not reported since {since}"
        if handler and view.runtime_handlers is not None and handler not in view.runtime_handlers:
            others = ", ".join(filter(None, view.runtime_handlers)) or "none"
            return f"its runtime has no handler {handler}; it has: {others}"
        return ""

    return missing


def slim(content: dict[str, Any]) -> dict[str, Any]:
    """Of each JSON object in a list of pods, only what `pod` reads: such lists are large."""
    return {key: value for key, value in content.items() if key in _POD_KEYS}


def _condition(content: Mapping[str, Any]) -> Condition:
    texts = ("status", "reason", "message", "lastTransitionTime", "lastHeartbeatTime")
    return Condition(*(content.get(text) or "" for text in texts))
