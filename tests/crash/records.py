"""What a journal means: two that mean the same are the same state, whatever lines it took to say it."""

import copy
import hashlib
import json

from installer.changes import SetSysctl
from installer.journal import Entry, Journal

JOURNAL = "/var/lib/sysbox-deploy/journal"


class Meaning:
    """A journal that was read to some line, by the program's own reader of a line."""

    def __init__(self, before: "Meaning | None" = None) -> None:
        self._journal = Journal.__new__(Journal)
        old = before._journal if before else None
        self._journal._entries = {k: copy.copy(e) for k, e in old._entries.items()} if old else {}
        self._journal.notes = dict(old.notes) if old else {}
        self._journal._line = old._line if old else 0
        for entry in self._journal._entries.values():
            entry.claims = list(entry.claims)

    def take(self, line: bytes) -> None:
        """One more line."""
        self._journal._take(json.loads(line.partition(b" ")[2]))

    @property
    def entries(self) -> dict[str, Entry]:
        """The live entries."""
        return self._journal._entries

    def without_order(self) -> dict[str, object]:
        """Something to compare, in whatever order things were done.

        Left out: `after`, which repetition lets grow, and settings of the kernel that a module brought as wanted.
        """
        live = {
            k: (e.step, e.change, e.before, sorted(e.claims), e.state, e.stale)
            for k, e in self.entries.items()
            if not isinstance(e.change, SetSysctl) or e.change.value != e.before["value"]
        }
        return {**live, "notes": self._journal.notes}

    def key(self, known: dict[tuple[int, int, int], tuple[Entry, bytes]]) -> int:
        """A number that tells meanings apart; where a line stands counts only against the others."""
        places = sorted({p for e in self.entries.values() for p in (e.order, e.finished)})
        rank = {place: i for i, place in enumerate(places)}
        said = [
            (k, _text(e, known), e.state, e.stale, tuple(e.claims), rank[e.order], rank[e.finished])
            for k, e in sorted(self.entries.items())
        ]
        text = repr((said, sorted(self._journal.notes.items())))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")


def _text(entry: Entry, known: dict[tuple[int, int, int], tuple[Entry, bytes]]) -> bytes:
    """A digest of what an entry holds. The entry is kept with it, so that no other object gets the same id."""
    at = (id(entry.change), id(entry.before), id(entry.after))
    if at not in known:
        held = json.dumps([entry.change.to_dict(), entry.before, entry.after], sort_keys=True)
        known[at] = (copy.copy(entry), hashlib.blake2b(held.encode(), digest_size=16).digest())
    return known[at][1]


class Reader:
    """Reads journals that mostly grow by a line: what was read of one serves for the next."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[Meaning, int]] = {}
        self._texts: dict[tuple[int, int, int], tuple[Entry, bytes]] = {}

    def read(self, data: bytes) -> tuple[Meaning, int]:
        """What it means, and that as a key; a last line without its end is none."""
        return self._get(data[: data.rfind(b"\n") + 1])

    def _get(self, data: bytes) -> tuple[Meaning, int]:
        at = hashlib.blake2b(data, digest_size=16).digest()
        if at not in self._known:
            meaning = Meaning()
            if data:
                cut = data.rfind(b"\n", 0, -1) + 1
                meaning = Meaning(self._get(data[:cut])[0])
                meaning.take(data[cut:])
            self._known[at] = (meaning, meaning.key(self._texts))
        return self._known[at]
