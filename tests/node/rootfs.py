"""The node's disk before anything happened to it: a Debian base, made once, and a thin layer over it."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests import components
from tests.components import cache
from tests.node import debian, images, kubernetes_files


def base() -> Path:
    """Debian with systemd, apt and containerd, as a folder that is never written again."""
    return made("base", debian.key(), debian.make, "a Debian base by mmdebstrap (once, about 20 s)")


def kubernetes(minor: str, layout: str) -> Path:
    """A layer with the kubelet and its files, as packages and `kubeadm join` lay them."""
    programs = {name: components.path(name, minor) for name in ("kubelet",)}
    programs |= {name: components.path(name) for name in ("crictl", "kubectl")}
    key = cache.digest([Path(kubernetes_files.__file__)], layout, *map(str, programs.values()))

    def make(tree: Path) -> None:
        for name, program in programs.items():
            _link(program, tree / "usr/bin" / name)
        kubernetes_files.lay(tree, minor, layout)

    return made(f"kubernetes-{minor}-{layout}", key, make)


def store() -> Path:
    """containerd's store with the images that every node has, filled by a real containerd once."""
    from tests.node.node import Node

    archives = [images.pause(), images.busybox()]
    key = cache.digest(archives, base().name)
    name = cache.root() / "rootfs" / f"store-{key}"
    if name.is_dir():
        return name

    def make(tree: Path) -> None:
        node = Node.create(kubernetes=False, store=tree)
        try:
            node.boot()
            for archive in archives:
                node.load_image(archive)
            node.run("systemctl", "stop", "containerd")
            shutil.copytree(node.disk.folder / "containerd", tree, symlinks=True, dirs_exist_ok=True)
        finally:
            node.destroy()

    kubernetes(components.MINOR, "kubeadm")
    return made("store", key, make, "containerd's store")


def made(name: str, key: str, make: Callable[[Path], None], notice: str = "") -> Path:
    """The cached folder of that key, made now if it is not there."""
    home = cache.root() / "rootfs"
    done = home / f"{name}-{key}"
    if done.is_dir():
        return done
    with cache.locked(home / ".lock"):
        if done.is_dir():
            return done
        if notice:
            print(f"node: making {notice}", flush=True)
        temporary = Path(tempfile.mkdtemp(dir=home, prefix=".making-"))
        try:
            tree = temporary / "tree"
            tree.mkdir(mode=0o755)
            make(tree)
            tree.rename(done)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return done


def _link(source: Path, target: Path) -> None:
    """A hard link costs no space; across file systems it must be a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
