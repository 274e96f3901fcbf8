"""containerd: its version, and what its configuration says of the CRI plugin, in every layout of that file."""

import dataclasses
import tomllib
from collections.abc import Iterator, Mapping

from installer.errors import RefusedError
from installer.facts.model import Containerd
from installer.host import Host, decode

CONFIG = "/etc/containerd/config.toml"
_CNI_BIN, _CNI_CONF = "/opt/cni/bin", "/etc/cni/net.d"
# The layouts of version 3, 2 and 1. containerd 2 still reads the older ones.
_RUNTIME = ("io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "cri")
_IMAGES = ("io.containerd.cri.v1.images", "io.containerd.grpc.v1.cri", "cri")

Table = Mapping[str, object]


def gather(host: Host) -> Containerd:
    """containerd on the host; its version stays empty where the command is missing. Raises RefusedError."""
    content = decode(host.read(CONFIG) or b"")
    said = host.run("containerd", "--version", check=False).out
    return dataclasses.replace(parse(content, parse_version(said)), others=_others(host, content))


def complete(host: Host, known: Containerd) -> str:
    """Its configuration with what it imports and, where the file is silent on the pause image, its defaults."""
    content = decode(host.read(CONFIG) or b"")
    if not known.version or (known.pause_image and not known.imports):
        return content
    said = host.run("containerd", "config", "dump", check=False)
    return said.out if said.code == 0 and said.out else content


def _others(host: Host, content: str) -> tuple[str, ...]:
    """The namespaces, other than the kubelet's, in which containers run (`moby` is docker's)."""
    state = _text(_loads(content), "state") or "/run/containerd"
    tasks = f"{state}/io.containerd.runtime.v2.task"
    return tuple(name for name in host.names(tasks) if name != "k8s.io" and host.names(f"{tasks}/{name}"))


def parse_version(text: str) -> str:
    """The version in `containerd --version`'s answer, without its v: `containerd github.com/… v1.7.27 05044ec…`."""
    words = text.split()
    return words[2].removeprefix("v") if words[:1] == ["containerd"] and len(words) > 2 else ""


def parse(text: str, version: str = "") -> Containerd:
    """The configuration, or containerd's defaults where it says nothing. Raises RefusedError, naming the line."""
    config = _loads(text)
    cni = _first(config, _RUNTIME, "cni")
    bins = tuple([_text(cni, "bin_dir")] if _text(cni, "bin_dir") else _texts(cni, "bin_dirs")) or (_CNI_BIN,)
    return Containerd(
        version=version,
        root=_text(config, "root") or Containerd().root,
        pause_image=next(_pause_images(config), ""),
        cni_bin=bins[0],
        cni_bins=bins,
        cni_conf=_text(cni, "conf_dir") or _CNI_CONF,
        cgroup_driver=_cgroup_driver(config),
        imports=tuple(_texts(config, "imports")),
    )


def _loads(text: str) -> Table:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise RefusedError(
            "containerd's configuration is not TOML", where=CONFIG, found=str(error),
            remedy="put the file right: containerd cannot start again with it",
        ) from error  # fmt: skip


def reported_driver(containerd: Containerd) -> str:
    """The cgroup driver that it tells a kubelet which asks (containerd 2 on); empty where it doesn't, or unknown."""
    major = containerd.version.partition(".")[0]
    return containerd.cgroup_driver if major.isdigit() and int(major) >= 2 else ""


def _pause_images(config: Table) -> Iterator[str]:
    for plugin in _IMAGES:
        found = _text(_table(config, "plugins", plugin, "pinned_images"), "sandbox") or _text(
            _table(config, "plugins", plugin), "sandbox_image"
        )
        if found:
            yield found


def _cgroup_driver(config: Table) -> str:
    """As the default runtime's options say; empty where they don't."""
    containerd = _first(config, _RUNTIME, "containerd")
    name = _text(containerd, "default_runtime_name") or "runc"
    systemd = _table(containerd, "runtimes", name, "options").get("SystemdCgroup")
    return "" if systemd is None else "systemd" if systemd is True else "cgroupfs"


def _first(config: Table, plugins: tuple[str, ...], key: str) -> Table:
    return next((found for plugin in plugins if (found := _table(config, "plugins", plugin, key))), {})


def _table(at: object, *keys: str) -> Table:
    for key in keys:
        at = at.get(key) if isinstance(at, Mapping) else None
    return at if isinstance(at, Mapping) else {}


def _text(table: Table, key: str) -> str:
    value = table.get(key)
    return value if isinstance(value, str) else ""


def _texts(table: Table, key: str) -> list[str]:
    value = table.get(key)
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []
