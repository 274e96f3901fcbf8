"""The plan: what is to be done, why the rest is not, and which service must start again for what it reads."""

import contextlib
import itertools
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from installer.changes import InPlace, UnitState, WriteFile
from installer.engine.install import undo
from installer.facts import lazy
from installer.facts.model import Facts, Unit
from installer.facts.units import look_all
from installer.host import FileState, sha256
from installer.journal import Entry, Journal
from installer.plan import Plan, make, make_cleanup
from installer.settings import Settings
from installer.steps import Nothing, Step, Wanted
from tests.making import FEW
from tests.tree_host import TreeHost, a_host

A, B = WriteFile("/etc/a", "a"), WriteFile("/etc/b", "b")
UNIT = UnitState("crio.service", watches=("file:/etc/a", "file:/etc/b"))
RUNNING = {"crio.service": Unit("loaded", "enabled", "active")}


def step(*wanted: InPlace | Nothing, name: str = "step") -> Step:
    def run(facts: Facts, settings: Settings) -> Wanted:
        yield from wanted

    return Step(name, run)


def entry(change: InPlace, order: int, finished: int, state: str = "done", *claims: str) -> Entry:
    return Entry(order, "step", change, {}, list(claims) or ["sysbox"], state, {}, finished)


def holding(*files: WriteFile, units: dict[str, Unit] | None = None) -> Facts:
    there = {f.path: FileState("file", 0o644, 0, 0, 1, sha256(f.content.encode())) for f in files}
    return Facts(files=there, units=RUNNING if units is None else units)


def planned(facts: Facts, steps: list[Step], *entries: Entry, profile: str = "sysbox") -> Plan:
    return make(facts, Settings(), steps, entries, profile)


def keys(plan: Plan) -> list[str]:
    return [item.change.key for item in plan.todo]


def test_what_holds_is_left_alone_and_says_why() -> None:
    plan = planned(holding(A), [step(A, B, Nothing("not here"))])
    assert keys(plan) == ["file:/etc/b"]
    assert [item.reason for item in plan.items] == ["/etc/a holds it already", ""]
    assert plan.remarks == (("step", "not here"),)


def test_what_is_unfinished_is_done_again_though_it_seems_to_hold() -> None:
    for state in ("begun", "undoing"):
        assert keys(planned(holding(A), [step(A)], entry(A, 1, 0, state))) == ["file:/etc/a"]
    assert keys(planned(holding(A), [step(A)], entry(A, 1, 2))) == []


def test_a_service_starts_again_when_a_file_that_it_reads_is_about_to_change() -> None:
    assert keys(planned(holding(A), [step(A, B, UNIT)])) == ["file:/etc/b", "unit:crio.service"]
    assert keys(planned(holding(A, B), [step(A, B, UNIT)])) == []


@pytest.mark.parametrize(("file", "unit", "again"), [(3, 5, False), (5, 3, True), (3, 0, True)])
def test_a_service_starts_again_when_a_file_that_it_reads_is_newer(file: int, unit: int, again: bool) -> None:
    entries = [entry(A, 1, file), *([entry(UNIT, 2, unit)] if unit else [])]
    assert keys(planned(holding(A, B), [step(A, B, UNIT)], *entries)) == (["unit:crio.service"] if again else [])


def test_a_service_starts_again_when_a_file_that_it_read_goes() -> None:
    plan = planned(holding(A, B), [step(A, UNIT)], entry(A, 1, 2), entry(B, 3, 4), entry(UNIT, 5, 6))
    assert [e.change.key for e in plan.obsolete] == ["file:/etc/b"]
    assert keys(plan) == ["unit:crio.service"]
    unaware = UnitState("crio.service", watches=("file:/etc/a",))
    plan = planned(holding(A, B), [step(A, unaware)], entry(A, 1, 2), entry(B, 3, 4), entry(UNIT, 5, 6))
    assert keys(plan) == ["unit:crio.service"]


def test_what_is_wanted_no_more_goes_newest_first_unless_another_profile_wants_it() -> None:
    entries = [entry(A, 1, 2), entry(B, 3, 4), entry(UNIT, 5, 6, "done", "sysbox", "crio")]
    plan = planned(holding(A, B), [], *entries)
    assert [e.change.key for e in plan.obsolete] == ["file:/etc/b", "file:/etc/a"]
    assert planned(holding(A, B), [], *entries, profile="crio").obsolete == ()


def test_cleanup_goes_backwards_and_lets_go_of_what_others_want() -> None:
    entries = [entry(A, 1, 2), entry(B, 3, 4, "done", "crio", "sysbox"), entry(UNIT, 5, 6)]
    mine, shared = make_cleanup(entries, "sysbox")
    assert [e.change.key for e in mine] == ["unit:crio.service", "file:/etc/a"]
    assert [e.change.key for e in shared] == ["file:/etc/b"]
    assert make_cleanup(entries, "crio") == ([], [entries[1]])


def test_the_plan_for_machines_is_what_the_journal_will_hold() -> None:
    with a_host() as host:
        facts = Facts(files=lazy.files(host))
        plan = planned(facts, [step(A, name="one"), step(B, name="two")])
        journal = Journal(host)
        for item in plan.todo:
            assert isinstance(item.change, InPlace)
            journal.begin(item.step, item.change, item.change.capture(host, journal), "sysbox")
        held = [{"step": e.step, "change": e.change.to_dict()} for e in Journal(host).entries]
        assert plan.to_dict()["changes"] == held


