"""How tests make a change and take it back: as the engine does, on a host that is a tree."""

from hypothesis import settings
from hypothesis import strategies as st

from installer.changes import Change, InPlace
from installer.engine.install import undo
from installer.facts import lazy
from installer.facts.model import Facts
from installer.host import Tree
from installer.journal import Entry, Journal
from tests.tree_host import TreeHost

# Each example makes trees and syncs files: fewer than usual, on a machine that may be busy.
FEW = settings(max_examples=50, deadline=None)

PIECES = (
    *(b"containers:100000:65536", b"cesar:100000:65536", b"# comment", b"one", b"two", b"a = 1", b"[crio]", b" "),
    *(b"\n", b"\n", b"\n", b"\r\n", b"\r", b"\0", b"\xef\xbb\xbf", b"caf\xe9", "ü".encode(), b"\x0c", b"\xc2\x85"),
    *("\u2028".encode(), b"\\", b'"', b"%"),
)
CONTENTS = st.one_of(st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join), st.binary(max_size=40))


def begin(host: TreeHost, change: InPlace, profile: str = "sysbox") -> Entry:
    """The journal's record of a change that a crash then kept from being made."""
    journal = Journal(host)
    return journal.begin("step", change, change.capture(host, journal), profile)


def make(host: TreeHost, change: InPlace, profile: str = "sysbox") -> Entry:
    """Makes the change, journalled and verified."""
    journal = Journal(host)
    known = journal.entry(change.key)
    found = known.before if known and known.state != "done" else change.capture(host, journal)
    entry = journal.begin("step", change, found, profile)
    after = change.apply(host, journal, found)
    change.verify(host)
    journal.done(entry, after)
    return entry


def take_back(host: TreeHost, key: str) -> list[str]:
    """Takes it back by what a new process reads from the journal; returns what was kept."""
    journal = Journal(host)
    entry = journal.entry(key)
    assert entry
    return undo(host, journal, entry)


def holds(host: Tree, change: Change) -> str:
    """Why a second run would not make the change."""
    return change.satisfied(facts(host))


def facts(host: Tree) -> Facts:
    """What files tell."""
    return Facts(files=lazy.files(host), links=lazy.links(host))
