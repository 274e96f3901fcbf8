"""shiftfs where the kernel wants it and has none: built by DKMS from the sources that the image carries."""

import re

from installer import support
from installer.changes import BuildModule, Change, InstallPackage, LoadModule, WriteFile, load
from installer.changes.dkms import SUFFIXES, TREE, module_path
from installer.errors import RefusedError
from installer.facts.model import Facts
from installer.settings import Settings, variable
from installer.steps.base import Nothing, Wanted

MODULE = "shiftfs"
MODULES_FILE = "/etc/modules-load.d/sysbox-deploy-shiftfs.conf"
_TOOL = "dkms"


def branch(facts: Facts, settings: Settings) -> str:
    """The branch of shiftfs-dkms that is to be built here; empty where none is."""
    return "" if _needless(facts, settings) else support.for_kernel(facts.kernel.version).branch


def wanted(facts: Facts, settings: Settings) -> Wanted:
    """The build's tools, the module, and its loading, now and at boot."""
    if reason := _needless(facts, settings):
        yield Nothing(reason)
        return
    if hindrance := _hindrance(facts, settings):
        yield _without(facts, *hindrance)
        return
    yield InstallPackage(_TOOL, commands=(_TOOL,))
    yield _headers(facts)
    yield _build(facts)
    yield WriteFile(MODULES_FILE, f"{MODULE}\n")
    yield LoadModule(MODULE)


def _needless(facts: Facts, settings: Settings) -> str:
    """Why this kernel gets no shiftfs from us; empty where it shall."""
    release, wants = facts.kernel.release, support.for_kernel(facts.kernel.version)
    if settings.shiftfs == "off":
        return f"{variable('shiftfs')} is off"
    if wants.need == "none":
        return f"kernel {release} needs no shiftfs: it has ID-mapped mounts"
    if _has_its_own(facts):
        return f"kernel {release} has shiftfs already"
    if support.breaks_shiftfs(release):
        return f"shiftfs is {wants.need}, but does not work on kernel {release}"
    if not wants.branch:
        return f"shiftfs is {wants.need}, but no sources of it build for kernel {release}"
    return ""


def _hindrance(facts: Facts, settings: Settings) -> tuple[str, str, str, str] | None:
    """Why the module can't be had though it should: what, where, found, remedy."""
    release = facts.kernel.release
    if facts.kernel.secure_boot and "secure-boot" not in settings.allow:
        remedy = "enrol the key that DKMS signs with (mokutil --import, then reboot), or turn Secure Boot off"
        found = "Secure Boot is on, and a key can be enrolled at the machine's console only"
        return "Secure Boot loads no module that is built here", "the firmware", found, remedy
    for others in (f"{TREE}/{MODULE}", *(f"{module_path(release, MODULE)}{suffix}" for suffix in SUFFIXES)):
        if others in facts.files and not _is_ours(facts):
            remedy = f"finish it for this kernel (dkms install -m {MODULE} -v VERSION), or remove it from DKMS"
            return "DKMS has one that is not ours", others, "not ready for this kernel", remedy
    folder = f"{settings.shiftfs_sources}/{support.for_kernel(facts.kernel.version).branch}"
    sources = facts.shiftfs_sources
    if sources is None and _built(facts):
        return None
    if sources is None:
        return "this image has no sources of it", folder, "no such folder", "use an image that carries them"
    if not re.search(sources.kernels, release):
        found = f"they are for {sources.kernels}, it is {release}"
        return "its sources do not build for this kernel", folder, found, "use an image that carries newer ones"
    return _no_headers(facts)


def _no_headers(facts: Facts) -> tuple[str, str, str, str] | None:
    """Where apt's lists are empty, nothing is known yet: then the installation will tell."""
    package = _headers_package(facts)
    known = facts.kernel.has_headers or package in facts.packages or package in facts.offers
    if known or _TOOL not in facts.offers:
        return None
    remedy = "apt-get update; if they stay away, upgrade the kernel and boot it"
    return "the kernel's headers can't be had", f"apt-cache madison {package}", f"no package {package}", remedy


def _without(facts: Facts, what: str, where: str, found: str, remedy: str) -> Nothing:
    """Only recommended: the node goes without. Raises RefusedError where it is needed."""
    need = support.for_kernel(facts.kernel.version).need
    if need != "needed":
        return Nothing(f"shiftfs is {need}, but {what} ({found}); remedy: {remedy}")
    raise RefusedError(
        f"kernel {facts.kernel.release} needs shiftfs, but {what}",
        where=where,
        found=found,
        remedy=f"{remedy}; or go without volumes of the host in Sysbox pods: {variable('shiftfs')}=off",
    )


def _headers(facts: Facts) -> Change | Nothing:
    package = InstallPackage(_headers_package(facts))
    if facts.kernel.has_headers and package.key not in facts.ours and package.name not in facts.packages:
        return Nothing(f"the headers of kernel {facts.kernel.release} are there")
    return package


def _build(facts: Facts) -> Change:
    """From the image's sources, or as it was built where the image no longer has them."""
    sources = facts.shiftfs_sources
    if sources is None:
        return load(dict(_built(facts)))
    return BuildModule(MODULE, sources.version, facts.kernel.release, tuple(sorted(sources.files.items())))


def _built(facts: Facts) -> dict[str, object]:
    """What the journal has of our build for this kernel; empty where there is none."""
    ours = (dict(change) for key, change in facts.ours.items() if key.startswith(f"dkms:{MODULE}-"))
    return next((change for change in ours if change["release"] == facts.kernel.release), {})


def _has_its_own(facts: Facts) -> bool:
    """Whether the kernel has one that is not of our making; Ubuntu's comes with a package of extra modules."""
    extra = f"/lib/modules/{facts.kernel.release}/kernel/fs/{MODULE}.ko"
    return (facts.kernel.has_shiftfs and not _is_ours(facts)) or any(extra + s in facts.files for s in SUFFIXES)


def _is_ours(facts: Facts) -> bool:
    return any(key.startswith(f"dkms:{MODULE}-") for key in facts.ours)


def _headers_package(facts: Facts) -> str:
    return f"linux-headers-{facts.kernel.release}"
