"""What every kind of change can do: describe itself, see whether it holds, do, prove and undo itself."""

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol, Self

from installer.facts.model import Facts
from installer.host import Host

Record = dict[str, Any]
"""What a change remembers of the host: values that JSON can hold; bytes go to the vault by digest."""


class Vault(Protocol):
    """Where originals are kept, named by their content's SHA-256."""

    def put(self, content: bytes) -> str:
        """Keeps the content, durably; returns its digest."""

    def get(self, digest: str) -> bytes:
        """The content. Raises DeployError where it is missing or damaged."""


@dataclasses.dataclass(frozen=True)
class Change(ABC):
    """One change of the host. Subclasses are frozen data; everything they need stands in their fields."""

    kind: ClassVar[str]

    @property
    @abstractmethod
    def key(self) -> str:
        """What of the host it is about, as `file:/etc/x`; one live journal entry a key."""

    @abstractmethod
    def describe(self) -> str:
        """One line for a person."""

    @abstractmethod
    def satisfied(self, facts: Facts) -> str:
        """Why nothing is to be done, in a few words; empty where something is."""

    @abstractmethod
    def capture(self, host: Host, vault: Vault) -> Record:
        """What stands there now; it only reads the host. The journal keeps it before `apply`."""

    @abstractmethod
    def verify(self, host: Host) -> None:
        """Proves on the host that it is done. Raises DeployError with what was found instead."""

    def diff(self, facts: Facts) -> str:
        """The change as a unified diff, where it has text."""
        return ""

    def to_dict(self) -> Record:
        """The change as the plan prints it and the journal holds it."""
        return {
            "kind": self.kind,
            **{f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)},
        }

    @classmethod
    def from_dict(cls, data: Record) -> Self:
        """The way back of `to_dict`."""
        names = {f.name for f in dataclasses.fields(cls)}
        return cls(**{k: _frozen(v) for k, v in data.items() if k in names})


@dataclasses.dataclass(frozen=True)
class InPlace(Change):
    """A change that is done, and undone, where it stands. (The runtime switch is not: it outlives our process.)"""

    @abstractmethod
    def apply(self, host: Host, vault: Vault, before: Record) -> Record:
        """Does it; doing it twice is harmless. `before` is what `capture` saw; returns what only the doing tells."""

    @abstractmethod
    def undo(self, host: Host, vault: Vault, before: Record, after: Record) -> list[str]:
        """Puts back what `capture` saw, whether `apply` ran wholly, in part or not.

        Returns what it kept, and why.
        """


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value
