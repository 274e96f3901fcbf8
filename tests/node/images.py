"""Container images without a registry: small OCI archives written here, of programs that this machine has."""

import gzip
import hashlib
import io
import json
import platform
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.components import cache
from tests.node import kubernetes_files

BUSYBOX = "registry.test/busybox:1"
PAUSE = kubernetes_files.PAUSE

_FILES = Path(__file__).parent / "files"
_OCI = "application/vnd.oci.image"
_DOCKER_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}


def write(
    archive: Path,
    names: Sequence[str],
    tree: Path,
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
) -> None:
    """An OCI archive of one layer, which holds the tree; `ctr images import` and skopeo read it."""
    layer = _layer(tree)
    packed = gzip.compress(layer, 6, mtime=0)
    variables = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        **(environment or {}),
    }
    config = _json(
        {
            "architecture": _architecture(),
            "os": "linux",
            "config": {"Env": [f"{k}={v}" for k, v in variables.items()], "Cmd": list(command)},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
            "history": [{"created_by": "tests.node.images"}],
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.manifest.v1+json",
            "config": _descriptor("config.v1+json", config),
            "layers": [_descriptor("layer.v1.tar+gzip", packed)],
        }
    )
    entries = [_descriptor("manifest.v1+json", manifest) | {"annotations": _names(name)} for name in names]
    index = _json({"schemaVersion": 2, "mediaType": f"{_OCI}.index.v1+json", "manifests": entries})
    _write_archive(archive, index, [config, manifest, packed])


def _names(name: str) -> dict[str, str]:
    # containerd reads the first, everybody else the second
    return {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _digest(blob: bytes) -> str:
    return "sha256:" + hashlib.sha256(blob).hexdigest()


def _descriptor(kind: str, blob: bytes) -> dict[str, object]:
    return {"mediaType": f"{_OCI}.{kind}", "digest": _digest(blob), "size": len(blob)}


def _architecture() -> str:
    return _DOCKER_ARCHITECTURE.get(platform.machine(), platform.machine())


def _layer(tree: Path) -> bytes:
    """The tree as a tar that is the same for the same content: no times, no owners."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = "root"
        return member

    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for top in sorted(tree.iterdir()):
            tar.add(top, top.name, filter=plain)
    return raw.getvalue()


def _write_archive(archive: Path, index: bytes, blobs: list[bytes]) -> None:
    with tarfile.open(archive, "w") as tar:

        def put(name: str, content: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))

        put("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        put("index.json", index)
        for blob in blobs:
            put(f"blobs/sha256/{_digest(blob)[7:]}", blob)


def _archive(
    name: str, made_of: list[Path], names: list[str], fill: Callable[[Path], None], command: list[str]
) -> Path:
    """The image's archive in the cache, made now if it is not there."""
    home = cache.root() / "images"
    archive = home / f"{name}-{cache.digest([*made_of, Path(__file__)])}.tar"
    if not archive.exists():
        with cache.locked(home / ".lock"), tempfile.TemporaryDirectory(dir=home) as temporary:
            tree = Path(temporary) / "tree"
            tree.mkdir()
            fill(tree)
            write(Path(temporary) / "archive", names, tree, command)
            (Path(temporary) / "archive").rename(archive)
    return archive


def pause() -> Path:
    """The archive of the pods' sandbox image."""
    source = _FILES / "pause.c"

    def fill(tree: Path) -> None:
        subprocess.run(["gcc", "-Os", "-Wall", "-static", "-s", "-o", str(tree / "pause"), str(source)], check=True)

    return _archive("pause", [source], [PAUSE], fill, ["/pause"])


def busybox() -> Path:
    """The archive of an image with a shell and the usual tools, Debian's busybox-static."""
    program = Path("/usr/bin/busybox") if Path("/usr/bin/busybox").exists() else Path("/bin/busybox")

    def fill(tree: Path) -> None:
        applets = subprocess.run([str(program), "--list"], capture_output=True, text=True, check=True).stdout.split()
        (tree / "bin").mkdir()
        (tree / "tmp").mkdir(mode=0o1777)
        (tree / "bin/busybox").write_bytes(program.read_bytes())
        (tree / "bin/busybox").chmod(0o755)
        for applet in applets:
            if applet != "busybox":
                (tree / "bin" / applet).symlink_to("busybox")

    return _archive("busybox", [program], [BUSYBOX], fill, ["sh"])
