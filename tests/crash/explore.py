"""Every state that kills can lead to: from each of them every operation must come to its end as if undisturbed.

What SIGKILL leaves is the host as it is at that moment. So one run shows every state that a kill of it leaves, and
states that mean the same to the program are one: what follows from the one follows from the other. Each new state
is run from in its turn, and killed at every point of that, until no run shows a state that is not known. That is
every kill of every recovery of every recovery, however often.
"""

import copy
import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping

from installer.errors import DeployError, TemporaryError
from tests.crash import kernel
from tests.crash.machine import Machine
from tests.crash.records import Meaning
from tests.crash.run import Operation
from tests.crash.world import LOCKS, Snapshot, World

Key = tuple[int, int, str]
IGNORED = (*LOCKS, "/var/lib/apt/lists/")
_PRIVATE = "/var/lib/sysbox-deploy/"


@dataclasses.dataclass(frozen=True)
class Goal:
    """Where an operation leads: the host, and what the journal means then."""

    moment: Snapshot
    meaning: Meaning


@dataclasses.dataclass(frozen=True)
class Way:
    """How a state was come to: from which, by what, killed before what."""

    before: "Way | None"
    operation: str
    how: str

    def __str__(self) -> str:
        return (f"{self.before}\n  then " if self.before else "") + f"{self.operation}, killed before: {self.how}"


@dataclasses.dataclass
class Count:
    """What was looked at. `points` are moments at which a kill was tried, `states` different ones among them;
    `restarts` are runs that ended in a passing error and were started once more."""

    points: int = 0
    states: int = 0
    runs: int = 0
    restarts: int = 0
    seconds: float = 0.0
    problems: list[str] = dataclasses.field(default_factory=list)

    def add(self, other: "Count") -> None:
        """Adds another's."""
        self.points += other.points
        self.states += other.states
        self.runs += other.runs
        self.restarts += other.restarts
        self.seconds += other.seconds
        self.problems += other.problems


