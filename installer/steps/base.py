"""What a step is: facts and settings in, changes or a reason out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from installer.changes import Change
from installer.facts.model import Facts
from installer.settings import Settings


@dataclass(frozen=True)
class Nothing:
    """Why a step, or a part of it, needs no change."""

    reason: str


Wanted = Iterator[Change | Nothing]


@dataclass(frozen=True)
class Step:
    """A step by name. `wanted` yields every change that the node should have had made to it, done or not."""

    name: str
    wanted: Callable[[Facts, Settings], Wanted]
