"""The node before us: its files, packages and running services; and what an install takes."""

import dataclasses
import hashlib
import io
import json
import tarfile
import tempfile
from pathlib import Path

from installer.settings import Settings
from tests.crash import cluster, kernel, packages, runtimes
from tests.crash.machine import Machine
from tests.crash.world import Snapshot, World
from tests.node import kubernetes_files

_KUBELET_ENDPOINTS = ("kubelet.service", "containerd.service")
_BLOBS = "/var/lib/containerd/io.containerd.content.v1.content/blobs/sha256"
_OS = 'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n'
_CONTAINERD = """\
version = 2
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "registry.k8s.io/pause:3.10"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/opt/cni/bin"
"""
_CONTAINERD_UNIT = (
    "[Unit]\nDescription=containerd\n[Service]\nExecStart=/usr/bin/containerd\n[Install]\nWantedBy=multi-user.target\n"
)
_COMMANDS = ("kubelet", "containerd", "ctr", "crictl", "systemctl", "apt-get", "dpkg-query")
_FILES = {
    "/etc/os-release": _OS,
    "/etc/subuid": "cesar:100000:65536\n",
    "/etc/subgid": "cesar:100000:65536",  # no newline at its end
    "/etc/login.defs": "SUB_UID_MIN 100000\nSUB_UID_MAX 600100000\n",
    "/etc/passwd": "root:x:0:0:root:/root:/bin/bash\n",
    "/etc/containerd/config.toml": _CONTAINERD,
    "/etc/cni/net.d/10-cluster.conflist": "{}\n",
    "/opt/cni/bin/bridge": "bridge",
    "/usr/lib/systemd/system/containerd.service": _CONTAINERD_UNIT,
    "/usr/lib/sysctl.d/50-default.conf": "net.ipv4.ip_forward = 0\n",
    f"/usr/lib/modules/{kernel.RELEASE}/modules.dep": "".join(f"kernel/{m}.ko:\n" for m in kernel.MODULES),
    f"/usr/lib/modules/{kernel.RELEASE}/modules.builtin": "kernel/fs/configfs/configfs.ko\n",
    # what somebody else's file has that ours must not lose: another mode, an attribute
    "/etc/default/keep": "kept\n",
}
_FOLDERS = (
    *("/etc/sysctl.d", "/etc/modules-load.d", "/etc/apt/sources.list.d", "/var/lib/systemd"),
    *("/var/lib/dpkg/updates", "/var/lib/apt/lists"),
)
# An OpenPGP key of version 4, as far as its fingerprint needs it: packet 6, version, time, algorithm, a number.
_KEY_BODY = b"\x04" + b"\x00\x00\x00\x01" + b"\x01" + b"\x00\x08\xff" + b"\x00\x02\x03"
_KEY = b"\xc6" + bytes([len(_KEY_BODY)]) + _KEY_BODY
_UNIT = (
    "[Unit]\nDescription={0}\nPartOf=sysbox.service\n[Service]\nExecStart=/usr/bin/{0}\n"
    "[Install]\nWantedBy=sysbox.service\n"
)
_MAIN = (
    "[Unit]\nDescription=Sysbox\nBindsTo=sysbox-mgr.service sysbox-fs.service\n"
    "[Service]\nExecStart=/bin/sleep infinity\n"
    "[Install]\nWantedBy=multi-user.target\n"
)
_SYSBOX = {
    "usr/bin/sysbox-mgr": "mgr",
    "usr/bin/sysbox-fs": "fs",
    "usr/bin/sysbox-runc": "runc",
    "lib/systemd/system/sysbox.service": _MAIN,
    "lib/systemd/system/sysbox-mgr.service": _UNIT.format("sysbox-mgr"),
    "lib/systemd/system/sysbox-fs.service": _UNIT.format("sysbox-fs"),
    "lib/sysctl.d/99-sysbox-sysctl.conf": "fs.inotify.max_user_watches = 1048576\nkernel.keys.maxkeys = 20000\n",
    "usr/lib/modules-load.d/50-sysbox-mod.conf": "configfs\n",
    "usr/share/doc/sysbox-ce/readme": "skipped\n",
}


