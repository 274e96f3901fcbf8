"""Packages of the distribution that Sysbox, CRI-O and the kubelet's pods use."""

from installer import support
from installer.changes import InstallPackage
from installer.facts.model import Facts
from installer.settings import Settings
from installer.steps.base import Nothing, Wanted


def crio(facts: Facts, settings: Settings) -> Wanted:
    """iptables, which CRI-O needs for host ports."""
    yield InstallPackage("iptables", commands=("iptables",))


def sysbox(facts: Facts, settings: Settings) -> Wanted:
    """rsync and a FUSE userspace. One that is there is kept: installing fuse would displace fuse3."""
    yield InstallPackage("rsync", commands=("rsync",))
    there = next((p for p in ("fuse3", "fuse") if p in facts.packages and f"package:{p}" not in facts.ours), None)
    if there:
        yield Nothing(f"package {there} {facts.packages[there]} is installed")
    else:
        yield InstallPackage(support.fuse_package(facts.os), commands=("fusermount",))
