"""Where built things live: a folder that survives clones of the repository."""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path


def root() -> Path:
    """The cache's folder: $SYSBOX_TEST_CACHE, else ~/.cache/sysbox-deploy."""
    named = os.environ.get("SYSBOX_TEST_CACHE")
    folder = Path(named) if named else Path.home() / ".cache" / "sysbox-deploy"
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def digest(files: Iterable[Path], *words: str) -> str:
    """A short name for the content of these files and words."""
    h = hashlib.sha256()
    for word in words:
        h.update(word.encode() + b"\0")
    for file in sorted(files):
        h.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return h.hexdigest()[:12]


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Alone in the body among all processes that name the same lock file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # inheritable=False is Python's default: a child that outlives us must not keep the lock
    with file.open("a") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield
