"""What is to be done: facts, settings, steps and the journal's entries in; the plan out. No I/O."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from installer.changes import Change, Record, UnitState
from installer.facts.model import Facts
from installer.journal import Entry
from installer.settings import Settings
from installer.steps import Nothing, Step


@dataclass(frozen=True)
class Item:
    """One wanted change. `reason` says why it needs no doing; empty where it is to be done."""

    step: str
    change: Change
    reason: str = ""


@dataclass(frozen=True)
class Plan:
    """What an install would do: `items` in order, `obsolete` what was ours and is wanted no more, `remarks` by step."""

    items: tuple[Item, ...] = ()
    obsolete: tuple[Entry, ...] = ()
    remarks: tuple[tuple[str, str], ...] = field(default=())

    @property
    def todo(self) -> list[Item]:
        """The changes to be made."""
        return [item for item in self.items if not item.reason]

    def to_dict(self) -> Record:
        """The plan for machines: every change as the journal will hold it."""
        return {
            "changes": [{"step": item.step, "change": item.change.to_dict()} for item in self.todo],
            "unchanged": [
                {"step": item.step, "key": item.change.key, "reason": item.reason} for item in self.items if item.reason
            ],
            "undo": [{"step": entry.step, "change": entry.change.to_dict()} for entry in self.obsolete],
            "remarks": [{"step": step, "remark": remark} for step, remark in self.remarks],
        }


def make(facts: Facts, settings: Settings, steps: Sequence[Step], entries: Sequence[Entry], profile: str) -> Plan:
    """The plan of an install. Raises what a step raises (RefusedError)."""
    live = {entry.change.key: entry for entry in entries}
    wanted: list[tuple[str, Change]] = []
    remarks: list[tuple[str, str]] = []
    for step in steps:
        for change in step.wanted(facts, settings):
            if isinstance(change, Nothing):
                remarks.append((step.name, change.reason))
            else:
                wanted.append((step.name, change))
    keys = {change.key for _, change in wanted}
    obsolete = [e for e in reversed(entries) if e.claims == [profile] and e.change.key not in keys]
    moving = {e.change.key for e in obsolete}
    items: list[Item] = []
    for step_name, change in wanted:
        reason = _reason(change, facts, live, moving)
        if not reason:
            moving.add(change.key)
        items.append(Item(step_name, change, reason))
    return Plan(tuple(items), tuple(obsolete), tuple(remarks))


def make_cleanup(entries: Sequence[Entry], profile: str) -> tuple[list[Entry], list[Entry]]:
    """What a cleanup undoes, in its order, and what it only lets go because another profile wants it."""
    claimed = [entry for entry in reversed(entries) if profile in entry.claims]
    return [e for e in claimed if e.claims == [profile]], [e for e in claimed if e.claims != [profile]]


def _reason(change: Change, facts: Facts, live: dict[str, Entry], moving: set[str]) -> str:
    """Why the change needs no doing: it holds, nothing of it is unfinished, and what it reads is not newer."""
    known = live.get(change.key)
    if known and known.state != "done":
        return ""
    reason = change.satisfied(facts)
    if reason and isinstance(change, UnitState) and _is_stale(change, known, live, moving):
        return ""
    return reason


def _is_stale(change: UnitState, known: Entry | None, live: dict[str, Entry], moving: set[str]) -> bool:
    """Whether a unit started before something it reads took its present form."""
    watched = {
        *change.watches,
        *(known.change.watches if known and isinstance(known.change, UnitState) else ()),
    }
    if watched & moving or (known and known.stale):
        return True
    since = known.finished if known else 0
    return any(live[key].finished > since for key in watched if key in live)
