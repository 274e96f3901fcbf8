"""Files: one that is ours to write whole, and lines of ours in one that is shared."""

import dataclasses
import difflib
from collections.abc import Collection
from pathlib import PurePosixPath
from typing import ClassVar

from installer.changes import merge
from installer.changes.base import InPlace, Record, Vault
from installer.errors import PermanentError
from installer.facts.model import Facts
from installer.host import FileState, Host, decode, encode, sha256

_NEW = FileState("file", 0o644, 0, 0)


@dataclasses.dataclass(frozen=True)
class WriteFile(InPlace):
    """The whole content of a file. Where one stands already, its xattrs are kept."""

    kind: ClassVar[str] = "file"
    path: str
    content: str
    mode: int = 0o644
    uid: int = 0
    gid: int = 0

    @property
    def key(self) -> str:
        return f"file:{self.path}"

    def describe(self) -> str:
        return f"write {self.path} ({len(encode(self.content))} bytes, mode {self.mode:04o})"

    def satisfied(self, facts: Facts) -> str:
        now = facts.files.get(self.path)
        wanted = ("file", sha256(encode(self.content)), self.mode, self.uid, self.gid)
        if now and (now.kind, now.sha256, now.mode, now.uid, now.gid) == wanted:
            return f"{self.path} holds it already"
        return ""

    def diff(self, facts: Facts) -> str:
        now = facts.files.get(self.path)
        return unified(self.path, now.text if now else "", self.content)

    def capture(self, host: Host, vault: Vault) -> Record:
        return capture_file(host, vault, self.path)

    def apply(self, host: Host, vault: Vault, before: Record) -> Record:
        host.make_directory(str(PurePosixPath(before["path"]).parent))
        xattrs = tuple((n, v) for n, v in (before["state"] or {}).get("xattrs", ()))
        like = dataclasses.replace(_NEW, mode=self.mode, uid=self.uid, gid=self.gid, xattrs=xattrs)
        host.replace(before["path"], encode(self.content), like)
        reload_units(host, self.path)
        return {"wrote": [sha256(encode(self.content))]}

    def verify(self, host: Host) -> None:
        if host.read(self.path) != encode(self.content):
            raise PermanentError(
                "the file does not hold what was written", where=self.path, remedy="who else writes it?"
            )

    def undo(self, host: Host, vault: Vault, before: Record, after: Record) -> list[str]:
        now = host.state(before["path"])
        if now and now.kind != "file":
            return [_no_file(before["path"])]
        kept = restore(host, vault, before, encode(self.content), after.get("wrote", ()))
        reload_units(host, self.path)
        return kept


@dataclasses.dataclass(frozen=True)
class OwnLines(InPlace):
    """Lines of ours at the end of a file that others write too; `name` is what they are for."""

    kind: ClassVar[str] = "lines"
    path: str
    name: str
    lines: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"lines:{self.path}:{self.name}"

    def describe(self) -> str:
        return f"add to {self.path}: {', '.join(self.lines)}"

    def satisfied(self, facts: Facts) -> str:
        now = facts.files.get(self.path)
        if now and set(self.lines) <= _lines(now.text):
            return f"{self.path} has {', '.join(self.lines)}"
        return ""

    def diff(self, facts: Facts) -> str:
        now = facts.files.get(self.path)
        text = now.text if now else ""
        return unified(self.path, text, self._added(text))

    def capture(self, host: Host, vault: Vault) -> Record:
        return capture_file(host, vault, self.path)

    def apply(self, host: Host, vault: Vault, before: Record) -> Record:
        text = decode(host.read(self.path) or b"")
        now = host.state(host.followed(self.path))
        content = encode(self._added(text))
        host.make_directory(str(PurePosixPath(before["path"]).parent))
        host.replace(self.path, content, now or _NEW)
        return {}

    def verify(self, host: Host) -> None:
        there = _lines(decode(host.read(self.path) or b""))
        missing = [line for line in self.lines if line not in there]
        if missing:
            raise PermanentError("lines of ours are not in the file", where=self.path, found=f"missing: {missing}")

    def undo(self, host: Host, vault: Vault, before: Record, after: Record) -> list[str]:
        path, state = before["path"], before["state"]
        original = vault.get(state["sha256"]) if state else b""
        now = host.state(path)
        if now is None:
            _remove(host, before)
            return [f"{path} was removed by somebody since; not put back"] if state else []
        if now.kind != "file":
            return [_no_file(path)]
        data = host.read(path) or b""
        if encode(self._added(decode(original))) == data:
            _put_back(host, before, original, now)
            return []
        left = encode(self._taken_out(decode(data), decode(original)))
        if not left and state is None:
            _remove(host, before)
        elif left != data:
            host.replace(path, left, now)
        return []

    def _added(self, text: str) -> str:
        """The text with those of our lines that it lacks. They end in a bare newline, as shadow needs it."""
        have = _lines(text)
        missing = [line for line in self.lines if line not in have]
        gap = "\n" if missing and text and not text.endswith("\n") else ""
        return text + gap + "".join(f"{line}\n" for line in missing)

    def _taken_out(self, text: str, original: str) -> str:
        """The text without the last occurrence of each of our lines that the original lacked."""
        *rest, tail = text.split("\n")
        rest = [f"{line}\n" for line in rest] + [tail]
        had = _lines(original)
        for line in self.lines:
            at = [i for i, each in enumerate(rest) if line not in had and _bare(each) == line]
            if at:
                del rest[at[-1]]
        left = "".join(rest)
        last = original.rpartition("\n")[2]
        # The newline before our lines is ours too, where the same last line still stands before them.
        gap = last and left != text and text.startswith(left) and left[:-1].rpartition("\n")[2] == last
        return left[:-1] if gap else left


