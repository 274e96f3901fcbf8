"""The switch, commit-confirmed: arm the dead man, commit on the host, confirm or learn that it was rolled back."""

import dataclasses
import time
from importlib import resources

from installer import log
from installer.changes import Record, SwitchRuntime
from installer.errors import PermanentError
from installer.host import FileState, Host, decode, encode
from installer.journal import STATE
from installer.settings import Settings
from installer.switch import cri

HOME = f"{STATE}/switch"
UNIT = "sysbox-deploy-switch.service"
DEADMAN = "sysbox-deploy-deadman"
_UNITS = "/etc/systemd/system"
_PRIVATE = FileState("file", 0o600, 0, 0)
_SETTLE_SECONDS = 5
_PROGRAM = f"/bin/sh {HOME}/commit.sh"


@dataclasses.dataclass(frozen=True)
class Move:
    """One move of the kubelet. `content` is None where the file goes; `want` is the endpoint that the flag then
    names, empty where no flag does (the configuration file does, or the default)."""

    unit: str
    path: str
    content: bytes | None
    like: FileState
    original: bytes | None
    original_like: FileState
    old_endpoint: str
    new_endpoint: str
    old_unit: str
    new_unit: str
    want: str
    healthz: str


def there(change: SwitchRuntime, before: Record, original: bytes | None) -> Move:
    """The move that a change describes."""
    like = _like(before["state"]) or FileState("file", change.mode, change.uid, change.gid)
    return Move(
        change.unit,
        before["path"],
        encode(change.content),
        like,
        original,
        like,
        change.old_endpoint,
        change.new_endpoint,
        change.old_unit,
        change.new_unit,
        change.new_endpoint,
        change.healthz,
    )


def back(
    change: SwitchRuntime,
    before: Record,
    content: bytes | None,
    now: bytes | None,
    now_like: FileState,
    want: str,
) -> Move:
    """The way back: the same move with the roles swapped. `content` is what the file shall hold, None: nothing."""
    like = _like(before["state"]) or now_like
    return Move(
        change.unit,
        before["path"],
        content,
        like,
        now,
        now_like,
        change.new_endpoint,
        change.old_endpoint,
        change.new_unit,
        change.old_unit,
        want,
        change.healthz,
    )


def state(host: Host) -> str:
    """Where the switch is: none, armed, committing, committed, rolling-back, rolled-back or confirmed."""
    return decode(host.read(f"{HOME}/state") or b"none").strip()


def cause(host: Host) -> str:
    """Why the host rolled back, in its own words, with the end of its record."""
    last = decode(host.read(f"{HOME}/log") or b"").splitlines()[-30:]
    return decode(host.read(f"{HOME}/cause") or b"").strip() + "\n" + "\n".join(last)


def run(host: Host, move: Move, settings: Settings, crictl: str) -> None:
    """Arms and commits; returns once the host's program has ended. As a pod we do not live that long."""
    disarm(host)
    _stage(host, move, settings, crictl)
    _arm(host, settings)
    log.get().warning("the kubelet moves now; every pod of this node restarts", runtime=move.new_unit)
    # A oneshot's start returns when it has ended; as a pod we are gone by then, and it goes on.
    host.run("systemctl", "start", UNIT, timeout=_bound(settings), check=False)


def wait(host: Host, settings: Settings) -> None:
    """Waits until the host's program, started before our time, is not at work."""
    deadline = time.monotonic() + _bound(settings)
    while host.run("systemctl", "is-active", UNIT, check=False).out.strip() in (
        "active",
        "activating",
        "deactivating",
    ):
        if time.monotonic() > deadline:
            raise PermanentError(
                "the host's switch program does not end", where=UNIT, remedy=f"systemctl status {UNIT}"
            )
        time.sleep(0.5)  # systemd tells only who asked it to start the unit


def _bound(settings: Settings) -> int:
    """Seconds that the host's program may take at most: out, and back again."""
    return settings.health_timeout * 2 + settings.pod_stop_timeout + 600


def confirm(host: Host) -> None:
    """The move holds: the dead man is disarmed first, then the leftovers go."""
    _write(host, "state", "confirmed\n")
    disarm(host)


