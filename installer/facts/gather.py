"""All facts of a host, by as few commands as it takes. Only reads."""

import dataclasses
import platform

from installer.facts import containerd, crio, debian, kubelet, lazy, registries
from installer.facts.model import Facts, Kernel, Os
from installer.facts.units import look_all
from installer.host import Host, decode

_COMMANDS = (
    "crio",
    "crictl",
    "ctr",
    "rsync",
    "fusermount",
    "fusermount3",
    "iptables",
    "dkms",
    "containerd",
    "modprobe",
    "apt-get",
    "systemctl",
)
_FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_UNITS = (
    *("kubelet.service", "containerd.service", "crio.service", "docker.service"),
    *("sysbox.service", "sysbox-mgr.service", "sysbox-fs.service"),
)
_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}


def gather(host: Host, units: tuple[str, ...] = ()) -> Facts:
    """What the host is now, `units` among the units looked at.

    What comes from outside (keys, artifacts) and the journal are added by the engine.
    """
    commands = frozenset(c for c in _COMMANDS if any(host.exists(f"{folder}/{c}") for folder in _FOLDERS))
    release = _text(host, "/proc/sys/kernel/osrelease")
    old, new = containerd.gather(host), crio.gather(host, commands)
    config = containerd.complete(host, old)
    old = dataclasses.replace(old, pause_image=old.pause_image or containerd.parse(config).pause_image)
    drivers = {
        "containerd": containerd.reported_driver(old),
        "crio": str(crio.value(new.effective, "crio.runtime.cgroup_manager") or ""),
    }
    return Facts(
        os=parse_os_release(_text(host, "/etc/os-release")),
        kernel=_kernel(host, release),
        swap=tuple(line.split()[0] for line in _text(host, "/proc/swaps").splitlines()[1:]),
        modules=lazy.modules(host, release),
        sysctls=lazy.sysctls(host),
        files=lazy.files(host),
        links=lazy.links(host),
        packages=debian.installed(host),
        offers=lazy.offers(host),
        commands=commands,
        units=look_all(host, (*_UNITS, *units)),
        troubled=tuple(debian.troubled(host)),
        kubelet=kubelet.gather(host, drivers),
        containerd=old,
        crio=new,
        registries=registries.read(host, config),
    )


def parse_os_release(text: str) -> Os:
    """/etc/os-release; fields that it lacks stay empty."""
    has = {}
    for line in text.splitlines():
        name, _, value = line.strip().partition("=")
        has[name] = value.strip().strip("\"'")
    return Os(
        has.get("ID", ""),
        has.get("VERSION_ID", ""),
        has.get("VERSION_CODENAME", ""),
        has.get("PRETTY_NAME", ""),
    )


def _kernel(host: Host, release: str) -> Kernel:
    known = decode(host.read(f"/lib/modules/{release}/modules.dep") or b"")
    machine = platform.machine()
    return Kernel(
        release,
        _ARCH.get(machine, machine),
        has_shiftfs="/shiftfs.ko" in known or host.exists("/sys/module/shiftfs"),
        has_headers=host.exists(f"/lib/modules/{release}/build"),
        secure_boot=_secure_boot(host),
    )


def _secure_boot(host: Host) -> bool:
    """The UEFI variable's last byte (UEFI specification 3.3); no variable, no Secure Boot."""
    folder = "/sys/firmware/efi/efivars"
    for name in host.names(folder):
        if name.startswith("SecureBoot-"):
            return (host.read(f"{folder}/{name}") or b"\0")[-1] == 1
    return False


def _text(host: Host, path: str) -> str:
    return decode(host.read(path) or b"").strip()
