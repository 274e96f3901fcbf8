"""Long-running helpers: detached, logged, found again by their pid files."""

import contextlib
import shlex
import subprocess
from pathlib import Path

from tests.node import state
from tests.node.state import Process

# the child itself writes who it is before it becomes the program: no moment at which it runs unrecorded
_PREAMBLE = 'read -r stat </proc/$$/stat; echo "$stat" >"$0"; exec "$@"'


def start(name: str, argv: list[str], folder: Path) -> None:
    """Start argv in the background; its state is `folder/NAME.pid`, its output `folder/NAME.log`."""
    pidfile = folder / f"{name}.pid"
    pidfile.unlink(missing_ok=True)
    with (folder / f"{name}.log").open("ab") as log:
        child = subprocess.Popen(
            ["sh", "-c", _PREAMBLE, str(pidfile), *argv],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )
    state.adopt(child.pid)
    # nobody waits for it here; say so, or the destructor warns
    child.returncode = 0
    if not state.poll(lambda: pidfile.exists() and bool(pidfile.read_text()), 10, every=0.005):
        raise TimeoutError(f"{shlex.join(argv)} did not start; {tail(folder, name)}")


def find(name: str, folder: Path) -> Process | None:
    """The running helper, if it does run."""
    try:
        text = (folder / f"{name}.pid").read_text()
    except FileNotFoundError:
        return None
    if not text.strip():
        return None
    recorded = Process(int(text.split()[0]), int(text.rpartition(") ")[2].split()[19]))
    return recorded if recorded.alive else None


def stop(name: str, folder: Path, grace: float = 10.0) -> None:
    if running := find(name, folder):
        running.end(grace)
    (folder / f"{name}.pid").unlink(missing_ok=True)


def tail(folder: Path, name: str, lines: int = 15) -> str:
    """The end of the helper's log, for an error message."""
    log = folder / f"{name}.log"
    with contextlib.suppress(FileNotFoundError):
        text = log.read_text(errors="replace").splitlines()[-lines:]
        return f"the end of {log}:\n" + "\n".join(text)
    return f"{log} does not exist"
