"""What a move will mean for the node, for `plan` to show before anybody decides; nothing is touched."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from installer.changes import SwitchRuntime
from installer.errors import DeployError
from installer.facts import crio, sockets
from installer.facts.model import Facts
from installer.facts.reference import Reference
from installer.host import Host
from installer.settings import Settings
from installer.switch import cri, images, prepare, space
from installer.switch.images import Runtime
from installer.switch.space import Space
from installer.switch.store import Store

if TYPE_CHECKING:
    from installer.cluster.node import Node
    from installer.cluster.view import Pod

# By hand, ten pods were up again after 5 s; ending those that do not heed a signal comes on top.
_FIRST_SECONDS, _QUICK_POD_SECONDS, _SLOW_POD_SECONDS = 3.0, 0.2, 1.0


@dataclasses.dataclass(frozen=True)
class Image:
    """An image that the node's pods will ask for. `source` is `there`, `containerd` or `registry`; `size` the bytes
    that its layers have in containerd's store, None where they are not all there."""

    name: str
    source: str
    size: int | None


@dataclasses.dataclass(frozen=True)
class Outlook:
    """The move, seen from before. `held` are pods that may not be evicted now, and why; `always` images that are
    pulled at every start, so that carrying them is of no use; `users` processes on the old runtime's socket."""

    pods: tuple[str, ...]
    images: tuple[Image, ...] = ()
    always: tuple[str, ...] = ()
    spaces: tuple[Space, ...] = ()
    leaving: tuple[str, ...] = ()
    held: tuple[tuple[str, str], ...] = ()
    users: tuple[str, ...] = ()
    outage: tuple[int, int] = (0, 0)

    def to_dict(self) -> dict[str, Any]:
        """For machines."""
        said = dataclasses.asdict(self)
        said["held"] = [{"pod": pod, "why": why} for pod, why in self.held]
        said["outage"] = {"seconds": list(self.outage), "estimate": True}
        return said

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"the move restarts {len(self.pods)} pods: {', '.join(self.pods) or 'none'}"
        low, high = self.outage
        yield f"  for {low} to {high} s they are down (an estimate, by their number)"
        brought = [image for image in self.images if image.source != "there"]
        known = sum(image.size or 0 for image in brought)
        yield f"  {len(brought)} of their {len(self.images)} images are brought to CRI-O ({space.size(known)})"
        for image in brought:
            size = "size unknown" if image.size is None else space.size(image.size)
            yield f"    {image.name}: {size}, from {_SOURCES[image.source]}"
        for one in self.spaces:
            yield f"    {'room: ' if one.is_enough else 'NOT ENOUGH ROOM: '}{one}"
        for name in self.always:
            yield f"  {name} is pulled at every start (imagePullPolicy: Always), while its pod waits"
        for pod in self.leaving:
            yield f"  evicted first: {pod}"
        for pod, why in self.held:
            yield f"  IN THE WAY of the eviction of {pod}: {why}"
        for user in self.users:
            yield f"  uses the old runtime, and loses it: {user}"


_SOURCES = {"containerd": "containerd's store", "registry": "its registry: containerd's store lacks it, or parts of it"}


def look(host: Host, settings: Settings, facts: Facts, change: SwitchRuntime, node: "Node | None") -> Outlook:
    """What the move to CRI-O will mean. Raises DeployError where it could not even be prepared."""
    old = Runtime(host, cri.find(host, facts.commands), change.old_endpoint)
    pods = [pod for pod in node.pods() if not pod.finished] if node else []
    have = prepare.contents(old, facts)
    pause = crio.value(facts.crio.effective, "crio.image.pause_image") or facts.containerd.pause_image
    names, _ = prepare.needed(old, pods, str(pause))
    had = _present(dataclasses.replace(old, endpoint=change.new_endpoint), facts)
    missing = [name for name in names if name not in had]
    restarting = [f"{pod.namespace}/{pod.name}" for pod in pods] if node else _sandboxes(old)
    leaving, held = _leaving(settings, node, pods)
    return Outlook(
        tuple(sorted(restarting)),
        tuple(_image(name, name in had, have) for name in names),
        tuple(sorted({image for pod in pods for image in pod.always})),
        tuple(space.look(host, facts.crio.effective, have, missing)),
        tuple(f"{pod.namespace}/{pod.name}" for pod in leaving),
        held,
        _users(host, facts, change),
        _outage(len(restarting), settings),
    )


def _image(name: Reference, there: bool, have: Store) -> Image:
    layers = have.size(name)
    whole = bool(have.digest(name))
    source = "there" if there else "containerd" if whole else "registry"
    return Image(str(name), source, sum(size for size, _ in layers.values()) if whole else None)


def _present(runtime: Runtime, facts: Facts) -> set[Reference]:
    if not facts.crio.effective:
        return set()  # it is yet to be installed
    try:
        return images.present(runtime)
    except DeployError:
        return set()


def _sandboxes(runtime: Runtime) -> list[str]:
    try:
        return [one.name for one in cri.sandboxes(runtime.host, runtime.crictl, runtime.endpoint) if one.ready]
    except DeployError:
        return []


def _leaving(
    settings: Settings, node: "Node | None", pods: "Sequence[Pod]"
) -> "tuple[list[Pod], tuple[tuple[str, str], ...]]":
    """Pods that will be evicted; and those that the API, asked in pretence, would not let go now."""
    if not settings.drain or node is None:
        return [], ()
    from installer.cluster import drain

    going = drain.movable(pods, drain.own_uid())
    asked = [(f"{pod.namespace}/{pod.name}", node.evict(pod, pretend=True)) for pod in going]
    return going, tuple((name, why) for name, why in asked if why)


def _users(host: Host, facts: Facts, change: SwitchRuntime) -> tuple[str, ...]:
    connected = sockets.clients(host, change.old_endpoint.removeprefix("unix://"))
    return (*connected, *(f"containers of namespace {name}" for name in facts.containerd.others))


def _outage(pods: int, settings: Settings) -> tuple[int, int]:
    low = _FIRST_SECONDS + _QUICK_POD_SECONDS * pods
    return round(low), round(low + settings.pod_stop_timeout + _SLOW_POD_SECONDS * pods)
