"""The emulated machine's disk before anything happened to it: the nodes' Debian, a kernel and sshd, made once.

Its content is that of tests/node/debian.py, but for what makes a container a machine. An ext4 image, without
partitions: the kernel comes from beside it.
"""

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.components import cache
from tests.node import debian, network, prepare, rootfs
from tests.node.disk import Disk

_SIZE = "8G"
_PACKAGES = ("linux-image-cloud-amd64", "openssh-server")


@dataclass(frozen=True)
class Image:
    """The folder that has the disk, what boots it, and the key that opens it."""

    folder: Path

    @property
    def disk(self) -> Path:
        return self.folder / "disk.img"

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd"

    @property
    def identity(self) -> Path:
        """The private key of the one who may log in as root."""
        return self.folder / "identity"


def image() -> Image:
    """The image that every emulated machine starts from."""
    store = rootfs.store()
    key = cache.digest([Path(__file__)], debian.key(), store.name)
    return Image(rootfs.made("vm", key, lambda tree: _make(tree, store), "an emulated machine's disk (once, a minute)"))


def create(disk: Path, layers: list[Path], files: Disk) -> None:
    """A disk of its own for a machine: the image, with those layers and files over it."""
    source = image().disk
    temporary = disk.with_suffix(".new")
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", str(source), str(temporary)], check=True)
    copies = [f"cp -a --remove-destination {shlex.quote(str(tree))}/. mnt/" for tree in (*layers, files.upper)]
    _on(temporary, "\n".join(copies))
    temporary.rename(disk)


@contextmanager
def mounted(disk: Path) -> Iterator[Path]:
    """The file system of a machine that is off, or whose file system is frozen, to be read."""
    program = f"set -e; mount -o ro,noload,loop {shlex.quote(str(disk))} mnt; echo; read -r _"
    # where it is mounted, this process and its namespace alone decide: there is nothing to clean up
    with _namespace(disk.parent, program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        try:
            if not holder.stdout or not holder.stdout.readline():
                raise RuntimeError(f"{disk} can't be mounted: exit status {holder.wait()}")
            yield Path(f"/proc/{holder.pid}/root{disk.parent}/mnt")
        finally:
            if holder.stdin:
                holder.stdin.close()


def _on(disk: Path, script: str) -> None:
    """Runs the script beside the disk, which is mounted at `mnt` meanwhile and for it alone."""
    program = f"set -eu\nmount -o loop {shlex.quote(str(disk))} mnt\n{script}\numount mnt"
    with _namespace(disk.parent, program, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as running:
        output = running.communicate()[0]
    if running.returncode:
        raise RuntimeError(f"work on {disk} failed ({running.returncode}): {output.decode(errors='replace')[-3000:]}")


def _namespace(folder: Path, program: str, stdin: int, stdout: int) -> "subprocess.Popen[bytes]":
    (folder / "mnt").mkdir(exist_ok=True)
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", program]
    return subprocess.Popen(argv, cwd=folder, stdin=stdin, stdout=stdout, stderr=subprocess.STDOUT)


def _make(tree: Path, store: Path) -> None:
    prepare.machine(emulator=True)
    disk = tree / "disk.img"
    with disk.open("wb") as file:
        os.truncate(file.fileno(), _bytes(_SIZE))
    # no writes of its own in the background, which a snapshot's freeze would have to wait for
    lazy = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-E", lazy, "-m", "0", "-L", "root", str(disk)], check=True)
    key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "node", "-f", str(tree / "identity")]
    subprocess.run(key, check=True)
    _lay(tree / "laid", (tree / "identity.pub").read_text())
    _on(disk, _install(rootfs.base(), store))
    shutil.rmtree(tree / "laid")


def _bytes(size: str) -> int:
    return int(size[:-1]) << 30


def _install(base: Path, store: Path) -> str:
    """The shell commands that fill the empty file system at `mnt`."""
    inside = "chroot mnt env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8"
    return f"""\
rmdir mnt/lost+found
cp -a {shlex.quote(str(base))}/. mnt/
rm -rf mnt/etc/ld.so.preload mnt/usr/local/lib/node
cp -a {shlex.quote(str(store))}/. mnt/var/lib/containerd/
cp -a laid/. mnt/
# apt goes the way of this machine, and no service starts
printf '#!/bin/sh\\nexit 101\\n' >mnt/usr/sbin/policy-rc.d
chmod 755 mnt/usr/sbin/policy-rc.d
: >none
mount --bind none mnt/etc/apt/apt.conf.d/02node
mount --bind /etc/resolv.conf mnt/etc/resolv.conf
mount --bind /proc mnt/proc
mount --rbind /dev mnt/dev
mount -t tmpfs run mnt/run
{inside} apt-get update -q
{inside} apt-get install -yq --no-install-recommends {shlex.join(_PACKAGES)}
{inside} apt-get clean
umount mnt/run mnt/proc mnt/etc/resolv.conf mnt/etc/apt/apt.conf.d/02node
umount --lazy mnt/dev
rm mnt/usr/sbin/policy-rc.d none
rm -rf mnt/var/lib/apt/lists/* mnt/vmlinuz.old mnt/initrd.img.old
cp mnt/vmlinuz vmlinuz
cp mnt/initrd.img initrd
# nobody boots that of the disk; packages would have it made anew, for minutes
echo update_initramfs=no >mnt/etc/initramfs-tools/update-initramfs.conf
"""


def _lay(laid: Path, public_key: str) -> None:
    files = {
        "/etc/fstab": "/dev/vda / ext4 rw,noatime 0 1\n",
        "/root/.ssh/authorized_keys": public_key,
        "/etc/ssh/sshd_config.d/node.conf": "UseDNS no\nUsePAM no\nPrintMotd no\n",
        # a small one is quicker to boot
        "/etc/initramfs-tools/conf.d/node": "MODULES=list\nCOMPRESS=gzip\n",
        "/etc/initramfs-tools/modules": "virtio_pci\nvirtio_blk\next4\n",
        "/etc/systemd/system/node-network.service": _NETWORK,
    }
    for path, text in files.items():
        file = laid / path[1:]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (laid / "root").chmod(0o700)
    (laid / "root/.ssh").chmod(0o700)
    wants = laid / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir()
    (wants / "node-network.service").symlink_to("/etc/systemd/system/node-network.service")


# stands for the provider's network, and for kube-proxy: the one service that every cluster has
_TO_API = f"-d 10.96.0.1 -p tcp --dport 443 -j DNAT --to-destination {network.GATEWAY}:6443"
_NETWORK = f"""\
[Unit]
Description=The node's address, from /etc/node-address
Wants=network-pre.target network.target network-online.target sys-subsystem-net-devices-eth0.device
After=network-pre.target sys-subsystem-net-devices-eth0.device systemd-sysctl.service
Before=network.target network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'ip address replace $(cat /etc/node-address)/24 dev eth0'
ExecStart=ip link set eth0 up
ExecStart=ip route replace default via {network.GATEWAY}
ExecStart=iptables -w -t nat -A OUTPUT {_TO_API}
ExecStart=iptables -w -t nat -A PREROUTING {_TO_API}

[Install]
WantedBy=multi-user.target
"""
