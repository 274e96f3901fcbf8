"""Whether CRI-O puts pods on the cluster's network: the file that it takes is the one that containerd takes."""

import json
from collections.abc import Mapping

from installer.errors import PermanentError
from installer.facts import crio
from installer.facts.model import Containerd
from installer.host import Host

_FOLDER = "/etc/cni/net.d"
_EXTENSIONS = (".conf", ".conflist", ".json")


def check(host: Host, effective: Mapping[str, object], containerd: Containerd) -> None:
    """Raises PermanentError where pods would come up on another network than now."""
    if crio.value(effective, "crio.network.cni_default_network"):
        return  # somebody chose one by name
    folder = str(crio.value(effective, "crio.network.network_dir") or _FOLDER)
    new, old = first(host, folder), first(host, containerd.cni_conf or _FOLDER)
    if new and (new != old or _is_crios_own(host, new)):
        own = _is_crios_own(host, new)
        raise PermanentError(
            "CRI-O would put pods on a network of its own" if own else "CRI-O would put pods on another network",
            where=folder,
            found=f"CRI-O takes {new}, containerd {old or 'none'}",
            remedy=f"move {new} away" if own else "make the cluster's CNI configuration the first file of that folder",
        )


def first(host: Host, folder: str) -> str:
    """The configuration that a runtime takes: the first by name, links followed; empty where there is none."""
    for name in host.names(folder):
        path = host.followed(f"{folder}/{name}")
        if name.endswith(_EXTENSIONS) and host.read(path):
            return path
    return ""


def _is_crios_own(host: Host, path: str) -> bool:
    try:
        return bool(json.loads(host.read(path) or b"{}").get("name") == "crio")
    except (ValueError, AttributeError):
        return "crio-bridge" in path
