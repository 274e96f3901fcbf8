"""The switch, commit-confirmed: arm the dead man, commit on the host, confirm or learn that it was rolled back."""

import contextlib
import dataclasses
from collections.abc import Iterator
from importlib import resources
from pathlib import PurePosixPath

import tenacity

from installer import log
from installer.changes import Record, SwitchRuntime
from installer.errors import DeployError, TemporaryError
from installer.host import FileState, Host, decode, encode
from installer.journal import STATE
from installer.settings import Settings
from installer.switch import cri

HOME = f"{STATE}/switch"
_TIMER = "sysbox-deploy-deadman.timer"
_PROGRAM = "sysbox-deploy-switch@{}.service"  # commit, resume or deadman
_UNITS = "/etc/systemd/system"
_FILES = {_TIMER: f"{_UNITS}/{_TIMER}", _PROGRAM.format("resume"): f"{_UNITS}/{_PROGRAM.format('')}"}
_LOCK = "/run/sysbox-deploy-switch.lock"
_LOCK_SECONDS = 900
_SYSTEMD = FileState("file", 0o644, 0, 0)
_PRIVATE = FileState("file", 0o600, 0, 0)


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
    """Where the move is, as the host's program says: see the head of commit.sh; none where there is no move."""
    return decode(host.read(f"{HOME}/state") or b"none").strip()


def cause(host: Host) -> str:
    """Why the host rolled back, in its own words."""
    return decode(host.read(f"{HOME}/cause") or b"").strip()


def record(host: Host) -> str:
    """What the host's program wrote about its work."""
    return decode(host.read(f"{HOME}/log") or b"").strip()


def attempt(host: Host) -> str:
    """What `run` was given to tell this attempt by."""
    return _params(host).get("attempt", "")


def run(host: Host, move: Move, settings: Settings, crictl: str, attempt: str) -> None:
    """Arms and commits; returns once the host's program has ended. As a pod we do not live that long."""
    disarm(host)
    _stage(host, move, settings, crictl, attempt)
    _arm(host, settings)
    log.get().warning("the kubelet moves now; every pod of this node restarts", runtime=move.new_unit)
    _start(host, "commit", settings)


def settle(host: Host, settings: Settings) -> None:
    """Waits for the host's program, and has it finish what a crash or a power cut left half done."""
    if state(host) in ("committing", "rolling-back"):
        _start(host, "resume", settings)


def confirm(host: Host) -> None:
    """The move holds, unless the dead man was quicker: the state tells."""
    with _locked(host):
        if state(host) == "committed":
            _write(host, "state", "confirmed\n")


def disarm(host: Host) -> None:
    """Takes the timer, the units and the staged files off the host. Raises TemporaryError while the move is open."""
    with _locked(host):
        said = state(host)
        if said in ("committing", "committed", "rolling-back"):
            what = "a move of the kubelet is under way"
            raise TemporaryError(what, where=HOME, found=said, remedy="wait for its end")
        host.remove(f"{HOME}/state")  # from here on the program has nothing to do
        _remove_units(host)
        params = _params(host)
        for path in filter(None, (params.get("staged"), params.get("saved"))):
            host.remove(path)
        for name in sorted(host.names(HOME), key="params".__eq__):  # the params last: they tell what else is to go
            host.remove(f"{HOME}/{name}")
        host.remove_directory(HOME)


def _remove_units(host: Host) -> None:
    for path in _FILES.values():
        host.sweep(path)
    present = {unit: path for unit, path in _FILES.items() if host.exists(path)}
    for unit, path in present.items():
        # A program that waits for our lock must not be waited for.
        host.run("systemctl", "disable", "--quiet", *(["--now"] if unit == _TIMER else []), unit)
        host.remove(path)
    if present:
        host.run("systemctl", "daemon-reload")
        host.run("systemctl", "reset-failed", "sysbox-deploy-*", check=False)


