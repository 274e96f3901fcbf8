"""What goes on on the host whatever becomes of us: the switch's program, as commit.sh has it, and package runs.

Each job is a list of acts; between any two the power may be cut, or another of our pods may look.
"""

from collections.abc import Callable

from installer.host import Result
from tests.crash import packages, runtimes, systemd
from tests.crash.machine import Job
from tests.crash.world import World

HOME = "/var/lib/sysbox-deploy/switch"
_SWITCH = "sysbox-deploy-switch@"


def begin(world: World, unit: str) -> bool:
    """Starts the switch's program, if that is the unit; what it has to do depends on the state."""
    if not unit.startswith(_SWITCH):
        return False
    if not systemd.fragment(world, unit):
        return False
    world.act(f"start {unit}")
    world.machine.jobs[unit] = [["decide", unit.removeprefix(_SWITCH).removesuffix(".service")]]
    return True


def fire(world: World, timer: str) -> None:
    """A timer elapses."""
    world.machine.timers.pop(timer)
    begin(world, f"{_SWITCH}deadman.service")


def step(world: World, unit: str) -> None:
    """Does the next act of a job; the last one done, there is no job any more."""
    job = world.machine.jobs[unit]
    if not job:
        del world.machine.jobs[unit]
        return
    # It stays in the list until it is done: cut off in its middle, it is done again.
    word, *rest = job[0]
    if word.startswith("dpkg"):
        packages.act(world, word, rest)
        del job[0]
    else:
        job[0:1] = _ACTS[word](world, *rest)


def _decide(world: World, what: str) -> Job:
    """By the state, once nobody else has the lock."""
    for unit in [u for u in world.machine.jobs if u.startswith(_SWITCH)]:
        if world.machine.jobs[unit][:1] != [["decide", what]]:
            world.finish(unit)
    state = _read(world, "state")
    match what, state:
        case "commit", "armed":
            return _commit(world)
        case "resume", "committing":
            return _finish() if _placed(world, _param(world, "staged")) else _again(world)
        case (("resume" | "deadman"), "rolling-back"):
            return _back("the way back was cut off")
        case "deadman", ("committing" | "committed"):
            return _back("nobody confirmed the move in time")
        case "deadman", "armed":
            return [["write", "cause", "nobody began the move in time"], ["write", "state", "rolled-back"]]
    return []


def _commit(world: World) -> Job:
    return [
        ["write", "state", "committing"],
        ["stop", _param(world, "unit")],
        ["end", _param(world, "old_endpoint")],
        ["place", "staged"],
        *_finish(),
    ]


def _finish() -> Job:
    return [["reload"], ["serve"]]


def _again(world: World) -> Job:
    """The power was cut before the commit point."""
    old, unit = _param(world, "old_unit"), _param(world, "unit")
    return [["start", old], ["start", unit], ["write", "state", "armed"]]


def _back(why: str) -> Job:
    return [["blame", why], ["write", "state", "rolling-back"], ["return"]]


def _return(world: World) -> Job:
    return [
        ["stop", _param(world, "unit")],
        ["start", _param(world, "new_unit")],
        ["end", _param(world, "new_endpoint")],
        ["place", "saved"],
        ["reload"],
        ["start", _param(world, "old_unit")],
        ["start", _param(world, "unit")],
        ["write", "state", "rolled-back"],
    ]


def _serve(world: World) -> Job:
    started = systemd.start(world, _param(world, "new_unit")) and systemd.start(world, _param(world, "unit"))
    if started and runtimes.healthy(world, _param(world, "want")):
        return [["write", "state", "committed"]]
    return _back("the kubelet did not get healthy")


def _write(world: World, name: str, text: str) -> Job:
    world.put(f"{HOME}/{name}", f"{text}\n", synced=True)
    return []


def _blame(world: World, why: str) -> Job:
    return [] if _read(world, "cause") else [["write", "cause", why]]


def _stop(world: World, unit: str) -> Job:
    systemd.stop(world, unit)
    return []


def _start(world: World, unit: str) -> Job:
    systemd.start(world, unit)
    return []


def _end(world: World, endpoint: str) -> Job:
    world.act(f"end the pods of {endpoint}")
    world.machine.containers[runtimes.unit_of(endpoint)] = []
    return []


def _place(world: World, name: str) -> Job:
    staged, target = _param(world, name), _param(world, "target")
    if not staged:
        world.remove(target)
    elif staged in world.disk.image:
        world.rename(staged, target)
    return [["sync", target.rpartition("/")[0]]]


def _sync(world: World, folder: str) -> Job:
    world.act(f"sync {folder}")
    world.disk.synced(folder)
    return []


def _reload(world: World) -> Job:
    systemd.reload(world)
    return []


def _placed(world: World, staged: str) -> bool:
    return (staged or _param(world, "target")) not in world.disk.image


def _read(world: World, name: str) -> str:
    return world.text(f"{HOME}/{name}").strip()


def _param(world: World, name: str) -> str:
    lines = world.text(f"{HOME}/params").splitlines()
    return next((line.partition("=")[2] for line in lines if line.startswith(f"{name}=")), "")


_ACTS: dict[str, Callable[..., Job]] = {
    "decide": _decide,
    "write": _write,
    "blame": _blame,
    "stop": _stop,
    "start": _start,
    "end": _end,
    "place": _place,
    "sync": _sync,
    "reload": _reload,
    "serve": _serve,
    "return": _return,
}


def run_in_unit(world: World, argv: tuple[str, ...]) -> Result:
    """systemd-run: the command goes on in a unit if its caller dies."""
    words = list(argv[1:])
    unit = next(w.partition("=")[2] for w in words if w.startswith("--unit="))
    command = tuple(words[words.index("--") + 1 :])
    if unit in world.machine.jobs:
        return Result(1, "", f"Failed to start transient service unit: Unit {unit} was already loaded.\n")
    result, job = packages.planned(world, command)
    if job:
        world.machine.jobs[unit] = job
        world.finish()
    return result
