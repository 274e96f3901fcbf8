"""Debian's packages: which are on the host, and what is in an archive (.deb), read without trusting it."""

import contextlib
import hashlib
import io
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, Literal

from debian.deb822 import Deb822

from installer.errors import CommandError, RefusedError
from installer.facts.model import Artifact, ArtifactFile
from installer.host import Host

_QUERY = (
    "dpkg-query",
    "--show",
    "--showformat=${Package}\t${Architecture}\t${Version}\t${db:Status-Status}\t${db:Status-Eflag}\n",
)
_NOT_FOUND = 127
# A package whose triggers are due works; counted as missing, it would look as if we had added it later.
_INSTALLED = frozenset({"installed", "triggers-pending", "triggers-awaited"})
_GONE = frozenset({"not-installed", "config-files"})

_FOLDERS = (
    *("/usr/bin", "/usr/sbin", "/usr/lib", "/usr/libexec", "/usr/local", "/usr/share", "/lib", "/opt"),
    *("/etc/sysbox", "/etc/default", "/etc/systemd/system", "/etc/sysctl.d", "/etc/modules-load.d"),
)
_MODES: dict[str, Literal["r|", "r|gz", "r|xz", "r|bz2"]] = {"": "r|", ".gz": "r|gz", ".xz": "r|xz", ".bz2": "r|bz2"}
_TEXT_BYTES = 1 << 16
_CHUNK_BYTES = 1 << 20
_SPECIAL_BITS = 0o7000
_BROKEN = (OSError, EOFError, ValueError, tarfile.TarError, lzma.LZMAError, zlib.error)


@dataclass(frozen=True)
class Package:
    """A package as dpkg has it: its version, and its state in dpkg's words; `is_damaged` asks for reinstallation."""

    version: str
    state: str
    is_damaged: bool = False


def parse_packages(text: str) -> dict[str, Package]:
    """What our dpkg-query prints. A package of a foreign architecture is called NAME:ARCHITECTURE, as apt does."""
    rows = [fields for line in text.splitlines() if len(fields := line.split("\t")) == 5]
    native = {architecture for name, architecture, *_ in rows if name == "dpkg"} | {"all"}
    return {
        name if architecture in native else f"{name}:{architecture}": Package(version, state, flag == "reinstreq")
        for name, architecture, version, state, flag in rows
    }


def installed(host: Host, every: bool = False) -> dict[str, str]:
    """Versions of the installed packages by name; with `every`, of half-installed ones and the like too.

    Empty where the host has no dpkg. Raises CommandError.
    """
    packages = _packages(host)
    return {
        name: p.version for name, p in packages.items() if p.state in _INSTALLED or (every and p.state not in _GONE)
    }


def troubled(host: Host) -> list[str]:
    """Packages that an interrupted run of dpkg left behind, each with its state. Raises CommandError."""
    return [
        f"{name} ({'reinst-required' if p.is_damaged else p.state})"
        for name, p in _packages(host).items()
        if p.is_damaged or p.state not in {"installed", *_GONE}
    ]


def offered(host: Host, name: str) -> list[str]:
    """The versions of a package that apt's lists hold, newest first; what is merely installed does not count."""
    said = host.run("apt-cache", "madison", name, check=False).out
    return [line.split("|")[1].strip() for line in said.splitlines() if line.count("|") >= 2]


def verify(path: Path, sha256: str) -> None:
    """Raises RefusedError unless the file has that SHA-256 (hexadecimal)."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _refused("the archive can't be read", path, error.strerror or str(error)) from error
    if found != sha256.lower():
        remedy = "fetch it again, or give the digest that its publisher names"
        raise RefusedError(f"the archive's SHA-256 is not {sha256}", where=str(path), found=found, remedy=remedy)


def control(path: Path) -> dict[str, str]:
    """The fields of an archive's control file. Raises RefusedError."""
    with _broken_is_refused(path), path.open("rb") as file, _tar(file, path, "control.tar") as tar:
        for info in tar:
            if info.name.removeprefix("./") == "control" and (content := tar.extractfile(info)):
                return dict(Deb822(content.read(_CHUNK_BYTES)).items())
    raise _refused("the archive has no control file", path, "control.tar without ./control")


def listing(path: Path, sha256: str) -> Artifact:
    """What a verified archive brings: its files, and the text of small ones. Raises RefusedError.

    Refused is whatever dpkg would lay out and we would not: other folders, other owners than root, hard links,
    devices, setuid, links out of the tree.
    """
    verify(path, sha256)
    rows = [_file(info, chunks, path) for info, chunks in _members(path)]
    files = tuple(sorted((file for file, _ in rows), key=lambda file: file.path))
    texts = {file.path: text for file, text in rows if text is not None}
    return Artifact(str(path), sha256.lower(), control(path).get("Version", ""), files, texts)


def member_bytes(path: Path, name: str) -> Iterator[bytes]:
    """The content of an archive's file, as /usr/bin/sysbox-fs, in chunks. Raises RefusedError."""
    for found, chunks in contents(path):
        if found == name:
            yield from chunks
            return
    raise _refused("the archive has no such file", path, name)


def contents(path: Path) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Each file of an archive with its content, which must be read before the next; one pass over all of it."""
    for info, chunks in _members(path):
        if info.isreg():
            yield _path(info, path), chunks


def _packages(host: Host) -> dict[str, Package]:
    result = host.run(*_QUERY, check=False)
    if result.code not in (0, _NOT_FOUND):
        raise CommandError(list(_QUERY), result.code, result.err or result.out, " ".join(_QUERY[:2]))
    return parse_packages(result.out) if result.code == 0 else {}


class _Part(io.BufferedIOBase):
    """A part of an open file, as a stream."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size

    def read(self, size: int | None = None, /) -> bytes:
        """Up to `size` bytes; none at the part's end."""
        data = self._file.read(self._left if size is None else min(size, self._left))
        self._left -= len(data)
        return data