def _stage(host: Host, move: Move, settings: Settings, crictl: str, attempt: str) -> None:
    host.make_directory(HOME, 0o700)
    staged = _neighbour(move.path) if move.content is not None else ""
    saved = _neighbour(f"{move.path}.saved") if move.original is not None else ""
    params = {
        "unit": move.unit,
        "target": move.path,
        "staged": staged,
        "saved": saved,
        "want": move.want,
        "old_endpoint": move.old_endpoint,
        "new_endpoint": move.new_endpoint,
        "old_unit": move.old_unit,
        "new_unit": move.new_unit,
        "healthz": move.healthz.replace("[", "").replace("]", ""),
        "crictl": crictl,
        "health_timeout": str(settings.health_timeout),
        "settle": str(settings.settle),
        "stop_timeout": str(settings.pod_stop_timeout),
        "attempt": attempt,
    }
    # First of all, for they name what is to be removed if we do not get further.
    _write(host, "params", "".join(f"{k}={v}\n" for k, v in params.items()))
    host.make_directory(str(PurePosixPath(move.path).parent))
    if move.content is not None:
        host.stage(move.path, move.content, move.like)
    if move.original is not None:
        host.stage(f"{move.path}.saved", move.original, move.original_like)
    _write(host, "containers", "".join(_containers(host, move, settings, crictl)))
    _write(host, "commit.sh", resources.files("installer.switch").joinpath("commit.sh").read_text())


def _neighbour(path: str) -> str:
    """Where `Host.stage` puts it: beside the file that it is for, so that one rename puts it in place."""
    at = PurePosixPath(path)
    return str(at.with_name(f".{at.name}.sysbox-deploy"))


def _containers(host: Host, move: Move, settings: Settings, crictl: str) -> Iterator[str]:
    """What is to be ended gracefully. A runtime that does not answer must not keep the kubelet from leaving it."""
    try:
        for container in cri.running(host, crictl, move.old_endpoint):
            yield f"{min(container.grace, settings.pod_stop_timeout)} {container.id}\n"
    except DeployError as error:
        log.get().warning("the old runtime does not answer; its pods will be ended by force", found=error.found)


def _arm(host: Host, settings: Settings) -> None:
    """Nothing has moved yet. Timer and `resume` are enabled, so that a boot takes up where the power was cut."""
    # The program waits for no unit: one that hangs while it starts must not keep it from rolling back.
    units = {
        _PROGRAM.format(""): f"""\
[Unit]
Description=sysbox-deploy: move the kubelet to another runtime (%i)

[Service]
Type=oneshot
Slice=system.slice
TimeoutSec=infinity
ExecStart=/bin/sh {HOME}/commit.sh %i
ExecStopPost=-/bin/sh {HOME}/commit.sh resume

[Install]
WantedBy=multi-user.target
""",
        _TIMER: f"""\
[Unit]
Description=sysbox-deploy: move the kubelet back unless the move is confirmed

[Timer]
OnActiveSec={settings.confirm_timeout}s
AccuracySec=1s
Unit={_PROGRAM.format("deadman")}

[Install]
WantedBy=timers.target
""",
    }
    for name, text in units.items():
        host.replace(f"{_UNITS}/{name}", text.encode(), _SYSTEMD)
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "enable", "--quiet", *_FILES)
    host.run("sync", f"{_UNITS}/multi-user.target.wants", f"{_UNITS}/timers.target.wants")
    host.run("systemctl", "start", _TIMER)
    _write(host, "state", "armed\n")


def _start(host: Host, what: str, settings: Settings) -> None:
    """Has the host's program do it. A oneshot's start returns when it has ended; it goes on if we are ended."""
    bound = 2 * settings.health_timeout + settings.settle + settings.pod_stop_timeout + 1200
    host.run("systemctl", "start", _PROGRAM.format(what), timeout=bound, check=False)


@contextlib.contextmanager
def _locked(host: Host) -> Iterator[None]:
    """The lock under which the state changes hands. The host's program may hold it for minutes."""
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(DeployError),
        wait=tenacity.wait_fixed(0.2),
        stop=tenacity.stop_after_delay(_LOCK_SECONDS),
        reraise=True,
    )
    with contextlib.ExitStack() as stack:
        retrying(lambda: stack.enter_context(host.lock(_LOCK)))
        yield


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
