"""Modules and kernel settings that pods need, now and at boot."""

from installer.changes import LoadModule, SetSysctl, WriteFile
from installer.facts.model import Facts
from installer.settings import Settings
from installer.steps.base import Nothing, Wanted

MODULES = ("overlay", "br_netfilter")
SYSCTLS = {
    "net.ipv4.ip_forward": "1",
    "net.bridge.bridge-nf-call-iptables": "1",
    "net.bridge.bridge-nf-call-ip6tables": "1",
}
MODULES_FILE = "/etc/modules-load.d/sysbox-deploy.conf"
SYSCTL_FILE = "/etc/sysctl.d/99-sysbox-deploy.conf"


def wanted(facts: Facts, settings: Settings) -> Wanted:
    """Modules first: the bridge's settings exist only once br_netfilter is loaded."""
    usable = [name for name in MODULES if facts.modules[name].loaded or facts.modules[name].available]
    for name in MODULES:
        if name not in usable:
            yield Nothing(f"this kernel has no module {name}; left alone")
    for name in usable:
        yield LoadModule(name)
    bridged = "br_netfilter" in usable
    settable = {k: v for k, v in SYSCTLS.items() if bridged or not k.startswith("net.bridge.")}
    for name, value in settable.items():
        now = facts.sysctls.get(name)
        if now and not now.writable and now.value != value:
            yield Nothing(f"{name} is {now.value} and read-only here; left alone")
        else:
            yield SetSysctl(name, value)
    # Files last, and so the first to go: what a boot in between sets from them would not be known as ours.
    if usable:
        yield WriteFile(MODULES_FILE, "".join(f"{name}\n" for name in usable))
    yield WriteFile(SYSCTL_FILE, "".join(f"{k} = {v}\n" for k, v in settable.items()))