def test_the_plan_for_machines_says_the_rest_too() -> None:
    plan = planned(holding(A), [step(A, Nothing("why"))], entry(A, 1, 2), entry(B, 3, 4))
    assert plan.to_dict() == {
        "changes": [],
        "unchanged": [{"step": "step", "key": "file:/etc/a", "reason": "/etc/a holds it already"}],
        "undo": [{"step": "step", "change": B.to_dict()}],
        "remarks": [{"step": "step", "remark": "why"}],
    }


# One service that reads files of ours, on a host with crashes everywhere: as the engine does it, point by point.
NAMES = ("a", "b", "c")
CONF = "/etc/conf.d"


class Crash(Exception):
    """The process is killed."""


class Machine:
    """A host with one service that reads /etc/conf.d when it starts."""

    def __init__(self, host: TreeHost, *, active: bool) -> None:
        self.host = host
        self.active, self.enabled = active, active
        self.read: dict[str, bytes | None] = self.files() if active else {}
        self.starts = 0
        host.commands["systemctl"] = self.systemctl

    def files(self) -> dict[str, bytes | None]:
        return {name: self.host.read(f"{CONF}/{name}") for name in self.host.names(CONF)}

    def systemctl(self, verb: str, *rest: str) -> str:
        if verb == "show":
            state = {"LoadState": "loaded", "UnitFileState": "enabled" if self.enabled else "disabled"}
            state["ActiveState"] = "active" if self.active else "inactive"
            return "".join(f"{k}={v}\n" for k, v in state.items())
        if verb in ("enable", "disable"):
            self.enabled = verb == "enable"
        elif verb in ("start", "restart"):
            self.active, self.read, self.starts = True, self.files(), self.starts + 1
        elif verb == "stop":
            self.active, self.read = False, {}
        return ""

    def run(self, wanted: dict[str, str], point: Callable[[], None]) -> Plan:
        """An install; `point` may crash."""
        journal = Journal(self.host)
        plan = self.plan(wanted)
        for old in plan.obsolete:
            assert isinstance(old.change, InPlace)
            journal.undoing(old)
            point()
            kept = old.change.undo(self.host, journal, old.before, old.after)
            point()
            journal.undone(old, kept)
            point()
        for item in plan.todo:
            change = item.change
            assert isinstance(change, InPlace)
            known = journal.entry(change.key)
            resumed = known is not None and known.state != "done"
            found = known.before if known and resumed else change.capture(self.host, journal)
            new = journal.begin(item.step, change, found, "sysbox")
            point()
            after = change.apply(self.host, journal, found)
            change.verify(self.host)
            point()
            journal.done(new, after)
            point()
        return plan

    def plan(self, wanted: dict[str, str]) -> Plan:
        files = [WriteFile(f"{CONF}/{name}", text) for name, text in wanted.items()]
        unit = UnitState("reader.service", watches=tuple(f.key for f in files))
        facts = Facts(files=lazy.files(self.host), units=look_all(self.host, ("reader.service",)))
        return make(facts, Settings(), [step(*files, unit)], Journal(self.host).entries, "sysbox")


def killer(after: int) -> Callable[[], None]:
    """Kills at the point of that number."""
    count = itertools.count(1)

    def point() -> None:
        if next(count) == after:
            raise Crash

    return point


WANTED = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["x\n", "y\n"]))
RUNS = st.lists(st.tuples(WANTED, st.integers(1, 20)), max_size=4)


@FEW
@given(RUNS, WANTED, st.booleans(), st.booleans())
@example([({"a": "x\n"}, 99), ({}, 3)], {}, True, False)
@example([({"a": "x\n"}, 3)], {"a": "x\n"}, True, False)
def test_a_service_has_read_what_its_files_hold_whatever_was_cut_off(
    runs: list[tuple[dict[str, str], int]], last: dict[str, str], active: bool, theirs: bool
) -> None:
    with a_host() as host:
        host.make_directory(CONF)
        if theirs:
            host.put(f"{CONF}/a", b"theirs\n", 0o600)
        was = host.snapshot()
        machine = Machine(host, active=active)
        for wanted, kill in runs:
            with contextlib.suppress(Crash):
                machine.run(wanted, killer(kill))
        machine.run(last, lambda: None)
        assert machine.read == machine.files()
        assert {k: v for k, v in machine.files().items() if k != "a" or "a" in last} == {
            k: v.encode() for k, v in last.items()
        }
        starts = machine.starts
        plan = machine.run(last, lambda: None)
        assert (plan.todo, plan.obsolete) == ([], ())
        assert machine.starts == starts
        journal = Journal(host)
        for mine in make_cleanup(journal.entries, "sysbox")[0]:
            undo(host, journal, mine)
        assert host.snapshot() == was
        assert (machine.active, machine.enabled) == (active, active)


POINTS = range(1, 10)  # three for each of three changes


@pytest.mark.parametrize("kill", POINTS)
@pytest.mark.parametrize("again", [{"a": "x\n", "b": "y\n"}, {"a": "new\n"}, {}], ids=str)
def test_a_first_install_that_is_cut_off_at_any_point_ends_well(kill: int, again: dict[str, str]) -> None:
    with a_host() as host:
        host.make_directory(CONF)
        machine = Machine(host, active=True)
        with contextlib.suppress(Crash):
            machine.run({"a": "x\n", "b": "y\n"}, killer(kill))
        machine.run(again, lambda: None)
        assert machine.read == machine.files() == {k: v.encode() for k, v in again.items()}
