"""systemd, as far as the program asks it: what units are, enabled and running, and what starting one does."""

import fnmatch
import os

from installer.host import Result
from tests.crash import runtimes
from tests.crash.machine import Job
from tests.crash.world import World

_FOLDERS = ("/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system")
_DONE = Result(0, "", "")
_PID = 700


def run(world: World, argv: tuple[str, ...]) -> Result:
    """systemctl."""
    words = [w for w in argv[1:] if not w.startswith("-")]
    verb, units = words[0], [w if "." in w or "*" in w else f"{w}.service" for w in words[1:]]
    match verb:
        case "show":
            return Result(0, _show(world, argv, units), "")
        case "is-active":
            states = [_active(world, unit) for unit in units]
            said = "" if "-q" in argv or "--quiet" in argv else "\n".join(states) + "\n"
            return Result(0 if "active" in states else 3, said, "")
        case "is-enabled":
            state = _enabled(world, units[0])
            return Result(0 if state == "enabled" else 1, f"{state}\n", "")
        case "daemon-reload":
            reload(world)
        case "reset-failed":
            world.machine.failed = [f for f in world.machine.failed if not any(fnmatch.fnmatch(f, u) for u in units)]
        case "kill" | "preset" | "mask" | "unmask":
            world.act(" ".join(argv))
        case _:
            return _change(world, verb, units, now="--now" in argv)
    return _DONE


def _change(world: World, verb: str, units: list[str], *, now: bool) -> Result:
    from tests.crash import program

    for unit in units:
        if verb == "enable" and not fragment(world, unit):
            return Result(1, "", f"Failed to {verb} unit: Unit file {unit} does not exist.\n")
        if verb in ("enable", "disable"):
            enable(world, unit) if verb == "enable" else disable(world, unit)
            verb = {"enable": "start", "disable": "stop"}[verb] if now else verb
        if verb == "start" and (unit in world.machine.jobs or program.begin(world, unit)):
            world.finish(unit)
        elif job := _job(world, verb, unit):
            # systemd's own: it goes on if we do not
            world.machine.jobs[f"job of {unit}"] = job
            world.finish(f"job of {unit}")
            if verb != "stop" and unit in world.machine.failed:
                return Result(1, "", f"Job for {unit} failed because the control process exited with error code.\n")
    return _DONE


def _job(world: World, verb: str, unit: str) -> Job:
    match verb:
        case "start":
            return [["start", unit]]
        case "stop":
            return [["stop", unit]]
        case "restart":
            return [["stop", unit], ["start", unit]]
        case "try-restart":
            return [["stop", unit], ["start", unit]] if _on(world, unit) else []
    return []


def _on(world: World, unit: str) -> bool:
    return unit in world.machine.active


def _active(world: World, unit: str) -> str:
    if unit in world.machine.jobs:
        return "activating"
    if job := world.machine.jobs.get(f"job of {unit}"):
        return "deactivating" if job[0][0] == "stop" else "activating"
    if unit in world.machine.failed:
        return "failed"
    return "active" if _on(world, unit) or unit in world.machine.timers else "inactive"


def fragment(world: World, unit: str) -> str:
    """Where the unit's file is; empty where it has none."""
    names = [unit, *([f"{unit.partition('@')[0]}@.service"] if "@" in unit else [])]
    paths = [f"{folder}/{name}" for name in names for folder in _FOLDERS]
    return next((path for path in paths if path in world.disk.image), "")


def files(world: World, unit: str) -> list[list[str]]:
    """The unit's files and their texts, as they are on the disk."""
    at = fragment(world, unit)
    if not at:
        return []
    found: dict[str, str] = {}
    for folder in _FOLDERS:
        for name in world.names(f"{folder}/{unit}.d"):
            if name.endswith(".conf"):
                found.setdefault(name, f"{folder}/{unit}.d/{name}")
    return [[path, world.text(path)] for path in (at, *(found[name] for name in sorted(found)))]


def reload(world: World) -> None:
    """systemd reads its files again."""
    world.act("systemctl daemon-reload")
    world.machine.loaded = {unit: files(world, unit) for unit in sorted(world.machine.active) if fragment(world, unit)}


def loaded(world: World, unit: str) -> list[list[str]]:
    """The unit's files as systemd has read them; those of a unit that nobody needs are forgotten at once."""
    return world.machine.loaded.get(unit) or files(world, unit)


def _settings(texts: list[list[str]], key: str) -> list[str]:
    lines = [line for _, text in texts for line in text.splitlines()]
    return [word for line in lines if line.startswith(f"{key}=") for word in line.partition("=")[2].split()]


