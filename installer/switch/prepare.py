"""All of the move that can fail, while the pods still run: the other runtime is ready and on the cluster's network,
it has the images, and the pods that shall go elsewhere have gone."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from installer import log
from installer.changes import SwitchRuntime
from installer.errors import DeployError, PermanentError, RefusedError
from installer.facts import crio, reference, registries
from installer.facts.containerd import CONFIG
from installer.facts.model import Facts
from installer.facts.reference import Reference
from installer.host import Host, decode
from installer.settings import Settings, variable
from installer.switch import cri, images, keyring, network, space, store
from installer.switch.crio_store import CrioStore
from installer.switch.images import FromContainerd, FromCrio, Runtime
from installer.switch.keyring import Keyring
from installer.switch.store import Store

if TYPE_CHECKING:
    from installer.cluster.node import Node
    from installer.cluster.view import Pod

_KUBELETS_PASSWORDS = "/var/lib/kubelet/config.json"
_NODES_CERTIFICATE = "/var/lib/kubelet/pki/kubelet-client-current.pem"


def early(host: Host, facts: Facts, change: SwitchRuntime) -> None:
    """What can be judged before anything is changed. Raises RefusedError."""
    old = Runtime(host, cri.find(host, facts.commands), change.old_endpoint)
    space.check(space.look(host, facts.crio.effective, contents(old, facts), _in_use(old)[0]), RefusedError)


def there(host: Host, settings: Settings, facts: Facts, change: SwitchRuntime, node: "Node | None") -> str:
    """Makes ready for the move to CRI-O; returns crictl's name. Raises DeployError."""
    crictl = cri.find(host, facts.commands)
    old, new = (Runtime(host, crictl, endpoint) for endpoint in (change.old_endpoint, change.new_endpoint))
    cri.wait_ready(host, crictl, new.endpoint, settings.health_timeout)
    effective = crio.effective(host) or {}
    network.check(host, effective, facts.containerd)
    pods = [pod for pod in node.pods() if not pod.finished] if node else []
    have = contents(old, facts)
    names, nameless = needed(old, pods, str(crio.value(effective, "crio.image.pause_image") or ""))
    had = images.present(new)
    space.check(space.look(host, effective, have, [name for name in names if name not in had]))
    lost = images.bring(new, names, FromContainerd(new, have), lambda: _keys(host, node, pods))
    _tell({**{str(name): why for name, why in lost.items()}, **nameless}, new, settings, node)
    if settings.drain:
        _drain(settings, node, pods)
    return crictl


def back(host: Host, settings: Settings, facts: Facts, change: SwitchRuntime, node: "Node | None") -> str:
    """Makes ready for the way back; returns crictl's name. Does without the API and registries. Raises DeployError."""
    crictl = cri.find(host, facts.commands)
    old, new = (Runtime(host, crictl, endpoint) for endpoint in (change.old_endpoint, change.new_endpoint))
    cri.wait_ready(host, crictl, old.endpoint, settings.health_timeout)
    pods = _pods_if_told(node)
    names, nameless = needed(new, pods, facts.containerd.pause_image)
    kept = CrioStore(host, str(crio.value(facts.crio.effective, "crio.root") or space.ROOT))
    had = images.present(old)
    space.check([space.back(host, facts.containerd.root, kept, [name for name in names if name not in had])])
    lost = images.bring(old, names, FromCrio(old, kept), lambda: _keys(host, node, pods))
    _tell({**{str(name): why for name, why in lost.items()}, **nameless}, old, settings, node)
    return crictl


def _pods_if_told(node: "Node | None") -> "list[Pod]":
    try:
        return [pod for pod in node.pods() if not pod.finished] if node else []
    except DeployError as error:
        log.get().warning("the API does not tell the node's pods; the runtime's list must do", found=error.found)
        return []


def needed(runtime: Runtime, pods: "Sequence[Pod]", pause: str) -> tuple[list[Reference], dict[str, str]]:
    """The names that the kubelet will ask for; and images that nobody can ask for by name any more, and why."""
    asked = [pause, *(image for pod in pods for image in pod.images)]
    named, nameless = _in_use(runtime)
    names = [name for name in map(reference.parse, asked) if name]
    # What the API names is what the kubelet asks for, whatever the runtime still calls it.
    lost = {} if pods else dict.fromkeys(nameless, "its name was taken from it, or given to another image")
    return list(dict.fromkeys([*names, *named])), lost


def _in_use(runtime: Runtime) -> tuple[list[Reference], list[str]]:
    try:
        return images.in_use(runtime)
    except DeployError as error:
        # One that is dead must not keep the kubelet from leaving it.
        log.get().warning("the runtime does not tell its containers; their images can't be carried", found=error.found)
        return [], []


def contents(runtime: Runtime, facts: Facts) -> Store:
    """What containerd has."""
    return store.read(runtime.host, runtime.endpoint, facts.containerd.root, facts.kernel.arch)


def _keys(host: Host, node: "Node | None", pods: "Sequence[Pod]") -> Keyring:
    """The pods' own passwords, then the node's: the kubelet's, and containerd's."""
    wanted = {(pod.namespace, name) for pod in pods for name in pod.pull_secrets}
    documents = []
    if node and wanted and host.exists(_NODES_CERTIFICATE):
        from installer.cluster import secrets

        documents += secrets.read(node, host.real(_NODES_CERTIFICATE), sorted(wanted))
    documents.append(keyring.parse(host.read(_KUBELETS_PASSWORDS)))
    documents.append(registries.passwords(decode(host.read(CONFIG) or b"")))
    return Keyring(documents)


def _drain(settings: Settings, node: "Node | None", pods: "Sequence[Pod]") -> None:
    if node is None:
        log.get().warning(f"{variable('drain')} is set, but without NODE_NAME there is no API to evict pods by")
        return
    from installer.cluster import drain

    going = drain.movable(pods, drain.own_uid())
    carry_on = settings.drain_deadline == "continue"
    with log.phase(f"drain {len(going)} pods"):
        drain.drain(node, going, timeout=settings.drain_timeout, carry_on=carry_on)


def _tell(lost: dict[str, str], runtime: Runtime, settings: Settings, node: "Node | None") -> None:
    """Says what could not be brought. Raises PermanentError where the settings ask for all."""
    if not lost:
        return
    for name, why in lost.items():
        log.get().warning(f"image {name} is not there; its pods pull it after the move", found=why)
    if settings.switch_requires_all_images:
        raise PermanentError(
            f"{len(lost)} images of this node's pods could not be brought to the other runtime",
            found="; ".join(f"{name}: {why}" for name, why in lost.items()),
            where=runtime.endpoint,
            remedy=f"make them pullable, delete their pods, or set {variable('switch_requires_all_images')}=false",
        )
    if node:
        told = f"{len(lost)} images will be pulled while their pods wait: {', '.join(lost)}"
        node.event("SysboxDeployImages", told, "Warning")
