"""A host that is a file tree and nothing more: changes are made to it for real, commands are few and stand-ins."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from installer.host import FileState, Host, Result, Tree

STATE = "/var/lib/sysbox-deploy"
_MEMORY = Path("/dev/shm")
Answer = Callable[..., str]


class TreeHost(Host):
    """`commands` answers by the program's name; what it lacks fails the test. `asked` keeps every command."""

    def __init__(self, root: Path, commands: dict[str, Answer] | None = None) -> None:
        Tree.__init__(self, root)
        self.init = 0
        self.inherited = set()
        self.asked: list[tuple[str, ...]] = []
        ours: dict[str, Answer] = {"systemctl": _systemctl, "cat": self._cat, "find": self._find}
        self.commands = {**ours, **(commands or {})}

    def run(self, *argv: str, timeout: int = 60, stdin: bytes = b"", check: bool = True) -> Result:
        self.asked.append(argv)
        name = argv[0].rpartition("/")[2]
        assert name in self.commands, f"this host has no {name}: {argv}"
        return Result(0, self.commands[name](*argv[1:]), "")

    def put(self, path: str, content: bytes = b"", mode: int = 0o644) -> None:
        """A file, as somebody else would write it."""
        real = self.real(path)
        self.make_directory(path.rpartition("/")[0] or "/")
        real.write_bytes(content)
        real.chmod(mode)

    def snapshot(self) -> dict[str, FileState]:
        """All that stands in the tree but our own state, by path: content, mode, owner, xattrs, links."""
        found: dict[str, FileState] = {}
        folders = ["/"]
        while folders:
            folder = folders.pop()
            for name in self.names(folder):
                path = f"{folder.rstrip('/')}/{name}"
                state = self.state(path)
                if path != STATE and state:
                    found[path] = state
                    folders += [path] if state.kind == "dir" else []
        # What a directory holds is told by what stands in it.
        return {p: FileState("dir", s.mode, s.uid, s.gid) if s.kind == "dir" else s for p, s in found.items()}

    def _cat(self, *paths: str) -> str:
        assert paths == ("/proc/self/mountinfo",)
        return ""

    def _find(self, folder: str, *options: str) -> str:
        assert options == ("-xdev", "-mindepth", "1", "-depth", "-delete")
        real = self.real(folder, follow=False)
        if real.is_symlink():  # find does not follow the link it is given
            return ""
        for entry in real.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        return ""


@contextmanager
def a_host(commands: dict[str, Answer] | None = None) -> Iterator[TreeHost]:
    """A host with /etc and /var/lib in it."""
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        for name in ("etc", "var", "var/lib"):
            (Path(folder) / name).mkdir()
            (Path(folder) / name).chmod(0o755)  # whatever our umask
        yield TreeHost(Path(folder), commands)


def _systemctl(*argv: str) -> str:
    assert argv == ("daemon-reload",), f"systemctl {argv} is not for a tree"
    return ""