class Explorer:
    """Explores from one state. `operations` are tried in every state; `goals` say where each must lead."""

    def __init__(
        self,
        world: World,
        operations: Mapping[str, Operation],
        goals: Mapping[str, Goal],
        again: Operation | None = None,
        *,
        cuts: bool = False,
    ) -> None:
        self._world = world
        self._operations = operations
        self._goals = goals
        self._again = again
        self._cuts = cuts
        self._seen: set[Key] = set()
        self._dark: set[Key] = set()
        self._version = -1
        self._todo: deque[tuple[Snapshot, Way | None]] = deque()
        self.count = Count()
        self.progress: Callable[[int, int], None] = lambda done, left: None

    def explore(self, start: Snapshot, *, only: Callable[[int], bool] = lambda number: True, most: int = 0) -> Count:
        """Looks at every state that can be come to from `start`; at `most` that many. `only` picks among them."""
        begun = time.perf_counter()
        self._world.restore(start)
        self._seen.add(self._world.key())
        self._todo.append((start, None))
        number = 0
        while self._todo and (not most or number < most):
            moment, way = self._todo.popleft()
            number += 1
            self.progress(number, len(self._todo))
            if way is None or only(number):
                self._visit(moment, way)
        self.count.states = len(self._seen)
        self.count.seconds += time.perf_counter() - begun
        return self.count

    def _booted(self, moment: Snapshot) -> Snapshot | None:
        """What a boot makes of it; None where that is known."""
        self._world.restore(moment)
        kernel.boot(self._world)
        if (key := self._world.key()) in self._seen:
            return None
        self._seen.add(key)
        return self._world.take(moment.how)

    def _visit(self, moment: Snapshot, way: Way | None) -> None:
        if self._cuts and way is not None:
            booted = self._booted(moment)
            if booted is None:
                return
            moment = booted
        for later, how in self._later(moment):
            self._note(later, Way(way, "nobody", how))
        for name, operation in self._operations.items():
            self._world.restore(moment)
            with self._watching(name, way):
                error = operation(self._world)
                if isinstance(error, TemporaryError):
                    self.count.restarts += 1
                    error = operation(self._world)
                self._world.finish()
            self.count.runs += 1
            if problem := self._judged(name, error):
                self.count.problems.append(f"{name}: {problem}\n  after {way}")

    def _later(self, moment: Snapshot) -> Iterator[tuple[Snapshot, str]]:
        """The same host a while later, we being dead: its own jobs have ended; the dead man has woken up."""
        machine = moment.machine
        if machine.jobs:
            self._world.restore(moment)
            self._world.finish()
            yield self._world.take(), "its own jobs ended"
        if machine.timers:
            self._world.restore(moment)
            self._world.finish()
            self._world.sleep(max(machine.timers.values()) + 1)
            yield self._world.take(), "the dead man woke up"

    def _watching(self, name: str, way: Way | None) -> "_Watching":
        return _Watching(self._world, lambda how: self._point(name, way, how))

    def _point(self, name: str, way: Way | None, how: str) -> None:
        if self._cuts:
            self._cut(name, way, how)
            return
        self.count.points += 1
        key = self._world.key()
        if key not in self._seen:
            self._seen.add(key)
            self._todo.append((self._world.take(how), Way(way, name, how)))

    def _cut(self, name: str, way: Way | None, how: str) -> None:
        """The power is cut here: of what was not synced, none or only some is on the disk when it comes back."""
        version = self._world.disk.version
        if version == self._version:
            self.count.points += 1
            return
        self._version = version
        for number, remains in enumerate(self._world.disk.after_power_cuts()):
            self.count.points += 1
            key = self._world.dark_key(remains)
            if key not in self._dark:
                self._dark.add(key)
                machine = Machine(node=copy.deepcopy(self._world.machine.node))
                moment = Snapshot(remains.image(self._world.disk), machine, how)
                self._todo.append((moment, Way(way, name, f"{how} (power cut, {number} unsynced names kept)")))

    def _note(self, moment: Snapshot, way: Way) -> None:
        self._world.restore(moment)
        key = self._world.key()
        if key not in self._seen:
            self._seen.add(key)
            self._todo.append((moment, way))

    def _judged(self, name: str, error: DeployError | None) -> str:
        """What is wrong with the end of an operation; empty if nothing is."""
        if error is not None and is_rolled_back(error) and self._again:
            # The move was taken back while we were dead: the next install says so, and goes on once it is told to.
            for _ in range(2):
                error = self._again(self._world)
        if error is not None:
            return f"it failed: {error}"
        return "; ".join(differences(self._world, self._goals[name])[:6])


class _Watching:
    def __init__(self, world: World, watch: Callable[[str], None]) -> None:
        self._world, self._watch = world, watch

    def __enter__(self) -> None:
        self._world.watch = self._watch

    def __exit__(self, *_: object) -> None:
        self._watch("the end")
        self._world.watch = lambda how: None


def is_rolled_back(error: DeployError) -> bool:
    """Whether it says that the kubelet moved back."""
    return "moved back" in error.what or "failed before" in error.what


def reached(world: World) -> Goal:
    """The host as it is, as a goal."""
    return Goal(world.take(), world.meaning())


def differences(world: World, goal: Goal) -> list[str]:
    """What on the host is not as the goal has it."""
    found = []
    one, other = goal.moment.image, world.disk.image
    for path in sorted(one.keys() | other.keys()):
        if path.startswith(IGNORED) or path == f"{_PRIVATE}journal":
            continue
        if one.get(path) != other.get(path):
            found.append(f"{path} is {_short(other.get(path))}, not {_short(one.get(path))}")
    found += _unlike("the machine", world.machine.facts(), goal.moment.machine.facts())
    found += _unlike("the journal", world.meaning().without_order(), goal.meaning.without_order())
    return found


def _short(entry: object) -> str:
    return "absent" if entry is None else str(entry)[:160]


def _unlike(what: str, one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    keys = sorted(k for k in one.keys() | other.keys() if one.get(k) != other.get(k))
    return [f"{what}: {key} is {str(one.get(key))[:300]}, not {str(other.get(key))[:300]}" for key in keys]
