"""The journal: what it was told it tells again after any crash; what is damaged it refuses by name."""

import dataclasses
import errno
import hashlib
import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from installer.changes import InPlace, OwnLines, WriteFile
from installer.engine.install import undo
from installer.errors import DeployError, RefusedError
from installer.host import sha256
from installer.journal import STATE, Entry, Journal
from installer.plan import make_cleanup
from tests.making import CONTENTS, FEW, begin, make, take_back
from tests.tree_host import TreeHost, a_host

JOURNAL = f"{STATE}/journal"
CHANGES: tuple[InPlace, ...] = (
    *(WriteFile("/etc/a", "a\udcff\n"), OwnLines("/etc/b", "us", ("one", "two")), WriteFile("/etc/c", "")),
)
BEFORE: dict[str, Any] = {"path": "/x", "state": None, "made": ["/y"]}


def told(journal: Journal) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All that it knows."""
    return [dataclasses.asdict(entry) for entry in journal.entries], dict(journal.notes)


def text(host: TreeHost) -> bytes:
    return host.read(JOURNAL) or b""


def cut(host: TreeHost, size: int) -> None:
    host.put(JOURNAL, text(host)[:size], 0o600)


def line(**record: Any) -> bytes:
    """A record as the journal writes it."""
    body = json.dumps(record, sort_keys=True).encode()
    return hashlib.sha256(body).hexdigest()[:16].encode() + b" " + body + b"\n"


Operation = tuple[str, int, str]
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "begin", "done", "claim", "unclaim", "undoing", "undone", "note"]),
        st.integers(0, 2),
        st.sampled_from(["crio", "sysbox"]),
    ),
    max_size=12,
)


def tell(journal: Journal, operation: Operation, number: int) -> None:
    """One operation, if it makes sense now."""
    what, which, profile = operation
    change = CHANGES[which]
    entry = journal.entry(change.key)
    if what == "begin":
        journal.begin(f"step {number}", change, {**BEFORE, "number": number}, profile)
    elif what == "note":
        journal.note(f"note {which}", None if profile == "crio" else {"is": [number, "é\udcff"]})
    elif entry and what == "done":
        journal.done(entry, {"added": [str(number)], "last": number})
    elif entry and what == "unclaim":
        if len(entry.claims) > 1 and profile in entry.claims:
            journal.unclaim(entry, profile)
    elif entry and what == "undone":
        journal.undone(entry, ["kept"])
    elif entry:
        getattr(journal, what)(*((entry, profile) if what == "claim" else (entry,)))


@FEW
@given(OPERATIONS)
def test_what_it_was_told_it_tells_again(operations: list[Operation]) -> None:
    with a_host() as host:
        journal = Journal(host)
        for number, operation in enumerate(operations):
            tell(journal, operation, number)
            assert told(Journal(host)) == told(journal)


@FEW
@given(OPERATIONS)
def test_the_oldest_original_of_a_change_wins_for_ever(operations: list[Operation]) -> None:
    oldest: dict[str, Any] = {}
    with a_host() as host:
        journal = Journal(host)
        for number, operation in enumerate(operations):
            tell(journal, operation, number)
            oldest = {key: oldest.get(key, number) for key in journal.keys}
        assert {e.change.key: e.before["number"] for e in Journal(host).entries} == oldest


def test_nothing_is_written_before_the_first_record() -> None:
    with a_host() as host:
        journal = Journal(host)
        journal.note("never", None)
        assert journal.entries == []
        assert not host.exists(STATE)
        journal.destroy()


def test_a_record_that_a_crash_cut_off_at_any_byte_never_counted() -> None:
    with a_host() as host:
        journal = Journal(host)
        for change in CHANGES:
            journal.begin("step", change, BEFORE, "sysbox")
        known, size = told(journal), len(text(host))
        journal.done(journal.entries[0], {"added": ["x"]})
        whole = text(host)
        for end in range(size, len(whole)):
            cut(host, end)
            again = Journal(host)
            assert told(again) == known
            again.done(again.entries[0], {"added": ["x"]})
            assert text(host) == whole
        assert told(Journal(host)) == told(journal)


def test_a_first_record_that_a_crash_cut_off_at_any_byte_never_counted() -> None:
    with a_host() as host:
        Journal(host).note("a", 1)
        whole = text(host)
        for end in range(len(whole)):
            cut(host, end)
            again = Journal(host)
            assert told(again) == ([], {})
            again.note("a", 1)
            assert text(host) == whole


def test_a_tail_of_what_a_power_cut_leaves_never_counted() -> None:
    with a_host() as host:
        Journal(host).note("a", 1)
        whole = text(host)
        for tail in (b"\0" * 300, b"\0\n", b"\n", b"\xff\xfe garbage", b"garbage\n"):
            host.put(JOURNAL, whole + tail, 0o600)
            again = Journal(host)
            assert again.notes == {"a": 1}
            again.note("b", 2)
            assert text(host).startswith(whole)
            assert Journal(host).notes == {"a": 1, "b": 2}
            host.put(JOURNAL, whole, 0o600)


def test_a_damaged_earlier_record_is_refused_by_its_line_whichever_byte_it_is() -> None:
    with a_host() as host:
        journal = Journal(host)
        for number in range(3):
            journal.note("n", number)
        whole = text(host)
        last = whole.rindex(b"\n", 0, -1)
        for at in range(last):
            host.put(JOURNAL, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], 0o600)
            with pytest.raises(RefusedError) as refused:
                Journal(host)
            number = whole[:at].count(b"\n") + 1
            assert f"line {number} " in refused.value.what
            assert refused.value.where == JOURNAL
            assert refused.value.remedy


@pytest.mark.parametrize(
    ("records", "number"),
    [
        ([{"op": "note", "name": "a", "value": 1}], 1),
        ([{"op": "format", "version": 1, "by": "0"}, {"op": "done", "key": "file:/lost", "after": {}}], 2),
        ([{"op": "format", "version": 1, "by": "0"}, {"op": "undone", "key": "file:/lost", "kept": []}], 2),
        ([{"op": "format", "version": 1, "by": "0"}, {"op": "unheard of", "key": "x"}], 2),
        ([{"op": "format", "version": 1, "by": "0"}, {"op": "note"}], 2),
        ([{"op": "format", "version": 1, "by": "0"}, {"op": "begin", "change": {"kind": "file"}, "claim": "x"}], 2),
        ([{"op": "format", "version": 1, "by": "0"}, {}], 2),
        ([{"op": "format"}], 1),
    ],
    ids=str,
)
def test_a_record_without_sense_is_refused_by_its_line(records: list[dict[str, Any]], number: int) -> None:
    with a_host() as host:
        host.put(JOURNAL, b"".join(line(**r) for r in [*records, {"op": "note", "name": "a", "value": 2}]))
        with pytest.raises(RefusedError) as refused:
            Journal(host)
        assert f"line {number} " in refused.value.what
        assert refused.value.where == JOURNAL
        assert refused.value.remedy


def test_a_journal_that_lost_its_head_is_refused() -> None:
    with a_host() as host:
        make(host, CHANGES[0])
        host.put(JOURNAL, text(host).split(b"\n", 1)[1])
        with pytest.raises(RefusedError, match="line 1 "):
            Journal(host)


def test_a_newer_format_is_refused_by_the_version_that_can_read_it() -> None:
    with a_host() as host:
        host.put(JOURNAL, line(op="format", version=2, by="7.8.9") + line(op="unheard of"))
        with pytest.raises(RefusedError, match="newer") as refused:
            Journal(host)
        assert "7.8.9" in refused.value.remedy


def test_a_change_of_a_kind_that_only_a_newer_version_knows_is_refused_by_name() -> None:
    with a_host() as host:
        begun = {"op": "begin", "step": "s", "change": {"kind": "teleport"}, "before": {}, "claim": "sysbox"}
        host.put(JOURNAL, line(op="format", version=1, by="0") + line(**begun))
        with pytest.raises(RefusedError) as refused:
            Journal(host)
        assert refused.value.found == "teleport"


def test_nobody_but_root_reads_it() -> None:
    mask = os.umask(0)
    try:
        with a_host() as host:
            journal = Journal(host)
            digest = journal.put(b"a secret")
            journal.begin("step", CHANGES[0], BEFORE, "sysbox")
            folders = {STATE: 0o700, f"{STATE}/blobs": 0o700}
            files = {JOURNAL: 0o600, f"{STATE}/blobs/{digest}": 0o600}
            for path, mode in {**folders, **files}.items():
                state = host.state(path)
                assert state
                assert (state.mode, state.uid, state.gid) == (mode, 0, 0), path
    finally:
        os.umask(mask)


@FEW
@given(st.lists(CONTENTS, max_size=4))
def test_the_vault_gives_back_what_it_was_given(contents: list[bytes]) -> None:
    with a_host() as host:
        digests = [Journal(host).put(content) for content in contents]
        assert [Journal(host).get(digest) for digest in digests] == contents
        assert set(host.names(f"{STATE}/blobs")) == set(digests) == {sha256(content) for content in contents}


@pytest.mark.parametrize(("damage", "word"), [(None, "missing"), (b"", "damaged"), (b"Other", "damaged")])
def test_a_lost_original_stops_the_cleanup_by_name_and_nothing_is_touched(damage: bytes | None, word: str) -> None:
    with a_host() as host:
        host.put("/etc/a", b"was", 0o600)
        make(host, CHANGES[0])
        blob = f"{STATE}/blobs/{sha256(b'was')}"
        host.remove(blob)
        if damage is not None:
            host.put(blob, damage)
        was = host.snapshot()
        with pytest.raises(RefusedError, match=word) as refused:
            take_back(host, "file:/etc/a")
        assert refused.value.where == blob
        assert host.snapshot() == was
        host.put(blob, b"was")
        assert take_back(host, "file:/etc/a") == []
        assert host.read("/etc/a") == b"was"


def test_a_damaged_original_is_kept_anew_as_long_as_the_file_has_it() -> None:
    with a_host() as host:
        digest = Journal(host).put(b"was")
        host.put(f"{STATE}/blobs/{digest}", b"other")
        assert Journal(host).put(b"was") == digest
        assert Journal(host).get(digest) == b"was"


def test_a_note_is_kept_once_and_can_be_forgotten() -> None:
    with a_host() as host:
        journal = Journal(host)
        journal.note("why", {"a": [1]})
        size = len(text(host))
        journal.note("why", {"a": [1]})
        assert len(text(host)) == size
        assert Journal(host).notes == {"why": {"a": [1]}}
        journal.note("why", None)
        assert Journal(host).notes == {}


def test_a_record_that_the_disk_takes_in_pieces_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:7]))
    with a_host() as host:
        journal = Journal(host)
        journal.begin("step", CHANGES[1], BEFORE, "sysbox")
        assert told(Journal(host)) == told(journal)


@pytest.mark.parametrize("call", ["open", "ftruncate", "write", "fsync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_record_that_could_not_be_written_never_counted(
    call: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_host() as host:
        journal = Journal(host)
        journal.note("a", 1)
        known = told(journal)
        with monkeypatch.context() as patch:
            patch.setattr(os, call, _failing(code))
            with pytest.raises(DeployError) as failed:
                journal.note("b", 2)
        assert failed.value.where == JOURNAL
        assert os.strerror(code) in failed.value.found
        assert failed.value.remedy
        assert told(journal) == known
        journal.note("c", 3)
        assert Journal(host).notes == {"a": 1, "c": 3}


def test_it_is_gone_when_it_is_destroyed() -> None:
    with a_host() as host:
        was = host.names("/var/lib")
        make(host, CHANGES[0])
        journal = Journal(host)
        undo(host, journal, journal.entries[0])
        journal.destroy()
        assert host.names("/var/lib") == was
        assert Journal(host).entries == []
        Journal(host).destroy()


# A journal that lost whole records at its end, by a restored backup say. What it no longer knows is not ours any
# more: it stays as it is, and an install that follows takes it for the host's own. Nothing else is ever touched.
MANY: tuple[InPlace, ...] = (
    WriteFile("/etc/one", "one\n"),
    OwnLines("/etc/two", "us", ("ours:1:2",)),
    WriteFile("/etc/new/three", "three\n"),
    OwnLines("/etc/four", "us", ("ours:3:4",)),
)


def _installed(host: TreeHost, made: bool = True) -> None:
    host.put("/etc/one", b"was one", 0o600)
    host.put("/etc/two", b"theirs:0:1\r\n")
    for change in MANY if made else ():
        make(host, change)


def _cleaned(host: TreeHost) -> list[str]:
    journal = Journal(host)
    kept: list[str] = []
    for entry in make_cleanup(journal.entries, "sysbox")[0]:
        kept += undo(host, journal, entry)
    assert Journal(host).entries == []
    return kept


def _ends(data: bytes) -> list[int]:
    """Every record's end, and some places within each."""
    ends = [at + 1 for at, byte in enumerate(data) if byte == 10]
    return sorted({0, *ends, *(end - 1 for end in ends), *(end - 40 for end in ends)})


