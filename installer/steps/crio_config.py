"""CRI-O's configuration as drop-ins of ours, and its service, proven by asking CRI-O itself."""

import tomllib

import tomlkit

from installer.changes import ContainerRuntime, WriteFile
from installer.errors import SettingsError
from installer.facts import registries
from installer.facts.model import Facts
from installer.settings import Settings
from installer.steps.base import Nothing, Wanted
from installer.steps.crio_package import PACKAGE, is_adopted

_CONF = "/etc/crio/crio.conf.d"
CONFIG = f"{_CONF}/90-sysbox-deploy.conf"
HANDLER = f"{_CONF}/91-sysbox-deploy-handler.conf"
_OPERATOR = f"{_CONF}/95-sysbox-deploy-"
_SERVICE = "/etc/systemd/system/crio.service.d/50-sysbox-deploy.conf"
_REGISTRIES = registries.OURS
UNIT = "crio.service"
RUNTIME = "sysbox-runc"
ANNOTATION = "io.kubernetes.cri-o.userns-mode"
# containerd's defaults; CRI-O's own list is shorter, and pods made for containerd miss the rest.
_CAPABILITIES = (
    *(
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
    ),
    *("NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE"),
)
_PLUGINS = ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni")


def crio(facts: Facts, settings: Settings) -> Wanted:
    """CRI-O as the kubelet and pods made for containerd expect it."""
    yield from _files(facts, settings)
    yield _service(facts, settings, ())


def sysbox(facts: Facts, settings: Settings) -> Wanted:
    """The same, with Sysbox as a handler."""
    yield from _files(facts, settings)
    yield WriteFile(HANDLER, _handler())
    yield _service(facts, settings, (RUNTIME,))


def _files(facts: Facts, settings: Settings) -> Wanted:
    yield WriteFile(CONFIG, _config(facts, settings))
    # Bundles keep their helpers in a folder of their own; the handler's monitor is looked up in PATH.
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/libexec/crio:/usr/lib/crio"
    yield WriteFile(_SERVICE, f"[Service]\nEnvironment=PATH={path}\n")
    yield from _registries(facts)
    for name, text in facts.drop_ins.items():
        yield WriteFile(_OPERATOR + name, _toml(text, f"{settings.crio_drop_ins}/{name}"))
    if is_adopted(facts):
        yield Nothing("CRI-O's storage stays as its admin set it")


def _registries(facts: Facts) -> Wanted:
    """Where CRI-O pulls from, as containerd is told."""
    short = '# as containerd takes names without a registry\nunqualified-search-registries = ["docker.io"]\n'
    tables = registries.conf(facts.registries)
    yield WriteFile(_REGISTRIES, f"{short}\n# as containerd's configuration says\n{tables}" if tables else short)
    for path, certificates in registries.certificates(facts.registries).items():
        yield WriteFile(path, certificates)
    for remark in facts.registries.remarks:
        yield Nothing(remark)


def _toml(text: str, where: str) -> str:
    """The operator's text. Raises SettingsError where CRI-O could not start with it."""
    try:
        tomllib.loads(text.encode().decode())  # no stray bytes either
    except (ValueError, RecursionError) as error:
        raise SettingsError(
            "a drop-in for CRI-O is not TOML", where=where, found=str(error), remedy="correct it"
        ) from error
    return text


def _service(facts: Facts, settings: Settings, handlers: tuple[str, ...]) -> ContainerRuntime:
    files = [CONFIG, _SERVICE, _REGISTRIES, HANDLER, *(_OPERATOR + name for name in facts.drop_ins)]
    # The operator's own drop-ins come later and may set anything: only what they leave is ours to prove.
    said = "" if facts.drop_ins else _driver(facts)
    expected = (("crio.runtime.cgroup_manager", said),) if said else ()
    watches = (f"package:{PACKAGE}", *(f"file:{path}" for path in files))
    return ContainerRuntime(UNIT, watches=watches, handlers=handlers, expected=expected)


def _config(facts: Facts, settings: Settings) -> str:
    document = tomlkit.document()
    document.add(
        tomlkit.comment(
            "Written by sysbox-deploy; its cleanup removes it. Put your own settings in a file that sorts later."
        )
    )
    crio = tomlkit.table()
    if not is_adopted(facts):
        crio["storage_driver"] = "overlay"
    document["crio"] = crio
    runtime = tomlkit.table()
    runtime["cgroup_manager"] = _driver(facts)
    runtime["conmon_cgroup"] = "system.slice" if _driver(facts) == "systemd" else "pod"
    runtime["pids_limit"] = settings.pids_limit
    runtime["default_capabilities"] = list(_CAPABILITIES)
    crio["runtime"] = runtime
    pause = facts.containerd.pause_image or (facts.kubelet.pause_image if facts.kubelet else "")
    if pause:
        # CRI-O pins it by itself only since 1.29; without it the kubelet's clean-up could end every new pod.
        crio["image"] = {"pause_image": pause, "pinned_images": [pause]}
    crio["network"] = _network(facts)
    return tomlkit.dumps(document)


def _network(facts: Facts) -> dict[str, object]:
    """The directories in use: containerd's, and where distributions put the plugins."""
    wanted = [*facts.containerd.cni_bins, *_PLUGINS]
    there = [
        path for path in dict.fromkeys(wanted) if path and facts.files.get(path) and facts.files[path].kind != "file"
    ]
    return {
        "network_dir": facts.containerd.cni_conf or "/etc/cni/net.d",
        "plugin_dirs": there or [_PLUGINS[0]],
    }


def _driver(facts: Facts) -> str:
    return facts.kubelet.cgroup_driver if facts.kubelet else "systemd"


def _handler() -> str:
    table = {
        "runtime_path": "/usr/bin/sysbox-runc",
        "runtime_type": "oci",
        "runtime_root": "/run/sysbox-runc",
        "allowed_annotations": [ANNOTATION],
    }
    return tomlkit.dumps({"crio": {"runtime": {"runtimes": {RUNTIME: table}}}})
