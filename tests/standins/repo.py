"""A signed apt repository in a folder, laid out as pkgs.k8s.io's are; and the ways one can be bad."""

import contextlib
import datetime
import email.utils
import enum
import gzip
import hashlib
import lzma
import shutil
from pathlib import Path

from tests.standins import deb
from tests.standins.keys import Key
from tests.standins.mirror import Mirror, serve

_INDEXES = ("Packages", "Packages.gz", "Packages.xz")


class Fault(enum.StrEnum):
    """What is wrong with a repository; apt must not install from any of them."""

    WRONG_KEY = "signed by another key than the one published beside it"
    EXPIRED_SIGNATURE = "the signature was good for a day, years ago"
    EXPIRED_RELEASE = "well signed, but Valid-Until has passed: a mirror that holds updates back"
    UNSIGNED = "no signature at all"
    TAMPERED_PACKAGES = "the index was changed after the signature"
    TAMPERED_DEB = "the packages were changed after the index"


class Repository:
    """Packages, index and signature in a folder: `deb [signed-by=Release.key] URI /`.

    The folder must be readable by user _apt on the node, which apt's file: and copy: methods run as.
    """

    def __init__(self, folder: Path) -> None:
        deb.folders(folder)
        self.folder = folder.resolve()
        self.key = Key.generate()
        self.key_path = self.folder / "Release.key"
        self._debs: list[Path] = []
        self._write("Release.key", self.key.public.encode())

    @property
    def fingerprint(self) -> str:
        return self.key.fingerprint

    @property
    def uri(self) -> str:
        return f"file://{self.folder}"

    def add(self, package: Path) -> Path:
        """Takes a package in; it is offered from the next `publish` on. Answers where it will be."""
        self._debs.append(package)
        return self._place(package)

    def publish(self, fault: Fault | None = None) -> None:
        """Writes all anew: packages, index, signature."""
        for package in self._debs:
            self._copy(package)
        self._write_indexes("\n".join(map(self._paragraph, self._debs)).encode())
        self._sign(self._release(expired=fault is Fault.EXPIRED_RELEASE), fault)
        if fault is Fault.TAMPERED_PACKAGES:
            index = (self.folder / "Packages").read_bytes()
            self._write_indexes(index.replace(b"Priority: optional", b"Priority: required"))
        if fault is Fault.TAMPERED_DEB:
            for package in self._debs:
                _flip_a_byte(self._place(package))

    def serve(
        self,
        address: str = "127.0.0.1",
        port: int = 0,
        *,
        netns: Path | None = None,
        fail_first: int = 0,
        cut: int = 0,
        slow: float = 0.0,
    ) -> contextlib.AbstractContextManager[Mirror]:
        """The folder over plain HTTP while the context lasts; see `mirror.serve`."""
        return serve(self.folder, address, port, netns=netns, fail_first=fail_first, cut=cut, slow=slow)

    def _place(self, package: Path) -> Path:
        arch = package.stem.rpartition("_")[2]
        return self.folder / arch / package.name

    def _copy(self, package: Path) -> None:
        place = self._place(package)
        deb.put(package, place.with_name(f".{place.name}"), 0o644)
        place.with_name(f".{place.name}").rename(place)

    def _paragraph(self, package: Path) -> str:
        place = self._place(package)
        content = place.read_bytes()
        control = deb.run(["dpkg-deb", "--field", place])
        fields = {
            "Filename": str(place.relative_to(self.folder)),
            "Size": str(len(content)),
            "MD5sum": hashlib.md5(content).hexdigest(),
            "SHA1": hashlib.sha1(content).hexdigest(),
            "SHA256": hashlib.sha256(content).hexdigest(),
        }
        return control + "".join(f"{name}: {value}\n" for name, value in fields.items())

    def _write_indexes(self, index: bytes) -> None:
        self._write("Packages", index)
        self._write("Packages.gz", gzip.compress(index, mtime=0))
        self._write("Packages.xz", lzma.compress(index))

    def _release(self, *, expired: bool) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        lines = [
            "Archive: deb",
            "Codename: deb",
            "Origin: sysbox-deploy's tests",
            "Label: sysbox-deploy's tests",
            f"Architectures: all {deb.architecture()}",
            f"Date: {email.utils.format_datetime(now, usegmt=True)}",
            "Description: throw-away repository for tests",
        ]
        if expired:
            past = now - datetime.timedelta(days=1)
            lines.append(f"Valid-Until: {email.utils.format_datetime(past, usegmt=True)}")
        for title, algorithm in (("MD5Sum", "md5"), ("SHA256", "sha256")):
            lines += [f"{title}:", *(self._digest_line(name, algorithm) for name in _INDEXES)]
        return ("\n".join(lines) + "\n").encode()

    def _digest_line(self, name: str, algorithm: str) -> str:
        content = (self.folder / name).read_bytes()
        return f" {hashlib.new(algorithm, content).hexdigest()} {len(content)} {name}"

    def _sign(self, release: bytes, fault: Fault | None) -> None:
        self._write("Release", release)
        if fault is Fault.UNSIGNED:
            (self.folder / "InRelease").unlink(missing_ok=True)
            (self.folder / "Release.gpg").unlink(missing_ok=True)
            return
        key = Key.generate() if fault is Fault.WRONG_KEY else self.key
        clear, detached = key.sign(release, expired=fault is Fault.EXPIRED_SIGNATURE)
        self._write("InRelease", clear)
        self._write("Release.gpg", detached)

    def _write(self, name: str, content: bytes) -> None:
        """In one go, as a mirror may be reading."""
        partial = self.folder / f".{name}"
        partial.write_bytes(content)
        partial.chmod(0o644)
        partial.rename(self.folder / name)


def _flip_a_byte(file: Path) -> None:
    """Somewhere in the middle, in a copy: the file may be shared."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    changed = file.with_name(f".{file.name}")
    changed.write_bytes(content)
    shutil.copymode(file, changed)
    changed.rename(file)
