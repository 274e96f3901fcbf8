"""Builds the image with docker, podman or buildah, offline but for pip's download of the locked wheels.

BASE and its PYTHON_VERSION, IMAGE, ARCH and ARTIFACTS come from the environment: `make image BASE=...`.
"""

import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from installer import __version__

_WHEEL_PLATFORMS = {"amd64": "x86_64", "arm64": "aarch64"}
_HERE = Path(__file__).parent
_BUILD = Path("build")
_ARCHIVE = _BUILD / "sysbox-deploy.tar"


@dataclass(frozen=True)
class Engine:
    """One of the three programs that build images."""

    name: str

    @classmethod
    def find(cls) -> "Engine":
        """The first that works: a docker client without its daemon does not."""
        for name in ("docker", "podman", "buildah"):
            if shutil.which(name) and _succeeds(name, "info"):
                return cls(name)
        sys.exit("none of docker, podman and buildah works here (on Debian: apt-get install buildah)")

    def has(self, image: str) -> bool:
        inspect = ["inspect", "--type", "image"] if self.name == "buildah" else ["image", "inspect"]
        return _succeeds(self.name, *inspect, image)

    def build(self, image: str, file: Path, context: Path, machine: str, arguments: dict[str, str]) -> None:
        # chroot isolation works as root anywhere; a full container would need more than a small host grants
        command = ["bud", "--isolation", "chroot", "--layers"] if self.name == "buildah" else ["build"]
        given = [f"--build-arg={key}={value}" for key, value in arguments.items()]
        command += [f"--platform=linux/{machine}", *given, "-t", image, "-f", str(file), str(context)]
        run(self.name, *command)

    def save(self, image: str, archive: Path) -> None:
        archive.unlink(missing_ok=True)
        match self.name:
            case "docker":
                run("docker", "save", "-o", str(archive), image)
            case "podman":
                run("podman", "save", "--format", "oci-archive", "-o", str(archive), image)
            case _:
                run("buildah", "push", "-q", image, f"oci-archive:{archive}:{image}")


def arch() -> str:
    """The architecture to build for, this machine's if none is asked for."""
    ours = {kernel: name for name, kernel in _WHEEL_PLATFORMS.items()}
    return os.environ.get("ARCH") or ours[platform.machine()]


def build(image: str, base: str, machine: str, artifacts: Path | None, python: str) -> None:
    """Leaves the image in build/sysbox-deploy.tar, or that as it is if it was made from the same parts."""
    wheels = _BUILD / "wheels" / f"{machine}-{python}"
    _download(wheels, machine, python)
    stage(_BUILD / "artifacts", artifacts, machine)
    recipe = json.dumps([image, base, machine, _digest(_context(wheels))])
    stamp = _ARCHIVE.with_suffix(".recipe")
    if _ARCHIVE.exists() and stamp.exists() and stamp.read_text() == recipe:
        print(f"{_ARCHIVE}: made from the same parts already")
        return
    engine = Engine.find()
    given = {"BASE": base, "WHEELS": str(wheels), "VERSION": __version__}
    engine.build(image, _HERE / "Containerfile", Path(), machine, given)
    engine.save(image, _ARCHIVE)
    stamp.write_text(recipe)
    print(f"{_ARCHIVE}: {image}, {_ARCHIVE.stat().st_size / 2**20:.1f} MiB, by {engine.name}")


def _download(wheels: Path, machine: str, python: str) -> None:
    """The locked wheels, and pip's own; kept as long as the locks stay the same."""
    locks = [_HERE / "requirements.lock", _HERE / "pip.lock"]
    stamp, current = Path(f"{wheels}.locks"), _digest(locks)
    if stamp.exists() and stamp.read_text() == current:
        return
    shutil.rmtree(wheels, ignore_errors=True)
    tags = ("manylinux2014", "manylinux_2_17", "manylinux_2_28")
    platforms = [f"--platform={tag}_{_WHEEL_PLATFORMS[machine]}" for tag in tags]
    target = [f"--python-version={python}", "--implementation=cp", *platforms]
    for lock in locks:
        run(
            sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--require-hashes",
            "--no-deps", "--only-binary=:all:", *target, "-d", str(wheels), "-r", str(lock),
        )  # fmt: skip
    stamp.write_text(current)


def stage(folder: Path, given: Path | None, machine: str, lock: Path = _HERE / "artifacts.lock") -> None:
    """Fills the folder that the Containerfile takes artifacts from. Exits where one is not as locked."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    entries = tomllib.loads(lock.read_text()).get("artifact", [])
    digests = {entry["name"]: entry["sha256"] for entry in entries if entry["arch"] == machine}
    if given is None:
        return
    for file in (f for f in given.rglob("*") if f.is_file()):
        name = file.relative_to(given)
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        if (locked := digests.get(str(name), found)) != found:
            sys.exit(f"{file}: its sha256 is {found}, but {lock} says {locked}")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, folder / name)


def _context(wheels: Path) -> Iterator[Path]:
    """Every file that the image is made from."""
    yield Path("LICENSE")
    for folder in (Path("installer"), Path("image"), _BUILD / "artifacts", wheels):
        yield from (f for f in folder.rglob("*") if f.is_file() and "__pycache__" not in f.parts)


def _digest(files: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for file in sorted(files):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        total.update(f"{file} {file.stat().st_mode:o} {content}\n".encode())
    return total.hexdigest()


def _succeeds(*argv: str) -> bool:
    quiet = subprocess.DEVNULL
    return subprocess.run(argv, stdin=quiet, stdout=quiet, stderr=quiet, check=False).returncode == 0


def run(*argv: str) -> None:
    # standard output is left to results
    if subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False).returncode:
        sys.exit(f"failed: {shlex.join(argv)}")


if __name__ == "__main__":
    folder = os.environ.get("ARTIFACTS")
    build(
        image=os.environ.get("IMAGE") or f"localhost/sysbox-deploy:{__version__}",
        base=os.environ.get("BASE") or sys.exit("BASE is not set; tests.image_base makes one: make image"),
        machine=arch(),
        artifacts=Path(folder) if folder else None,
        python=os.environ.get("PYTHON_VERSION") or "3.11",
    )
