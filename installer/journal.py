"""The write-ahead journal on the host, and the originals that it keeps.

`/var/lib/sysbox-deploy/` (0700): `journal`, one record a line, `CHECKSUM JSON`; `blobs/`, originals named by their
SHA-256. A record is appended and synced before the host is touched (`begin`), and again when it is done (`done`).
The first `before` of a key wins for ever: a later run, an upgrade or a crash never replaces it.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field
from typing import Any

from installer import __version__
from installer.changes import Change, Record, UnitState, load
from installer.errors import RefusedError, TemporaryError
from installer.host import FileState, Host, decode, sha256

STATE = "/var/lib/sysbox-deploy"
LOCK = f"{STATE}/lock"
_JOURNAL = f"{STATE}/journal"
_BLOBS = f"{STATE}/blobs"
_FORMAT = 1
_PRIVATE = FileState("file", 0o600, 0, 0)


@dataclass
class Entry:
    """A live entry: what we did, what stood there before, for which profiles.

    `state` is begun (not known to have happened), done, or undoing. `order` is its place in the journal;
    `finished` that of its latest `done`, which tells a unit that it is older than a file it reads; `stale` says
    that a file which the unit reads has been taken back since.
    """

    order: int
    step: str
    change: Change
    before: Record
    claims: list[str]
    state: str = "begun"
    after: Record = field(default_factory=dict)
    finished: int = 0
    stale: bool = False

    def others(self, profile: str) -> str:
        """The other profiles that want it, for a person."""
        return ", ".join(sorted(set(self.claims) - {profile}))


class Journal:
    """The journal of one host. Nothing is written before `begin`."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._entries: dict[str, Entry] = {}
        self.notes: dict[str, Any] = {}
        self._line = 0
        self._good = 0
        self._read()

    @property
    def entries(self) -> list[Entry]:
        """The live entries, oldest first."""
        return sorted(self._entries.values(), key=lambda e: e.order)

    @property
    def keys(self) -> frozenset[str]:
        """The keys of what is ours on this host."""
        return frozenset(self._entries)

    def entry(self, key: str) -> Entry | None:
        """The live entry of a key."""
        return self._entries.get(key)

    def begin(self, step: str, change: Change, found: Record, profile: str) -> Entry:
        """Records that `change` is about to be made; `found` stands there now, and is kept unless older is known."""
        self._append(op="begin", step=step, change=change.to_dict(), before=found, claim=profile)
        return self._entries[change.key]

    def done(self, entry: Entry, after: Record) -> None:
        """Records that it was made, and what only the making told."""
        self._append(op="done", key=entry.change.key, after=after)

    def claim(self, entry: Entry, profile: str) -> None:
        """Records that `profile` wants the entry too."""
        if profile not in entry.claims:
            self._append(op="claim", key=entry.change.key, profile=profile)

    def unclaim(self, entry: Entry, profile: str) -> None:
        """Records that `profile` wants it no more; others do."""
        self._append(op="unclaim", key=entry.change.key, profile=profile)

    def undoing(self, entry: Entry) -> None:
        """Records that the way back begins."""
        if entry.state != "undoing":
            self._append(op="undoing", key=entry.change.key)

    def undone(self, entry: Entry, kept: list[str]) -> None:
        """Records that it is taken back, and what had to stay."""
        self._append(op="undone", key=entry.change.key, kept=kept)

    def note(self, name: str, value: Any) -> None:
        """Keeps a small fact about the run itself (None forgets it)."""
        if self.notes.get(name) != value:
            self._append(op="note", name=name, value=value)

    def put(self, content: bytes) -> str:
        """Keeps content in the vault, synced; returns its SHA-256."""
        digest = sha256(content)
        path = f"{_BLOBS}/{digest}"
        if self._host.read(path) != content:
            self._make_home()
            self._host.replace(path, content, _PRIVATE)
        return digest

    def get(self, digest: str) -> bytes:
        """Content from the vault. Raises RefusedError where it is missing or damaged."""
        content = self._host.read(f"{_BLOBS}/{digest}")
        if content is None or sha256(content) != digest:
            raise RefusedError(
                "an original that cleanup needs is " + ("missing" if content is None else "damaged"),
                where=f"{_BLOBS}/{digest}",
                remedy="put the file back from a backup of the node, then run cleanup again",
            )
        return content

    def destroy(self) -> None:
        """Removes all that we keep on the host, once nothing of ours is left on it."""
        if self._host.exists(STATE):
            shutil.rmtree(self._host.real(STATE))

    def _make_home(self) -> None:
        self._host.make_directory(STATE, 0o700)
        self._host.make_directory(_BLOBS, 0o700)

    def _append(self, **record: Any) -> None:
        """Writes one record durably, then takes it in. Raises TemporaryError."""
        lines = [record] if self._line else [{"op": "format", "version": _FORMAT, "by": __version__}, record]
        data = b"".join(_line(r) for r in lines)
        try:
            self._make_home()
            self._write(data)
        except OSError as error:
            raise TemporaryError(
                "the journal can't be written, so nothing more is done",
                where=_JOURNAL,
                found=error.strerror or str(error),
                remedy="see why: df /var/lib; dmesg",
            ) from error
        self._good += len(data)
        for r in lines:
            self._take(r)

    def _write(self, data: bytes) -> None:
        real = self._host.real(_JOURNAL)
        fd = os.open(real, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            # A tail that a crash left half written goes before anything follows it.
            os.ftruncate(fd, self._good)
            os.lseek(fd, self._good, os.SEEK_SET)
            while data:
                data = data[os.write(fd, data) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        if not self._line:
            folder = os.open(real.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)

    def _read(self) -> None:
        data = self._host.read(_JOURNAL) or b""
        lines = data.split(b"\n")
        for at, line in enumerate(lines[:-1]):
            record = _parse(line)
            if record is None:
                if at == len(lines) - 2:
                    return  # the last line, half written by a crash: it never counted
                raise RefusedError(
                    f"line {at + 1} of the journal is damaged",
                    where=_JOURNAL,
                    found=decode(line[:80]),
                    remedy="put the file back from a backup of the node; nothing was touched",
                )
            self._good += len(line) + 1
            self._take(record)

    def _take(self, record: Record) -> None:
        self._line += 1
        try:
            self._take_in(record)
        except (KeyError, TypeError, ValueError) as error:
            raise RefusedError(
                f"line {self._line} of the journal makes no sense to this version",
                where=_JOURNAL,
                found=decode(_line(record)[:200]).strip(),
                remedy="put the file back from a backup of the node, or use the version that wrote it",
            ) from error

    def _take_in(self, record: Record) -> None:
        op = record["op"]
        if (op == "format") != (self._line == 1):
            raise ValueError("the format comes first")
        if op == "format":
            if record["version"] > _FORMAT:
                raise RefusedError(
                    "the journal is of a newer format",
                    where=_JOURNAL,
                    found=f"format {record['version']} by {record['by']}",
                    remedy=f"use sysbox-deploy {record['by']} or newer",
                )
        elif op == "note":
            self.notes.pop(record["name"], None)
            if record["value"] is not None:
                self.notes[record["name"]] = record["value"]
        elif op == "begin":
            self._take_begin(record)
        elif op == "undone":
            del self._entries[record["key"]]
            for entry in self._entries.values():
                if isinstance(entry.change, UnitState) and record["key"] in entry.change.watches:
                    entry.stale = True
        else:
            self._take_state(self._entries[record["key"]], record)

    def _take_begin(self, record: Record) -> None:
        change = load(record["change"])
        known = self._entries.get(change.key)
        if known is None:
            claims = [record["claim"]]
            self._entries[change.key] = Entry(self._line, record["step"], change, record["before"], claims)
            return
        known.change, known.state = change, "begun"
        known.before = _widened(known.before, record["before"])
        if record["claim"] not in known.claims:
            known.claims.append(record["claim"])

    def _take_state(self, entry: Entry, record: Record) -> None:
        match record["op"]:
            case "done":
                entry.state, entry.finished, entry.stale = "done", self._line, False
                entry.after = _joined(entry.after, record["after"])
            case "claim":
                entry.claims.append(record["profile"])
            case "unclaim":
                entry.claims.remove(record["profile"])
            case "undoing":
                entry.state = "undoing"
            case unknown:
                raise ValueError(unknown)


def _widened(old: Record, new: Record) -> Record:
    """What stood there before us, and before the files that only a newer version of the change brings."""
    known = {file["at"] for file in old.get("files", ())}
    more = [file for file in new.get("files", ()) if file["at"] not in known]
    return {**old, "files": [*old["files"], *more]} if more else old


def _joined(old: Record, new: Record) -> Record:
    """What two makings of one change told: lists grow (packages added), the rest is the newer's."""
    grown = {k: sorted({*old[k], *v}) for k, v in new.items() if isinstance(v, list) and isinstance(old.get(k), list)}
    return {**old, **new, **grown}


def _line(record: Record) -> bytes:
    body = json.dumps(record, sort_keys=True, ensure_ascii=True).encode()
    return hashlib.sha256(body).hexdigest()[:16].encode() + b" " + body + b"\n"


def _parse(line: bytes) -> Record | None:
    checksum, _, body = line.partition(b" ")
    if hashlib.sha256(body).hexdigest()[:16].encode() != checksum:
        return None
    record: Record = json.loads(body)
    return record