def _links(world: World, unit: str) -> list[str]:
    """The links that make it start at boot, and its other names."""
    texts = files(world, unit)
    wants = [f"/etc/systemd/system/{target}.wants/{unit}" for target in _settings(texts, "WantedBy")]
    return wants + [f"/etc/systemd/system/{name}" for name in _settings(texts, "Alias")]


def _enabled(world: World, unit: str) -> str:
    entry = world.disk.image.get(fragment(world, unit))
    if entry is None:
        return ""
    if entry.kind == "link" and entry.data == b"/dev/null":
        return "masked"
    links = _links(world, unit)
    if not links:
        return "static"
    return "enabled" if any(link in world.disk.image for link in links) else "disabled"


def enable(world: World, unit: str) -> None:
    """Links it, then reloads, as systemctl does. Nothing of it is synced."""
    with world.whole(f"enable {unit}"):
        for link in _links(world, unit):
            if link not in world.disk.image:
                world.link(link, fragment(world, unit))
    reload(world)


def disable(world: World, unit: str) -> None:
    """Takes every link to it away, and the folders that are empty then."""
    with world.whole(f"disable {unit}"):
        for path, entry in list(world.disk.image.items()):
            named = os.path.basename(path) == unit or os.path.basename(entry.data.decode(errors="replace")) == unit
            if entry.kind == "link" and path.startswith("/etc/systemd/system/") and named:
                world.remove(path)
                folder = os.path.dirname(path)
                if folder.endswith(".wants") and not world.names(folder):
                    world.remove(folder)
    reload(world)


def start(world: World, unit: str) -> bool:
    """Starts it with what it needs; says whether it runs."""
    from tests.crash import program

    if unit in world.machine.jobs or program.begin(world, unit):
        world.finish(unit)
        return True
    if _on(world, unit):
        return True
    texts = loaded(world, unit)
    if not texts:
        return _failed(world, unit)
    needs = [*_settings(texts, "BindsTo"), *_settings(texts, "Requires")]
    if not all(start(world, need) for need in needs):
        return _failed(world, unit)
    with world.whole(f"start {unit}"):
        if not runtimes.start(world, unit, texts):
            return _failed(world, unit)
        world.machine.failed = [f for f in world.machine.failed if f != unit]
        world.machine.active = [*world.machine.active, unit]
        world.machine.loaded[unit] = texts
    return True


def _failed(world: World, unit: str) -> bool:
    world.machine.failed = sorted({*world.machine.failed, unit})
    return False


def stop(world: World, unit: str) -> None:
    """Stops it, and those that are a part of it or bound to it."""
    if unit in world.machine.timers:
        world.act(f"stop {unit}")
        world.machine.timers.pop(unit)
        world.machine.active = [u for u in world.machine.active if u != unit]
        world.machine.loaded.pop(unit, None)
    if not _on(world, unit):
        return
    with world.whole(f"stop {unit}"):
        world.machine.active = [u for u in world.machine.active if u != unit]
        world.machine.loaded.pop(unit, None)
        runtimes.stopped(world, unit)
    for other in list(world.machine.active):
        texts = loaded(world, other)
        if unit in _settings(texts, "PartOf") + _settings(texts, "BindsTo"):
            stop(world, other)


def _show(world: World, argv: tuple[str, ...], units: list[str]) -> str:
    option = next(w for w in argv if w.startswith(("--property=", "-p")))
    wanted = option.partition("=")[2].split(",")
    blocks = ["".join(f"{k}={v}\n" for k, v in _facts(world, unit).items() if k in wanted) for unit in units]
    if "--value" in argv:
        blocks = [line.partition("=")[2] + "\n" for block in blocks for line in block.splitlines()]
    return "\n".join(blocks)


def _facts(world: World, unit: str) -> dict[str, str]:
    texts = loaded(world, unit)
    enabled = _enabled(world, unit)
    paths = [path for path, _ in texts]
    load = "masked" if enabled == "masked" else "loaded" if texts else "not-found"
    return {
        "Id": unit,
        "Names": unit,
        "LoadState": load,
        "UnitFileState": enabled,
        "ActiveState": _active(world, unit),
        "MainPID": str(_PID if unit == "kubelet.service" else _PID + 1) if _on(world, unit) else "0",
        "FragmentPath": paths[0] if paths else "",
        "DropInPaths": " ".join(paths[1:]),
        "RequiredBy": "",
        "NeedDaemonReload": "yes" if texts != files(world, unit) else "no",
    }


def boot(world: World) -> None:
    """What systemd starts by itself."""
    world.machine.loaded = {}
    folders = ("multi-user.target.wants", "timers.target.wants")
    wanted = [name for folder in folders for name in world.names(f"/etc/systemd/system/{folder}")]
    first = {"containerd.service": 0, "crio.service": 0}
    for unit in sorted(wanted, key=lambda u: first.get(u, 1)):
        if fragment(world, unit):
            start(world, unit)