def test_after_a_journal_lost_records_cleanup_takes_back_the_rest_and_touches_nothing_else() -> None:
    with a_host() as host:
        _installed(host, made=False)
        before = host.snapshot()
        _installed(host)
        whole, made = text(host), host.snapshot()
    for end in _ends(whole):
        with a_host() as host:
            _installed(host)
            cut(host, end)
            known = {entry.change.key.split(":")[1] for entry in Journal(host).entries}
            assert _cleaned(host) == []
            after = host.snapshot()
            for path in {*before, *made, *after} - {"/etc/new"}:
                assert after.get(path) == (before if path in known else made).get(path), (end, path)


def test_after_a_journal_lost_records_of_a_cleanup_it_is_only_done_again() -> None:
    with a_host() as host:
        _installed(host)
        installed = text(host)
        assert _cleaned(host) == []
        cleaned, after = text(host), host.snapshot()
        for end in _ends(cleaned):
            if end >= len(installed):
                host.put(JOURNAL, cleaned[:end], 0o600)
                assert _cleaned(host) == []
                assert host.snapshot() == after


def test_what_a_journal_forgot_is_the_hosts_own_for_the_install_that_follows() -> None:
    with a_host() as host:
        _installed(host)
        cut(host, 0)
        was = host.snapshot()
        for change in MANY:
            make(host, change)
        assert host.snapshot() == was
        assert _cleaned(host) == []
        assert host.snapshot() == was


def test_a_crash_after_the_record_and_before_the_deed_leaves_an_entry_that_says_so() -> None:
    with a_host() as host:
        begin(host, CHANGES[0], "crio")
        entry = Journal(host).entries[0]
        assert (entry.state, entry.claims, entry.after, entry.finished) == ("begun", ["crio"], {}, 0)
        assert entry.others("crio") == ""
        assert entry.others("sysbox") == "crio"


def test_what_two_makings_told_is_joined() -> None:
    with a_host() as host:
        journal = Journal(host)
        entry = journal.begin("step", CHANGES[0], BEFORE, "sysbox")
        journal.done(entry, {"added": ["b"], "last": 1})
        journal.begin("step", CHANGES[0], {}, "crio")
        journal.done(entry, {"added": ["a"], "last": 2, "new": True})
        again = Journal(host).entries[0]
        assert again.after == {"added": ["a", "b"], "last": 2, "new": True}
        assert (again.claims, again.before, again.order) == (["sysbox", "crio"], BEFORE, 2)
        assert isinstance(again, Entry)


def _failing(code: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail
