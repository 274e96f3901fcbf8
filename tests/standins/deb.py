"""Debian packages from a folder of files: the same bytes in, the same package out."""

import gzip
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

DATA = Path(__file__).parent / "data"
_EPOCH = "1735689600"  # any fixed time will do: what a package holds must not depend on when it was built


def architecture() -> str:
    """This machine's, in Debian's words."""
    return run(["dpkg", "--print-architecture"]).strip()


def run(argv: Sequence[str | Path], *, cwd: Path | None = None) -> str:
    """A command's output; if it fails, what it said is in the error."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "SOURCE_DATE_EPOCH": _EPOCH}
    done = subprocess.run(
        argv, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        said = done.stderr + done.stdout
        raise RuntimeError(f"{' '.join(map(str, argv))} failed ({done.returncode}): {said}")
    return done.stdout


def lay(name: str, tree: Path) -> None:
    """Puts that package's data files below `tree`, with a package's modes whatever the checkout's are."""
    shutil.copytree(DATA / name / "root", tree, copy_function=shutil.copyfile, dirs_exist_ok=True)
    scripts = DATA / name / "DEBIAN"
    shutil.copytree(scripts, tree / "DEBIAN", copy_function=shutil.copyfile)
    for path in tree.rglob("*"):
        path.chmod(0o755 if path.is_dir() or path.parent == tree / "DEBIAN" else 0o644)


def put(source: Path, target: Path, mode: int) -> None:
    """Copies a file into a package's tree."""
    folders(target.parent)
    shutil.copyfile(source, target)
    target.chmod(mode)


def folders(path: Path) -> None:
    """Makes a folder, and those above it, open to all whatever the umask."""
    if not path.is_dir():
        folders(path.parent)
        path.mkdir()
        path.chmod(0o755)


def squeeze(path: Path) -> None:
    """Puts a file's .gz in its place, without a time in it."""
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    packed.chmod(0o644)
    path.unlink()


def pack(tree: Path, control: Mapping[str, str], out: Path, *, compression: Sequence[str]) -> Path:
    """Builds the package of a tree whose DEBIAN folder holds the scripts; `out` is the .deb's path."""
    control = {**control, "Installed-Size": str(_size(tree) // 1024)}
    (tree / "DEBIAN/control").write_text("".join(f"{key}: {value}\n" for key, value in control.items()))
    (tree / "DEBIAN/control").chmod(0o644)
    folders(out.parent)
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    run(["dpkg-deb", "--root-owner-group", *compression, "--build", tree, partial])
    partial.rename(out)
    return out


def conffiles(tree: Path, paths: Sequence[str]) -> None:
    """Names the files that dpkg must keep if the operator changed them."""
    named = tree / "DEBIAN/conffiles"
    named.write_text("".join(f"{path}\n" for path in paths))
    named.chmod(0o644)


def _size(tree: Path) -> int:
    return sum(path.lstat().st_size for path in tree.rglob("*"))
