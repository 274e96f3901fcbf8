"""The node judged before anything is touched: findings by name, each with what was found and the remedy."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from installer.errors import RefusedError
from installer.facts.kubelet import runtime_of
from installer.facts.model import Facts, Kubelet
from installer.settings import variable
from installer.support import breaks_shiftfs, data, distro, for_kernel, known, version_of

PACKAGE = "cri-o"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One judgement of a node. `name` is stable: it is what `SYSBOX_DEPLOY_ALLOW` takes."""

    name: str
    level: Literal["refuse", "warn", "fine"]
    what: str
    found: str
    remedy: str = ""


def judge(facts: Facts, allow: frozenset[str], allow_control_plane: bool, profile: str) -> list[Finding]:
    """Every finding about the node; a refusing one warns where its name is in `allow`."""
    judges = _JUDGES if profile == "sysbox" else {k: v for k, v in _JUDGES.items() if k not in _SYSBOX_ONLY}
    if allow_control_plane:
        allow |= {"control-plane"}
    found = [_named(name, verdict) for name, look in judges.items() if (verdict := look(facts))]
    return [_allowed(finding, allow) for finding in found] + [_unknown(n) for n in sorted(allow - NAMES)]


def refused(findings: Iterable[Finding]) -> RefusedError | None:
    """The findings that refuse, as one error; None where none does."""
    bad = [f for f in findings if f.level == "refuse"]
    if not bad:
        return None
    lines = [f"{f.name}: {f.what}" for f in bad]
    return RefusedError(
        "this node is not one that is supported: " + "; ".join(lines),
        where="preflight",
        found="; ".join(f"{f.name}: {f.found}" for f in bad),
        remedy="; ".join(f"{f.name}: {f.remedy}" for f in bad)
        + f"; or go on at your own risk: {variable('allow')}={','.join(f.name for f in bad)}",
    )


_Verdict = tuple[Literal["refuse", "warn", "fine"], str, str, str]
"""Level, what, found, remedy."""


def _fine(what: str, found: str) -> _Verdict:
    return "fine", what, found, ""


def _named(name: str, verdict: _Verdict) -> Finding:
    return Finding(name, *verdict)


def _allowed(finding: Finding, allow: frozenset[str]) -> Finding:
    if finding.level != "refuse" or finding.name not in allow:
        return finding
    return dataclasses.replace(finding, level="warn", what=f"{finding.what} (allowed by the settings)")


def _unknown(name: str) -> Finding:
    what = "the settings allow a finding that does not exist"
    remedy = f"correct {variable('allow')}; the names: {', '.join(sorted(NAMES))}"
    return Finding("allow", "warn", what, name, remedy)


def _systemd(facts: Facts) -> _Verdict:
    if "systemctl" in facts.commands or any(unit.load == "loaded" for unit in facts.units.values()):
        return _fine("systemd runs the node", "systemctl")
    return "refuse", "the node is not run by systemd", "no systemctl", "use a node whose init is systemd"


def _distribution(facts: Facts) -> _Verdict:
    found = f"{facts.os.id} {facts.os.version}".strip() or "no ID in /etc/os-release"
    if distro(facts.os):
        return _fine("the distribution is supported", found)
    names = ", ".join(f"{d['id']} {d['version']}" for d in data()["distro"])
    return "refuse", "the distribution is not supported", found, f"use one of {names}"


def _architecture(facts: Facts) -> _Verdict:
    known = data()["architectures"]
    if facts.kernel.arch in known:
        return _fine("the architecture is supported", facts.kernel.arch)
    found = facts.kernel.arch or "unknown"
    return "refuse", "the architecture is not supported", found, f"use one of {', '.join(known)}"


def _kernel(facts: Facts) -> _Verdict:
    oldest, found = data()["kernel"]["oldest"], facts.kernel.release
    if facts.kernel.version == (0, 0):
        return "refuse", "the kernel's version can't be told", found or "nothing", "see what `uname -r` says"
    if facts.kernel.version >= known(oldest):
        return _fine(f"the kernel is {oldest} or later", found)
    newer = (distro(facts.os) or {}).get("newer_kernel", f"install a kernel {oldest} or later")
    return "refuse", f"the kernel is older than {oldest}", found, f"{newer}; then reboot"


def _control_plane(facts: Facts) -> _Verdict:
    if not facts.control_plane:
        return _fine("a worker node", "no control plane")
    what = "a control-plane node: it would lose its control plane while its runtime changes"
    remedy = f"label worker nodes only, or set {variable('allow_control_plane')}=true"
    return "refuse", what, "/etc/kubernetes/manifests or the node's role", remedy


