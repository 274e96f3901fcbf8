"""A Debian archive from a file tree, the same bytes every time, without dpkg's tools."""

import gzip
import io
import os
import tarfile
from pathlib import Path


def pack(tree: Path, version: str) -> bytes:
    """The archive of what stands in `tree`: root's, files with mode 0755 where they can be run, else 0644."""
    control = f"Package: sysbox-ce\nVersion: {version}\nArchitecture: all\nDescription: for a test\n"
    members = [tree_member(tree, path) for path in sorted(tree.rglob("*"))]
    about = _tar([(_info("./control", len(control)), control.encode())])
    parts = (b"debian-binary", b"2.0\n"), (b"control.tar.gz", about), (b"data.tar.gz", _tar(members))
    return b"!<arch>\n" + b"".join(_ar(name, data) for name, data in parts)


def tree_member(tree: Path, path: Path) -> tuple[tarfile.TarInfo, bytes]:
    """A member of data.tar."""
    name = f"./{path.relative_to(tree)}"
    if path.is_symlink():
        info = _info(name, 0, 0o777, tarfile.SYMTYPE)
        info.linkname = os.readlink(path)
        return info, b""
    if path.is_dir():
        return _info(name, 0, 0o755, tarfile.DIRTYPE), b""
    content = path.read_bytes()
    return _info(name, len(content), 0o755 if path.stat().st_mode & 0o100 else 0o644), content


def _info(name: str, size: int, mode: int = 0o644, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.type = size, mode, kind
    return info


def _tar(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return gzip.compress(out.getvalue(), mtime=0)


def _ar(name: bytes, data: bytes) -> bytes:
    header = b"%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (name, 0, 0, 0, b"100644", len(data))
    return header + data + b"\n" * (len(data) % 2)