def capture_file(host: Host, vault: Vault, path: str) -> Record:
    """What stands at `path` (through its links): its state, its content in the vault, the parents it lacks."""
    real = host.followed(path)
    state = host.state(real)
    if state is None:
        return {"path": real, "state": None, "made": missing_parents(host, real)}
    if state.kind != "file":
        raise PermanentError(
            "a regular file is expected here", where=path, found=f"a {state.kind}", remedy="move it away"
        )
    digest = vault.put(host.read(real) or b"")
    plain = {
        "mode": state.mode,
        "uid": state.uid,
        "gid": state.gid,
        "sha256": digest,
        "xattrs": [list(x) for x in state.xattrs],
    }
    return {"path": real, "state": plain, "made": []}


def restored(
    host: Host, vault: Vault, before: Record, written: bytes, earlier: Collection[str] = ()
) -> tuple[bytes | None, list[str]]:
    """What the file shall hold once ours is out of it, and what stays, and why; None where it shall go (or is gone).

    A file that still holds `written` gets its original back; of one that somebody changed since, only ours goes.
    `earlier` are digests of what else we wrote there: an upgrade that was cut off may not have replaced it.
    """
    path, state = before["path"], before["state"]
    original = vault.get(state["sha256"]) if state else None
    now = host.state(path)
    if now is None:
        gone = original is not None and original != written
        return None, [f"{path} was removed by somebody since; not put back"] if gone else []
    if now.kind != "file":
        raise PermanentError(
            "a file of ours is no longer a regular file",
            where=path,
            found=f"a {now.kind}",
            remedy="move it away, then run cleanup again",
        )
    data = host.read(path) or b""
    if data in (written, original or b"") or sha256(data) in earlier:
        return original, []
    left = merge.without(decode(written), decode(original or b""), decode(data))
    if left is None:
        return data, [f"{path} was changed since in ways that can't be told from ours; left as it is"]
    if original is None and not left.strip():
        return None, []
    return encode(left), [f"{path} was changed by somebody since; only our lines were taken out"]


def restore(host: Host, vault: Vault, before: Record, written: bytes, earlier: Collection[str] = ()) -> list[str]:
    """Does what `restored` says: content, mode, owner and xattrs; returns what stays, and why."""
    content, kept = restored(host, vault, before, written, earlier)
    now = host.state(before["path"])
    if content is None or now is None:
        _remove(host, before)
    elif not kept:
        _put_back(host, before, content, now)
    elif host.read(before["path"]) != content:
        host.replace(before["path"], content, now)
    return kept


def reload_units(host: Host, path: str) -> None:
    """Lets systemd read its files again after one of them changed."""
    if "/systemd/system/" in path:
        host.run("systemctl", "daemon-reload")


def unified(path: str, old: str, new: str) -> str:
    """A readable diff of one file."""
    a, b = old.splitlines(keepends=True), new.splitlines(keepends=True)
    return "".join(line if line.endswith("\n") else line + "\n" for line in difflib.unified_diff(a, b, path, path))


def _put_back(host: Host, before: Record, original: bytes, now: FileState) -> None:
    """The original, with its mode, owner and xattrs; where there was none, nothing."""
    state = before["state"]
    if state is None:
        _remove(host, before)
        return
    xattrs = tuple((n, v) for n, v in state["xattrs"])
    like = FileState("file", state["mode"], state["uid"], state["gid"], xattrs=xattrs)
    same = (now.mode, now.uid, now.gid, now.xattrs) == (like.mode, like.uid, like.gid, like.xattrs)
    if not same or host.read(before["path"]) != original:
        host.replace(before["path"], original, like)


def _remove(host: Host, before: Record) -> None:
    """No file, and none of the folders that it needed."""
    host.remove(before["path"])
    for made in reversed(before["made"]):
        host.remove_directory(made)


def missing_parents(host: Host, path: str) -> list[str]:
    """The folders that a file there still needs, outermost first. Raises PermanentError where none can be made."""
    missing: list[str] = []
    at = PurePosixPath(path).parent
    while not host.exists(str(at)):
        missing.insert(0, str(at))
        at = at.parent
    there = host.state(host.followed(str(at)))
    if there and there.kind != "dir":
        raise PermanentError(
            "a directory is expected here", where=str(at), found=f"a {there.kind}", remedy="move it away"
        )
    return missing


def _no_file(path: str) -> str:
    return f"{path} is no longer a regular file; left as it is"


def _lines(text: str) -> set[str]:
    """Its lines. They end at a newline only: a form feed or U+2028 does not end one for programs that read them."""
    return {_bare(line) for line in text.split("\n")}


def _bare(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")
