"""The kubelet's move to CRI-O, by the smallest change that its unit's own files allow."""

from installer.changes import Change, SwitchRuntime, UnitState, load
from installer.errors import RefusedError
from installer.facts.crio import ENDPOINT
from installer.facts.kubelet import flag
from installer.facts.model import Facts, Kubelet
from installer.host import decode
from installer.settings import Settings
from installer.steps.base import Nothing, Wanted
from installer.steps.crio_config import UNIT
from installer.steps.kubelet_files import point_at

_OLD = "containerd.service"
_FLAG = "container-runtime-endpoint"
_CGROUPS = "/system.slice/crio.service"


def wanted(facts: Facts, settings: Settings) -> Wanted:
    """The switch itself, and the old runtime stopped after it (kept, for the way back)."""
    kubelet = facts.kubelet
    assert kubelet is not None  # support refused the node otherwise
    ours = facts.ours.get(f"switch:{kubelet.unit}")
    if ours:
        before: Change = load(dict(ours))
        yield before if before.satisfied(facts) else _switch(kubelet, facts)
    elif "crio" in kubelet.endpoint:
        if kubelet.process and flag(kubelet.process, _FLAG) != flag(kubelet.arguments, _FLAG):
            raise _not_restarted(kubelet)
        yield Nothing("the kubelet runs on CRI-O already; it stays there at cleanup")
        return
    else:
        yield _switch(kubelet, facts)
    yield _stop_old(facts)


def _switch(kubelet: Kubelet, facts: Facts) -> SwitchRuntime:
    edit = point_at(kubelet, ENDPOINT, _CGROUPS)
    if edit is None:
        raise _not_restarted(kubelet)
    now = facts.files.get(edit.path)
    return SwitchRuntime(
        kubelet.unit,
        edit.path,
        decode(edit.new),
        kubelet.endpoint,
        ENDPOINT,
        _OLD,
        UNIT,
        kubelet.healthz,
        *((now.mode, now.uid, now.gid) if now else (0o644, 0, 0)),
    )


def _not_restarted(kubelet: Kubelet) -> RefusedError:
    return RefusedError(
        "the kubelet's files name CRI-O but it runs on another runtime",
        where=kubelet.unit,
        found=f"--{_FLAG}={flag(kubelet.process, _FLAG) or ''}",
        remedy="systemctl restart kubelet",
    )


def _stop_old(facts: Facts) -> Change | Nothing:
    if facts.containerd.others or facts.unit("docker.service").is_active:
        users = ", ".join(facts.containerd.others) or "docker"
        return Nothing(f"containerd goes on running: {users} uses it")
    if facts.unit(_OLD).load != "loaded":
        return Nothing("there is no containerd.service to stop")
    return UnitState(_OLD, enabled=False, active=False)