@dataclasses.dataclass(frozen=True)
class Scene:
    """A node before us, and settings of an install on it. `upgrade` are those of a later version of everything."""

    profile: str
    pristine: Snapshot
    settings: Settings
    upgrade: Settings


def build(world: World, folder: Path, profile: str, layout: str = "kubeadm") -> Scene:
    """Lays the node out below the world's root, boots it, and puts what is to be installed into `folder`."""
    _lay(world, layout)
    world.machine = Machine(node=cluster.new_node())
    kernel.boot(world)
    world.put("/srv/Release.key", _KEY)
    world.disk.load()
    return Scene(profile, world.take("pristine"), *_settings(folder))


def _lay(world: World, layout: str) -> None:
    root = Path(world.disk.root)
    for path, text in _FILES.items():
        _put(root, path, text)
    for name in _COMMANDS:
        _put(root, f"/usr/bin/{name}", name)
        (root / f"usr/bin/{name}").chmod(0o755)
    for name in _FOLDERS:
        (root / name[1:]).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "sbin", "lib"):
        (root / "usr" / name).mkdir(exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")
    with tempfile.TemporaryDirectory() as scratch:
        kubernetes_files.lay(Path(scratch), "1.34", layout)
        for file in Path(scratch).rglob("*"):
            if file.is_file():
                _put(root, "/" + str(file.relative_to(scratch)), file.read_text())
    for digest, content in runtimes.image_blobs()[1].items():
        _put(root, f"{_BLOBS}/{digest}", content.decode())
    base = {n: {"version": v, "state": "installed", "auto": False} for n, v in packages.BASE.items()}
    _put(root, packages.STATUS, json.dumps(base, sort_keys=True))
    for unit in _KUBELET_ENDPOINTS:
        link = root / "etc/systemd/system/multi-user.target.wants" / unit
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"/usr/lib/systemd/system/{unit}")
    world.disk.load()


def _put(root: Path, path: str, text: str) -> None:
    file = root / path[1:]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o644)


def _settings(folder: Path) -> tuple[Settings, Settings]:
    first, second = _deb(folder / "first.deb", "0.6.6"), _deb(folder / "second.deb", "0.6.7")
    fingerprint = hashlib.sha1(b"\x99" + len(_KEY_BODY).to_bytes(2, "big") + _KEY_BODY).hexdigest()
    settings = Settings(
        node_name=cluster.NODE,
        crio_repository="/srv/repository",
        crio_repository_key="file:/srv/Release.key",
        crio_key_fingerprint=fingerprint,
        sysbox_package=str(folder / "first.deb"),
        sysbox_sha256=first,
    )
    drop_ins = folder / "drop-ins"
    drop_ins.mkdir()
    (drop_ins / "10-operator.conf").write_text('[crio.runtime]\nlog_level = "debug"\n')
    later = dataclasses.replace(
        settings,
        sysbox_package=str(folder / "second.deb"),
        sysbox_sha256=second,
        sysbox_mgr_config="--log-level debug",
        pids_limit=32768,
        subid_count=settings.subid_count * 2,
        crio_drop_ins=str(drop_ins),
    )
    return settings, later


def _deb(path: Path, version: str) -> str:
    """A Debian archive with Sysbox's files, made by hand; returns its SHA-256."""
    files = {**_SYSBOX, "usr/bin/sysbox-runc": f"runc {version}"}
    if version != "0.6.6":
        files["usr/bin/sysbox-new"] = "comes with the newer one"
        del files["lib/sysctl.d/99-sysbox-sysctl.conf"]
    control = f"Package: sysbox-ce\nVersion: {version}.linux\nArchitecture: amd64\n"
    parts = {"debian-binary": b"2.0\n", "control.tar": _tar({"control": control}), "data.tar": _tar(files)}
    data = b"!<arch>\n"
    for name, content in parts.items():
        data += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode() + content
        data += b"\n" * (len(content) % 2)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _tar(files: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size, info.mode = len(text), 0o755 if "/bin/" in name else 0o644
            tar.addfile(info, io.BytesIO(text.encode()))
        link = tarfile.TarInfo("./usr/bin/sysbox")
        link.type, link.linkname = tarfile.SYMTYPE, "sysbox-runc"
        if "control" not in files:
            tar.addfile(link)
    return out.getvalue()