def _flavour(facts: Facts) -> _Verdict:
    others = data()["kubernetes"]["other_flavours"]
    other = [name for unit, name in others.items() if facts.unit(unit).load == "loaded"]
    unit = facts.kubelet.unit if facts.kubelet else ""
    flavour = facts.kubelet.flavour if facts.kubelet else ""
    if facts.kubelet and not flavour and unit not in others and not unit.startswith("snap."):
        return _fine("a kubelet that systemd runs", unit)
    found = ", ".join(dict.fromkeys(other)) or flavour or unit or "no kubelet.service"
    remedy = "use a node whose kubelet is a systemd service laid out as kubeadm's packages do"
    return "refuse", "the kubelet is not of a kind that can be moved to CRI-O", found, remedy


def _kubernetes(kubelet: Kubelet) -> _Verdict:
    minors, version = data()["kubernetes"]["minors"], version_of(kubelet.version)
    if version is None:
        found = kubelet.version or "nothing"
        return "refuse", "the kubelet's version can't be told", found, "see what `kubelet --version` says"
    if "{}.{}".format(*version) in minors:
        return _fine("the Kubernetes version is supported", kubelet.version)
    remedy = f"use one of {', '.join(minors)}"
    return "refuse", "the Kubernetes version is not supported", kubelet.version, remedy


def _crio(facts: Facts) -> _Verdict:
    if not facts.crio.version and not facts.crio.path:
        return _fine("no CRI-O is in the way", "not installed")
    version = version_of(facts.crio.version)
    if f"package:{PACKAGE}" in facts.ours:
        return _fine("CRI-O is ours to keep at the kubelet's minor", facts.crio.version)
    wanted = version_of(facts.kubelet.version) if facts.kubelet else None
    found = facts.crio.version or f"{facts.crio.path} that names no version"
    if version is None:
        return "refuse", "CRI-O's version can't be told", found, "see what `crio --version` says"
    minor = "{}.{}".format(*wanted) if wanted else "of the kubelet's minor"
    remedy = f"install CRI-O {minor}, or remove this one and let sysbox-deploy install it"
    for rule in data()["crio"]["refused"]:
        if version == known(rule["minor"]) if "minor" in rule else version < known(rule["below"]):
            return "refuse", rule["why"], found, remedy
    if wanted and version != wanted:
        return "refuse", f"CRI-O's minor is not the kubelet's, {minor}", found, remedy
    return _fine("CRI-O's minor is the kubelet's", found)


def _dpkg(facts: Facts) -> _Verdict:
    # A run of ours that was cut off is finished by us; anybody else's is not ours to repair.
    if not facts.troubled or any(key.startswith("package:") for key in facts.ours):
        return _fine("no package is half-installed", "dpkg --audit")
    what = "an interrupted run of dpkg left packages behind"
    return "refuse", what, ", ".join(facts.troubled), "dpkg --configure -a (and apt-get --fix-broken install)"


def _user_namespaces(kubelet: Kubelet) -> _Verdict:
    # From 1.33 on the kubelet itself tells the runtime of every pod whether it has a user namespace.
    version = version_of(kubelet.version)
    gates = kubelet.config.get("featureGates")
    off = isinstance(gates, Mapping) and gates.get("UserNamespacesSupport") is False
    if version is None or version < (1, 33) or off:
        return _fine("pods get their user namespace by CRI-O's annotation", f"Kubernetes {kubelet.version}")
    what = "CRI-O's annotation io.kubernetes.cri-o.userns-mode has no effect on this kubelet"
    remedy = "write `hostUsers: false` in pods for Sysbox, or set featureGates.UserNamespacesSupport=false"
    return "warn", what, f"Kubernetes {kubelet.version}", remedy


def _runtime(kubelet: Kubelet) -> str:
    return runtime_of(kubelet.endpoint, kubelet.arguments, kubelet.version)


def _container_runtime(kubelet: Kubelet) -> _Verdict:
    runtime = _runtime(kubelet)
    found = f"{runtime} at {kubelet.endpoint or 'no endpoint'}"
    if runtime in ("containerd", "crio"):
        return _fine("the kubelet's runtime is one that can be moved from", found)
    remedy = "move the node to containerd first: https://kubernetes.io/docs/tasks/administer-cluster/migrating-from-dockershim/"
    return "refuse", f"the kubelet's runtime is {runtime}, not containerd or CRI-O", found, remedy


