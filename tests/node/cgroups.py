"""A node's control groups on the machine: a group of its own in every hierarchy, removed afterwards."""

import contextlib
import os
import signal
from pathlib import Path

from tests.node import state


def _mounts() -> list[tuple[set[str], Path]]:
    """Every mounted hierarchy: its controllers (none for v2) and where it is."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            controllers = set(options.split(",")) if kind == "cgroup" else {""}
            found.append((controllers, Path(before.split()[4])))
    return found


def paths(name: str) -> list[Path]:
    """Where the group of that name belongs: below this process's own: limits on us hold for nodes too."""
    mounts = _mounts()
    groups = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        wanted = set(controllers.split(","))
        mounted = [where for has, where in mounts if wanted <= has]
        if mounted:
            groups.append(mounted[0] / own.strip("/") / name)
    return groups


def make(groups: list[Path]) -> None:
    for group in groups:
        group.mkdir(exist_ok=True)
        if (group / "cpuset.cpus").exists() and not (group / "cpuset.cpus").read_text().strip():
            # v1's cpuset starts empty, and an empty one takes no process
            for file in ("cpuset.cpus", "cpuset.mems"):
                (group / file).write_text((group.parent / file).read_text())
            (group / "cgroup.clone_children").write_text("1")


def remove(groups: list[Path]) -> None:
    """End what may still be in the groups, then remove them, deepest first."""

    def gone() -> bool:
        for group in groups:
            for folder, _, _ in os.walk(group, topdown=False):
                _kill_members(Path(folder))
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
        return not any(group.exists() for group in groups)

    if not state.poll(gone, 15, every=0.05):
        left = ", ".join(str(group) for group in groups if group.exists())
        raise TimeoutError(f"control groups still busy: {left}")


def _kill_members(group: Path) -> None:
    with contextlib.suppress(OSError, ProcessLookupError):
        for pid in (group / "cgroup.procs").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
