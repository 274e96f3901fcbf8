"""The host's files: read, staged, replaced in one rename, their symlinks resolved on the host."""

import dataclasses
import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from installer.errors import RefusedError

_KEEP_CONTENT_BYTES = 1 << 20
_LINKS_AT_MOST = 40  # as the kernel's own limit


@dataclasses.dataclass(frozen=True)
class FileState:
    """What stands at a path. `kind` is file, link, dir or other; `content` only of regular files up to 1 MiB.

    `size` is in bytes; of a directory, the number of its names.
    """

    kind: str
    mode: int
    uid: int
    gid: int
    size: int = 0
    sha256: str = ""
    target: str = ""
    xattrs: tuple[tuple[str, str], ...] = ()
    content: bytes | None = None

    @property
    def text(self) -> str:
        """The content as text; bytes that are not UTF-8 survive a round trip through `encode`."""
        return decode(self.content or b"")


def decode(data: bytes) -> str:
    """Bytes of a host's file as text, without loss."""
    return data.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """The way back of `decode`."""
    return text.encode("utf-8", "surrogateescape")


def sha256(data: bytes) -> str:
    """The hex digest that names content in the journal."""
    return hashlib.sha256(data).hexdigest()


class Tree:
    """A file tree, told its root. Paths are the host's own, absolute; its absolute symlinks resolve inside it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def real(self, path: str, *, follow: bool = True) -> Path:
        """Where a host's path lies for us, its symlinks followed on the host. Raises RefusedError on a loop."""
        todo = list(reversed(PurePosixPath(path).parts[1:]))
        at: list[str] = []
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                del at[-1:]
                continue
            here = self.root.joinpath(*at, part)
            if here.is_symlink() and (todo or follow):
                links += 1
                if links > _LINKS_AT_MOST:
                    raise RefusedError("too many levels of symbolic links", where=path, remedy="remove the loop")
                target = PurePosixPath(os.readlink(here))
                if target.is_absolute():
                    at = []
                todo += reversed([p for p in target.parts if p != "/"])
            else:
                at.append(part)
        return self.root.joinpath(*at)

    def state(self, path: str) -> FileState | None:
        """What stands at `path`, the last link not followed; None where nothing does."""
        real = self.real(path, follow=False)
        try:
            info = real.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        mode = stat.S_IMODE(info.st_mode)
        xattrs = _xattrs(real)
        if stat.S_ISLNK(info.st_mode):
            return FileState("link", mode, info.st_uid, info.st_gid, target=os.readlink(real), xattrs=xattrs)
        if stat.S_ISDIR(info.st_mode):
            return FileState("dir", mode, info.st_uid, info.st_gid, size=len(os.listdir(real)), xattrs=xattrs)
        if not stat.S_ISREG(info.st_mode):
            return FileState("other", mode, info.st_uid, info.st_gid)
        content = real.read_bytes() if info.st_size <= _KEEP_CONTENT_BYTES else None
        digest = sha256(content) if content is not None else _digest(real)
        return FileState("file", mode, info.st_uid, info.st_gid, info.st_size, digest, "", xattrs, content)

    def followed(self, path: str) -> str:
        """The host's own path of the file that `path` leads to, its links followed."""
        return "/" + str(self.real(path).relative_to(self.root))

    def read(self, path: str) -> bytes | None:
        """The content of the file that `path` leads to; None where there is none."""
        real = self.real(path)
        try:
            return real.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except IsADirectoryError:
            raise RefusedError(
                "a file is expected here", where=path, found="a directory", remedy="move the directory away"
            ) from None

    def names(self, path: str) -> list[str]:
        """The names in a directory, sorted; none where it does not exist."""
        try:
            return sorted(os.listdir(self.real(path)))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def exists(self, path: str) -> bool:
        """Whether anything stands where `path` leads to."""
        return self.real(path).exists()

    def writable(self, path: str) -> bool:
        """Whether the path could be written now (a read-only mount says no, even to root)."""
        return os.access(self.real(path), os.W_OK)

    def make_directory(self, path: str, mode: int = 0o755) -> list[str]:
        """Makes the directory and its missing parents; returns those that it made, outermost first."""
        missing: list[str] = []
        at = PurePosixPath(path)
        while not self.exists(str(at)):
            missing.insert(0, str(at))
            at = at.parent
        for made in missing:
            real = self.real(made)
            real.mkdir(mode=mode)
            real.chmod(mode)
            _sync_directory(real.parent)
        return missing

    def remove_directory(self, path: str) -> bool:
        """Removes the directory if it is empty; says whether it did."""
        real = self.real(path, follow=False)
        try:
            real.rmdir()
        except OSError:
            return False
        _sync_directory(real.parent)
        return True

    def replace(self, path: str, content: bytes | Iterable[bytes], like: FileState) -> None:
        """Puts `content` at `path` (through its links) in one rename, with the mode, owner and xattrs of `like`."""
        staged = self.stage(path, content, like)
        self.rename(staged, path)

    def stage(self, path: str, content: bytes | Iterable[bytes], like: FileState) -> str:
        """Writes `content`, synced, to a hidden neighbour of `path`, ready for `rename`; returns its path."""
        target = PurePosixPath(self.followed(path))
        staged = str(target.with_name(f".{target.name}.sysbox-deploy"))
        real = self.real(staged, follow=False)
        real.unlink(missing_ok=True)
        fd = os.open(real, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as file:
            for chunk in [content] if isinstance(content, bytes) else content:
                file.write(chunk)
            file.flush()
            os.fchown(fd, like.uid, like.gid)
            os.fchmod(fd, like.mode)
            for name, value in like.xattrs:
                os.setxattr(fd, name, bytes.fromhex(value))
            os.fsync(fd)
        return staged

    def rename(self, staged: str, path: str) -> None:
        """One atomic, synced rename."""
        real = self.real(path)
        os.rename(self.real(staged, follow=False), real)
        _sync_directory(real.parent)

    def link(self, path: str, target: str) -> None:
        """Puts a symbolic link at `path`, replacing what stands there in one rename."""
        real = self.real(path, follow=False)
        staged = real.with_name(f".{real.name}.sysbox-deploy")
        staged.unlink(missing_ok=True)
        staged.symlink_to(target)
        os.rename(staged, real)
        _sync_directory(real.parent)

    def sweep(self, path: str) -> None:
        """Removes what a crash amid `replace` or `link` left beside `path`, its last link not followed."""
        real = self.real(path, follow=False)
        self.remove(path.rpartition("/")[0] + f"/.{real.name}.sysbox-deploy")

    def remove(self, path: str) -> None:
        """Removes the file or link itself; no error where there is none."""
        real = self.real(path, follow=False)
        try:
            real.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return
        _sync_directory(real.parent)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _xattrs(path: Path) -> tuple[tuple[str, str], ...]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:  # a file system without them
        return ()
    return tuple((n, os.getxattr(path, n, follow_symlinks=False).hex()) for n in sorted(names))


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