def disarm(host: Host) -> None:
    """Takes the timer, the units and the staged files off the host; safe in every state but committing."""
    if host.exists(f"{_UNITS}/{DEADMAN}.timer"):
        host.run("systemctl", "disable", "--now", "--quiet", f"{DEADMAN}.timer", check=False)
    present = [u for u in (f"{DEADMAN}.timer", f"{DEADMAN}.service", UNIT) if host.exists(f"{_UNITS}/{u}")]
    for name in present:
        host.remove(f"{_UNITS}/{name}")
    if present:
        host.run("systemctl", "daemon-reload")
        host.run("systemctl", "reset-failed", "sysbox-deploy-*", check=False)
    for path in _params(host).get("staged"), _params(host).get("saved"):
        if path:
            host.remove(path)
    for name in host.names(HOME):
        host.remove(f"{HOME}/{name}")
    host.remove_directory(HOME)


def _stage(host: Host, move: Move, settings: Settings, crictl: str) -> None:
    host.make_directory(HOME, 0o700)
    host.make_directory(move.path.rsplit("/", 1)[0])
    staged = ""
    if move.content is not None:
        staged = host.stage(move.path, move.content, move.like)
    saved = ""
    if move.original is not None:
        saved = host.stage(f"{move.path}.saved", move.original, move.original_like)
    params = {
        "unit": move.unit,
        "target": move.path,
        "staged": staged,
        "saved": saved,
        "had": "1" if saved else "0",
        "old_endpoint": move.old_endpoint,
        "new_endpoint": move.new_endpoint,
        "old_unit": move.old_unit,
        "new_unit": move.new_unit,
        "want": move.want,
        "healthz": move.healthz,
        "crictl": crictl,
        "health_timeout": str(settings.health_timeout),
        "stop_timeout": str(settings.pod_stop_timeout),
        "settle": str(_SETTLE_SECONDS),
    }
    _write(host, "params", "".join(f"{k}={v}\n" for k, v in params.items()))
    containers = cri.running(host, crictl, move.old_endpoint)
    lines = (f"{c.id} {min(c.grace, settings.pod_stop_timeout)}\n" for c in containers)
    _write(host, "containers", "".join(lines))
    program = resources.files("installer.switch").joinpath("commit.sh").read_text()
    _write(host, "commit.sh", program)


def _arm(host: Host, settings: Settings) -> None:
    _unit(
        host,
        UNIT,
        "move the kubelet to another runtime",
        f"{_PROGRAM} commit",
        f"ExecStopPost={_PROGRAM} after\n",
    )
    _unit(
        host,
        f"{DEADMAN}.service",
        "move the kubelet back unless the move was confirmed",
        f"{_PROGRAM} deadman",
        "",
    )
    timer = (
        "[Unit]\nDescription=sysbox-deploy: the dead man of the runtime switch\n\n"
        f"[Timer]\nOnActiveSec={settings.confirm_timeout}s\nAccuracySec=1s\n\n[Install]\nWantedBy=timers.target\n"
    )
    host.replace(f"{_UNITS}/{DEADMAN}.timer", timer.encode(), FileState("file", 0o644, 0, 0))
    host.run("systemctl", "daemon-reload")
    _write(host, "state", "armed\n")
    # Enabled, so that it also fires after a reboot.
    host.run("systemctl", "enable", "--now", "--quiet", f"{DEADMAN}.timer")


def _unit(host: Host, name: str, what: str, start: str, more: str) -> None:
    text = (
        f"[Unit]\nDescription=sysbox-deploy: {what}\n\n"
        f"[Service]\nType=oneshot\nTimeoutStartSec=infinity\nExecStart={start}\n{more}"
    )
    host.replace(f"{_UNITS}/{name}", text.encode(), FileState("file", 0o644, 0, 0))


def _write(host: Host, name: str, text: str) -> None:
    host.replace(f"{HOME}/{name}", text.encode(), _PRIVATE)


def _params(host: Host) -> dict[str, str]:
    text = decode(host.read(f"{HOME}/params") or b"")
    return dict(line.partition("=")[::2] for line in text.splitlines())


def _like(record: Record | None) -> FileState | None:
    if record is None:
        return None
    xattrs = tuple((n, v) for n, v in record["xattrs"])
    return FileState("file", record["mode"], record["uid"], record["gid"], xattrs=xattrs)
