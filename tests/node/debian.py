"""The Debian machine: a tree with systemd, apt and containerd, by mmdebstrap. This file is the recipe."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

from tests.components import cache
from tests.node import network

MIRROR = "http://deb.debian.org/debian"
SECURITY = "http://deb.debian.org/debian-security"
SUITE = "bookworm"

# what a Debian server with kubeadm's requirements has; conmon, crun, rsync, fuse3, gnupg, curl are left out
_PACKAGES = (
    "systemd,systemd-sysv,dbus,udev,apt,ca-certificates,iproute2,iptables,kmod,procps,netbase,adduser,"
    "containerd,runc,containernetworking-plugins,conntrack,socat,ethtool,ebtables,ipset"
)
# they would take dpkg's lock, or work in the background, whenever they like
_MASKED = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
)

_FILES = Path(__file__).parent / "files"
_CAP_SYS_RESOURCE = 1 << 24


def apt_hosts() -> set[str]:
    return network.hosts_in(f"{MIRROR}\n{SECURITY}\n")


def lacks_sys_resource() -> bool:
    """Whether this machine withholds that capability even from root."""
    status = Path("/proc/self/status").read_text()
    bounding = next(line.split()[1] for line in status.splitlines() if line.startswith("CapBnd:"))
    return not int(bounding, 16) & _CAP_SYS_RESOURCE


def key() -> str:
    """Changes with the recipe."""
    files = ("10-veth-mac.link", "init.sh", "no-sys-resource.c")
    return cache.digest([Path(__file__), *(_FILES / name for name in files)], str(lacks_sys_resource()))


def _put(tree: Path, path: str, text: str, mode: int = 0o644) -> None:
    file = tree / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(mode)


def make(tree: Path) -> None:
    """Fill the empty folder."""
    sources = [f"deb {MIRROR} {SUITE} main", f"deb {MIRROR} {SUITE}-updates main"]
    sources.append(f"deb {SECURITY} {SUITE}-security main")
    argv = ["mmdebstrap", "--mode=root", "--variant=apt", f"--include={_PACKAGES}"]
    # the machine's clock, or the mirror, may be a frozen one; the node keeps these in 99mmdebstrap
    argv += ["--aptopt=Acquire::Check-Valid-Until false", "--aptopt=Acquire::Check-Date false"]
    argv += [SUITE, str(tree), *sources]
    environment = {k: v for k, v in os.environ.items() if k != "TMPDIR"}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise RuntimeError(f"`{shlex.join(argv)}` failed:\n{done.stderr[-3000:]}")
    # mmdebstrap makes the top folder its own way; a machine's is 755
    tree.chmod(0o755)
    _configure_system(tree)
    _configure_containerd(tree)


def _configure_system(tree: Path) -> None:
    _put(tree, "/etc/apt/apt.conf.d/02node", _APT)
    _put(tree, "/etc/systemd/journald.conf.d/node.conf", "[Journal]\nReadKMsg=no\nStorage=persistent\n")
    _put(tree, "/etc/sysctl.d/k8s.conf", "net.ipv4.ip_forward = 1\n")
    _put(tree, "/etc/resolv.conf", f"nameserver {network.GATEWAY}\n")
    _put(tree, "/etc/fstab", "# the node's disk is mounted before its systemd starts\n")
    _put(tree, "/etc/systemd/network/10-veth-mac.link", (_FILES / "10-veth-mac.link").read_text())
    _put(tree, "/usr/local/lib/node/init", (_FILES / "init.sh").read_text(), 0o755)
    (tree / "var/log/journal").mkdir(exist_ok=True)
    for unit in _MASKED:
        (tree / "etc/systemd/system" / unit).symlink_to("/dev/null")
    if lacks_sys_resource():
        shim = "/usr/local/lib/node/no-sys-resource.so"
        flags = ["-O2", "-Wall", "-shared", "-fPIC"]
        source = str(_FILES / "no-sys-resource.c")
        subprocess.run(["gcc", *flags, "-o", f"{tree}{shim}", source], check=True)
        _put(tree, "/etc/ld.so.preload", f"{shim}\n")


def _configure_containerd(tree: Path) -> None:
    _put(tree, "/etc/containerd/config.toml", _CONTAINERD)
    # kubernetes-cni's place; CRI-O looks nowhere else by default
    shutil.copytree(tree / "usr/lib/cni", tree / "opt/cni/bin", symlinks=True, dirs_exist_ok=True)
    for folder in ("etc/cni/net.d", "var/lib/containerd", "var/lib/containers"):
        (tree / folder).mkdir(parents=True, exist_ok=True)


_APT = f"""\
// this network's relay; what a test itself serves at the gateway needs none
Acquire::http::Proxy "http://{network.GATEWAY}:3142";
Acquire::http::Proxy::{network.GATEWAY} "DIRECT";
Acquire::Languages "none";
"""

_CONTAINERD = """\
version = 2

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    sandbox_image = "registry.k8s.io/pause:3.10"
    restrict_oom_score_adj = true
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"
      conf_dir = "/etc/cni/net.d"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = true
  [plugins."io.containerd.internal.v1.opt"]
    path = "/var/lib/containerd/opt"
"""
