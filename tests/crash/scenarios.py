"""What is explored: profiles, layouts of the kubelet's files, install, upgrade and cleanup, kills and power cuts."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.crash import explore, run, scene
from tests.crash.explore import Count, Explorer
from tests.crash.scene import Scene
from tests.crash.world import Snapshot, World

MEMORY = Path("/dev/shm")


@dataclasses.dataclass(frozen=True)
class Scenario:
    """From which node, with what, is cut off by what."""

    profile: str
    layout: str
    upgrade: bool
    cuts: bool

    def __str__(self) -> str:
        what = "upgrade and cleanup" if self.upgrade else "install and cleanup"
        return f"{self.profile} ({self.layout}): {what}, {'power cut' if self.cuts else 'killed'}"


ALL = tuple(
    Scenario(profile, layout, upgrade, cuts)
    for profile, layout in (("crio", "seed"), ("sysbox", "kubeadm"))
    for upgrade in (False, True)
    for cuts in (False, True)
)


def explored(
    scenario: Scenario,
    *,
    only: Callable[[int], bool] = lambda number: True,
    most: int = 0,
    progress: Callable[[int, int], None] = lambda done, left: None,
) -> Count:
    """Explores it: all of it, or what `only` picks among the first `most` states."""
    with _world() as (world, folder):
        node = scene.build(world, folder, scenario.profile, scenario.layout)
        start, explorer = _explorer(scenario, world, node)
        explorer.progress = progress
        return explorer.explore(start, only=only, most=most)


@contextlib.contextmanager
def _world() -> Iterator[tuple[World, Path]]:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        folder = Path(name)
        (folder / "root").mkdir()
        with run.prepared(folder):
            yield World(folder / "root"), folder


def _explorer(scenario: Scenario, world: World, node: Scene) -> tuple[Snapshot, Explorer]:
    """Where to start, and the explorer; the goals are where undisturbed runs lead."""
    pristine = explore.reached(world)
    start = pristine.moment
    settings = node.settings
    if scenario.upgrade:
        _undisturbed(run.installing(settings, node.profile), world)
        start, settings = world.take("installed"), node.upgrade
    install, cleanup = run.installing(settings, node.profile), run.cleaning(settings, node.profile)
    again = run.installing(dataclasses.replace(settings, retry="after the roll-back"), node.profile)
    _undisturbed(install, world)
    goals = {"install": explore.reached(world), "cleanup": pristine}
    operations = {"install": install, "cleanup": cleanup}
    return start, Explorer(world, operations, goals, again, cuts=scenario.cuts)


def _undisturbed(operation: run.Operation, world: World) -> None:
    if error := operation(world):
        raise error
    world.finish()
