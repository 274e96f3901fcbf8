"""Takes down what has lost its owners: at every start, and by a small process while anything runs."""

import fcntl
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.node import network, state

if TYPE_CHECKING:
    from tests.node.node import Node

_REPOSITORY = Path(__file__).parents[2]
_EVERY_S = 1.0


def nodes() -> list[Path]:
    """The folders of all nodes there are."""
    return sorted(f.parent for f in state.run_dir().glob("nodes/*/node.json"))


def node(folder: Path) -> "Node":
    """The node of that folder, of whichever kind it is."""
    from tests.node.node import Node
    from tests.node.vm import Vm

    return (Vm if json.loads((folder / "node.json").read_text()).get("vm") else Node)(folder)


def reap(everything: bool = False) -> list[str]:
    """Destroy what only the dead own, or everything; the names of what went."""
    from tests.node.control_plane import ControlPlane

    gone = []
    with state.lock():
        for folder in nodes():
            if everything or not state.owned(folder):
                node(folder).dismantle()
                gone.append(folder.name)
        cluster = ControlPlane()
        if cluster.folder.exists() and (everything or not state.owned(cluster.folder)):
            cluster.dismantle()
            gone.append("cluster")
        if network.folder().exists() and not nodes() and not cluster.folder.exists():
            network.down()
            shutil.rmtree(network.folder())
            gone.append("network")
    return gone


def watch() -> None:
    """See to it that somebody reaps for as long as anything runs."""
    lock = state.run_dir() / "warden.lock"
    if _taken(lock):
        return
    with (state.run_dir() / "warden.log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.node.warden"],
            cwd=_REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    state.adopt(child.pid)
    child.returncode = 0


def _taken(lock: Path) -> bool:
    with lock.open("a") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def main() -> None:
    """The watching process. It ends some seconds after the last thing did: a test may be between two."""
    with (state.run_dir() / "warden.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        idle_since = time.monotonic()
        while time.monotonic() - idle_since < 10:
            time.sleep(_EVERY_S)
            for name in reap():
                print(f"reaped {name}", flush=True)
            if network.folder().exists():
                idle_since = time.monotonic()


if __name__ == "__main__":
    main()
