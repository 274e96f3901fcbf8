"""The host's commands and sockets, in the namespaces of its PID 1."""

import contextlib
import ctypes
import dataclasses
import fcntl
import http.client
import os
import shlex
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import sh

from installer import log
from installer.errors import CommandError, DeployError
from installer.host.tree import Tree, decode

_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}
_HEARTBEAT_SECONDS = 10
_LOCK_SECONDS = 600
_KILL_AFTER_SECONDS = 5


@dataclasses.dataclass(frozen=True)
class Result:
    """What a command said. `code` is its exit status."""

    code: int
    out: str
    err: str


class Host(Tree):
    """The host: a tree with commands and sockets."""

    def __init__(self, init: int = 1) -> None:
        super().__init__(Path(f"/proc/{init}/root"))
        self.init = init
        # Descriptors that commands inherit: the run's lock then lives as long as what the run started.
        self.inherited: set[int] = set()

    def run(self, *argv: str, timeout: int = 60, stdin: bytes = b"", check: bool = True) -> Result:
        """Runs a command on the host. `timeout` is in seconds. Raises CommandError if it fails and `check` is set."""
        begun = time.monotonic()
        with _heartbeat(shlex.join(argv)):
            result = self._enter(argv, timeout, stdin)
        took = round(time.monotonic() - begun, 2)
        log.get().debug(f"ran: {shlex.join(argv)}", code=result.code, seconds=took)
        if check and result.code != 0:
            raise CommandError(
                list(argv),
                result.code,
                result.err or result.out,
                shlex.join(argv),
                timed_out=result.code == 124,
            )
        return result

    def _enter(self, argv: tuple[str, ...], timeout: int, stdin: bytes) -> Result:
        namespaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd"]
        done = sh.Command("nsenter")(
            *["--target", str(self.init), *namespaces, "--"],
            # The host's own `timeout` ends the command with its children even if we are gone by then.
            *["timeout", f"--kill-after={_KILL_AFTER_SECONDS}", str(timeout), *argv],
            _env=_ENVIRONMENT,
            _in=stdin,
            _tty_out=False,
            _new_session=True,
            _pass_fds=self.inherited,
            _ok_code=list(range(-64, 256)),
            _decode_errors="surrogateescape",
            _return_cmd=True,
        )
        return Result(done.exit_code, decode(done.stdout), decode(done.stderr))

    def survives(self, unit: str, *argv: str, timeout: int, environment: dict[str, str] | None = None) -> Result:
        """Runs a command in a unit of the host's systemd, so that it goes on and ends well if our pod is killed."""
        assigned = [f"--setenv={k}={v}" for k, v in {**_ENVIRONMENT, **(environment or {})}.items()]
        return self.run(
            *["systemd-run", "--quiet", "--wait", "--pipe", "--collect", f"--unit={unit}"],
            *["--property=KillMode=mixed", f"--property=RuntimeMaxSec={timeout}"],
            *assigned,
            "--",
            *argv,
            timeout=timeout + 30,
            check=False,
        )

    def wait_out(self, unit: str) -> None:
        """Waits for the end of what a predecessor of ours started with `survives`: it goes on without that one."""
        state = self.run("systemctl", "is-active", unit, check=False).out.strip()
        if state in ("active", "activating", "deactivating"):
            log.get().info("waiting for what an earlier attempt of ours started", unit=unit)
            self.run("sh", "-c", 'while systemctl -q is-active "$0"; do sleep 1; done', unit, timeout=1800)

    def http_get(self, socket_path: str, url: str, timeout: int = 10) -> bytes:
        """One HTTP GET over a unix socket of the host. Raises DeployError where nobody answers with 200."""
        connection = _UnixConnection(self.real(socket_path), timeout)
        try:
            connection.request("GET", url)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise DeployError(
                f"no answer on {socket_path}", where=url, found=str(error), remedy="is its service running?"
            ) from error
        finally:
            connection.close()
        if answer.status != 200:
            raise DeployError(f"{socket_path} answered {answer.status}", where=url, found=decode(body[:200]))
        return body

    def listens(self, socket_path: str) -> bool:
        """Whether somebody accepts connections on a unix socket of the host."""
        connection = _UnixConnection(self.real(socket_path), 5)
        try:
            connection.connect()
        except OSError:
            return False
        finally:
            connection.close()
        return True

    def listen(self) -> socket.socket:
        """A listening TCP socket on the host's loopback, whatever network namespace we are in ourselves."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net") as ours, open(f"/proc/{self.init}/ns/net") as theirs:
            if libc.setns(theirs.fileno(), 0):
                raise OSError(ctypes.get_errno(), "setns")
            try:
                made = socket.create_server(("127.0.0.1", 0))
            finally:
                if libc.setns(ours.fileno(), 0):
                    raise OSError(ctypes.get_errno(), "setns")
        return made

    @contextlib.contextmanager
    def lock(self, path: str) -> Iterator[None]:
        """Holds the host's lock file, waited for; it dies with us and with what we started. Raises DeployError."""
        fd = os.open(self.real(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(fd, path)
            self.inherited.add(fd)
            yield
        finally:
            self.inherited.discard(fd)
            os.close(fd)


@contextlib.contextmanager
def _heartbeat(what: str) -> Iterator[None]:
    """Says every few seconds that a command still runs."""
    over = threading.Event()

    def beat() -> None:
        seconds = 0
        while not over.wait(_HEARTBEAT_SECONDS):
            seconds += _HEARTBEAT_SECONDS
            log.get().info(f"still running: {what}", seconds=seconds)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _lock(fd: int, path: str) -> None:
    """Both profiles' pods may start at once, and a killed pod's last command may go on for a while."""
    deadline = time.monotonic() + _LOCK_SECONDS
    told = False
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise DeployError(
                    "another sysbox-deploy works on this node",
                    where=path,
                    remedy="wait for it to end, or see who holds the file: fuser " + path,
                ) from None
        if not told:
            log.get().info("another sysbox-deploy works on this node; waiting for it to end", where=path)
            told = True
        time.sleep(0.5)  # flock knows no timeout


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: int) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        # A socket's address holds 107 bytes at most; a descriptor keeps it short whatever the path.
        folder = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(self.timeout)
            self.sock.connect(f"/proc/self/fd/{folder}/{self._path.name}")
        finally:
            os.close(folder)


def fetched(url: str, timeout: int = 60) -> Iterator[bytes]:
    """The bytes behind an http or https URL, in chunks."""
    with urllib.request.urlopen(url, timeout=timeout) as answer:  # noqa: S310 — the scheme is checked by settings
        while chunk := answer.read(1 << 20):
            yield chunk
