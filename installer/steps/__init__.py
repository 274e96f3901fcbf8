"""The steps of each profile, in the order in which each rests on those before it."""

from installer.steps import crio_config, crio_package, kernel, kubelet, packages, shiftfs, subids, sysbox
from installer.steps.base import Nothing, Step, Wanted

__all__ = ["ORDER", "Nothing", "Step", "Wanted"]

_KERNEL = Step("kernel", kernel.wanted)
_SUBIDS = Step("subids", subids.pods)
_CRIO = Step("crio", crio_package.wanted)
_KUBELET = Step("kubelet", kubelet.wanted)

ORDER: dict[str, tuple[Step, ...]] = {
    "crio": (
        *(_KERNEL, _SUBIDS, Step("packages", packages.crio), _CRIO),
        *(Step("crio-config", crio_config.crio), _KUBELET),
    ),
    "sysbox": (
        *(_KERNEL, _SUBIDS, Step("packages", packages.crio), Step("sysbox-packages", packages.sysbox), _CRIO),
        *(Step("sysbox-subids", subids.manager), Step("shiftfs", shiftfs.wanted), Step("sysbox", sysbox.wanted)),
        *(Step("crio-config", crio_config.sysbox), _KUBELET),
    ),
}
"""Steps by profile."""