def _containerd(facts: Facts) -> _Verdict | None:
    if facts.kubelet is None or facts.kubelet.flavour or _runtime(facts.kubelet) != "containerd":
        return None
    oldest, newest = data()["containerd"]["oldest"], data()["containerd"]["newest"]
    version, found = version_of(facts.containerd.version), facts.containerd.version or "nothing"
    if version is None:
        return "refuse", "containerd's version can't be told", found, "see what `containerd --version` says"
    if version < known(oldest):
        return "refuse", f"containerd is older than {oldest}", found, f"upgrade it to {oldest} or later"
    if version > known(newest):
        what = f"containerd is newer than {newest}, the latest known"
        return "warn", what, found, "see that its images are carried over"
    return _fine("the containerd version is known", found)


def _cgroup_driver(kubelet: Kubelet) -> _Verdict:
    if kubelet.cgroup_driver in ("systemd", "cgroupfs"):
        return _fine("the kubelet's cgroup driver is known", kubelet.cgroup_driver)
    remedy = "set cgroupDriver in the kubelet's configuration to systemd or cgroupfs"
    return "refuse", "the kubelet's cgroup driver can't be told", kubelet.cgroup_driver or "nothing", remedy


def _swap(facts: Facts) -> _Verdict:
    if not facts.swap:
        return _fine("no swap", "none")
    what = "swap is on, which Kubernetes is not made for unless it is told so"
    return "warn", what, ", ".join(facts.swap), "swapoff -a, and take it out of /etc/fstab"


def _shiftfs(facts: Facts) -> _Verdict | None:
    kernel, wanted = facts.kernel, for_kernel(facts.kernel.version)
    if kernel.version == (0, 0):
        return None
    if wanted.need == "none":
        return _fine("this kernel needs no shiftfs", kernel.release)
    newer = f"or use a kernel {data()['shiftfs']['recommended_below']} or later, which needs no shiftfs"
    if breaks_shiftfs(kernel.release):
        return "warn", "shiftfs does not work on this kernel", kernel.release, f"upgrade the kernel, {newer}"
    if not kernel.has_shiftfs and not wanted.branch:
        what = f"shiftfs is {wanted.need} and no sources build for this kernel: host volumes will be nobody's"
        return "warn", what, kernel.release, f"mount no volumes of the host in Sysbox pods, {newer}"
    if not kernel.has_shiftfs and facts.os.id != "ubuntu":
        what = "shiftfs works well only with patches that Ubuntu's kernels carry"
        return "warn", what, f"{facts.os.id} {kernel.release}", f"use Ubuntu's kernel, {newer}"
    found = "there" if kernel.has_shiftfs else f"to be built from {wanted.branch}"
    return _fine(f"shiftfs is {wanted.need}", found)


def _secure_boot(facts: Facts) -> _Verdict:
    wanted = for_kernel(facts.kernel.version)
    if not facts.kernel.secure_boot:
        return _fine("modules need no signature", "Secure Boot is off")
    if facts.kernel.has_shiftfs or wanted.need == "none" or not wanted.branch:
        return _fine("no module has to be built", "Secure Boot is on")
    what = f"shiftfs is {wanted.need}, and Secure Boot loads only modules signed by a key that it knows"
    remedy = (
        "enrol the key that DKMS signs with (mokutil --import, then reboot), turn Secure Boot off,"
        f" use a kernel {data()['shiftfs']['recommended_below']} or later, or set {variable('shiftfs')}=off"
    )
    return "refuse" if wanted.need == "needed" else "warn", what, "Secure Boot is on", remedy


def _of_kubelet(look: Callable[[Kubelet], _Verdict]) -> Callable[[Facts], _Verdict | None]:
    return lambda facts: look(facts.kubelet) if facts.kubelet and not facts.kubelet.flavour else None


_JUDGES: dict[str, Callable[[Facts], _Verdict | None]] = {
    "distro": _distribution,
    "architecture": _architecture,
    "kernel-version": _kernel,
    "systemd": _systemd,
    "control-plane": _control_plane,
    "kubelet-flavour": _flavour,
    "kubernetes-version": _of_kubelet(_kubernetes),
    "container-runtime": _of_kubelet(_container_runtime),
    "containerd-version": _containerd,
    "crio-version": _crio,
    "cgroup-driver": _of_kubelet(_cgroup_driver),
    "dpkg": _dpkg,
    "user-namespaces": _of_kubelet(_user_namespaces),
    "swap": _swap,
    "shiftfs": _shiftfs,
    "secure-boot": _secure_boot,
}
_SYSBOX_ONLY = frozenset({"shiftfs", "secure-boot", "user-namespaces"})
NAMES = frozenset(_JUDGES)
"""The names that a finding can have."""
FLAVOUR_UNITS: tuple[str, ...] = tuple(data()["kubernetes"]["other_flavours"])
"""Units that name another kind of Kubernetes where they are loaded."""