def _part(file: BinaryIO, path: Path, stem: str) -> tuple[str, _Part]:
    """The ar member called `stem` with any suffix: that suffix, and its content."""
    if file.read(8) != b"!<arch>\n":
        raise _refused("it is no Debian archive", path, "another file type")
    while header := file.read(60):
        name = header[:16].split(b"/")[0].strip().decode("ascii", "replace")
        size = header[48:58].strip()
        if len(header) < 60 or header[58:] != b"`\n" or not size.isdigit():
            raise _refused("the archive is damaged", path, f"a bad header after byte {file.tell() - len(header)}")
        # tarfile takes a tar that ends early for a whole one.
        if file.tell() + int(size) > path.stat().st_size:
            raise _refused("the archive is cut off", path, f"it ends within {name}")
        if name.startswith(stem):
            return name.removeprefix(stem), _Part(file, int(size))
        file.seek(int(size) + int(size) % 2, 1)
    raise _refused("the archive is damaged", path, f"no {stem} in it")


@contextlib.contextmanager
def _tar(file: BinaryIO, path: Path, stem: str) -> Iterator[tarfile.TarFile]:
    suffix, part = _part(file, path, stem)
    if suffix not in _MODES:
        remedy = "pack it anew with xz: dpkg-deb -R FILE.deb DIR && dpkg-deb -Zxz -b DIR FILE.deb"
        raise RefusedError(
            f"the archive's {stem} is compressed in a way that can't be read here",
            where=str(path),
            found=stem + suffix,
            remedy=f"{remedy}, and give its new SHA-256",
        )
    with tarfile.open(fileobj=part, mode=_MODES[suffix]) as tar:
        yield tar


def _members(path: Path) -> Iterator[tuple[tarfile.TarInfo, Iterator[bytes]]]:
    """Files and links of an archive, each found harmless, with their content."""
    seen: set[str] = set()
    with _broken_is_refused(path), path.open("rb") as file, _tar(file, path, "data.tar") as tar:
        for info in tar:
            name = _path(info, path)
            _refuse_odd(info, path)
            if info.isdir():
                continue
            if name in seen:
                raise _refused("the archive has a file twice", path, name)
            if not any(name.startswith(f"{folder}/") for folder in _FOLDERS):
                raise _refused("the archive has a file where none of Sysbox's belongs", path, name)
            seen.add(name)
            yield info, _chunks(tar.extractfile(info) if info.isreg() else None, path)


def _file(info: tarfile.TarInfo, chunks: Iterator[bytes], path: Path) -> tuple[ArtifactFile, str | None]:
    """A member as a value, and its text if it is a small one."""
    if info.issym():
        return ArtifactFile(_path(info, path), info.mode & 0o777, "", 0, info.linkname), None
    digest, size, kept = hashlib.sha256(), 0, b""
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
        kept = kept + chunk if size <= _TEXT_BYTES else b""
    text = _text(kept) if size <= _TEXT_BYTES else None
    return ArtifactFile(_path(info, path), info.mode & 0o777, digest.hexdigest(), size), text


def _path(info: tarfile.TarInfo, archive: Path) -> str:
    """The host's path of a member."""
    parts = PurePosixPath(info.name).parts
    if info.name.startswith("/") or ".." in parts or not info.name.isprintable():
        raise _refused("the archive has a file with a dangerous name", archive, ascii(info.name))
    return "/" + "/".join(parts)


def _refuse_odd(info: tarfile.TarInfo, archive: Path) -> None:
    found = f"{info.name}: "
    if not (info.isdir() or info.isreg() or info.issym()) or info.issparse():
        raise _refused("the archive has something else than files and links", archive, found + f"type {info.type!r}")
    if (info.mode & _SPECIAL_BITS and not info.issym()) or (info.uid, info.gid) != (0, 0):
        odd = f"mode {info.mode:o}, owner {info.uid}:{info.gid}"
        raise _refused("the archive has a file with special rights or owners", archive, found + odd)
    if info.issym() and not _stays_inside(info):
        raise _refused("the archive has a link that leads out of it", archive, found + ascii(info.linkname))


def _stays_inside(info: tarfile.TarInfo) -> bool:
    """Whether a link is relative and climbs no higher than the root."""
    if info.linkname.startswith("/") or not info.linkname or not info.linkname.isprintable():
        return False
    depth = len(PurePosixPath(info.name).parts) - 1
    for part in PurePosixPath(info.linkname).parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return False
    return True


def _chunks(content: IO[bytes] | None, archive: Path) -> Iterator[bytes]:
    with _broken_is_refused(archive):
        while content and (chunk := content.read(_CHUNK_BYTES)):
            yield chunk


def _text(data: bytes) -> str | None:
    try:
        return None if b"\0" in data else data.decode()
    except UnicodeDecodeError:
        return None


@contextlib.contextmanager
def _broken_is_refused(path: Path) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        raise _refused("the archive is damaged or can't be read", path, str(error) or type(error).__name__) from error


def _refused(what: str, path: Path, found: str) -> RefusedError:
    remedy = "give the release's own .deb, with the SHA-256 that its publisher names"
    return RefusedError(what, where=str(path), found=found, remedy=remedy)
