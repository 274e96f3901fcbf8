"""Packages of the distribution that Sysbox, CRI-O and the kubelet's pods use."""

from installer import support
from installer.changes import InstallPackage
from installer.errors import RefusedError
from installer.facts.model import Facts
from installer.settings import Settings
from installer.steps.base import Nothing, Wanted
from installer.steps.sysbox import ARTIFACT


def crio(facts: Facts, settings: Settings) -> Wanted:
    """iptables, which CRI-O needs for host ports."""
    yield InstallPackage("iptables", commands=("iptables",))


def sysbox(facts: Facts, settings: Settings) -> Wanted:
    """rsync and a FUSE userspace. One that is there is kept: installing fuse would displace fuse3."""
    yield InstallPackage("rsync", commands=("rsync",))
    version = facts.artifacts[ARTIFACT].version
    commands = support.fuse_commands(version)
    there = [p for p in ("fuse3", "fuse") if p in facts.packages and f"package:{p}" not in facts.ours]
    serving = [p for p in there if set(commands) <= set(support.data()["fuse"]["commands"][p])]
    if serving:
        yield Nothing(f"package {serving[0]} {facts.packages[serving[0]]} is installed")
    elif there:
        raise RefusedError(
            f"Sysbox {version} needs {', '.join(commands)}, which {there[0]} lacks, and fuse3 would displace that",
            where=f"package {there[0]}",
            found=facts.packages[there[0]],
            remedy="apt-get install fuse3 (it removes fuse), if nothing else on the node needs fuse",
        )
    else:
        yield InstallPackage(support.fuse_package(facts.os, version), commands=commands)
