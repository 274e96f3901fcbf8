"""Runs Sysbox's daemons, whose paths are fixed, in a root, where they can't touch this machine."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

NEEDED = ("rsync", "modprobe", "iptables")


class Root:
    """A root directory with nothing in it but the programs, what they look for, and /proc while they run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("etc", "proc", "run", "usr/bin", "var/lib"):
            (folder / name).mkdir(parents=True)
        for name in NEEDED:
            (folder / "usr/bin" / name).touch(mode=0o755)
        self.data_on_tmpfs = False

    def __truediv__(self, path: str) -> Path:
        return self.folder / path

    def argv(self, *words: str) -> list[str]:
        tmpfs = 'mount -t tmpfs tmpfs "$0/var/lib" && ' if self.data_on_tmpfs else ""
        script = f'mount --bind /proc "$0/proc" && {tmpfs}exec chroot "$0" "$@"'
        return ["unshare", "--mount", "sh", "-c", script, str(self.folder), *words]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"]}
        return subprocess.run(self.argv(*words), env=environment, capture_output=True, text=True, timeout=20)

    @contextlib.contextmanager
    def started(self, *words: str) -> Iterator["Daemon"]:
        """A daemon that has said it is ready; ended at the latest with the context."""
        own = f"notify-{words[0]}"
        with Notifications(self / own) as notifications:
            environment = {"PATH": os.environ["PATH"], "NOTIFY_SOCKET": f"/{own}"}
            with subprocess.Popen(
                self.argv(*words), env=environment, stderr=subprocess.PIPE, text=True
            ) as process:
                try:
                    assert notifications.next() == "READY=1"
                    yield Daemon(process, notifications)
                finally:
                    process.kill()


class Notifications:
    """What a program tells systemd."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(10)

    def next(self) -> str:
        return self._socket.recv(4096).decode()

    def __enter__(self) -> "Notifications":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


class Daemon:
    def __init__(self, process: subprocess.Popen[str], notifications: Notifications) -> None:
        self.process = process
        self.notifications = notifications

    def stop(self) -> str:
        """What it wrote, after the signal that systemd ends it with."""
        self.process.send_signal(signal.SIGTERM)
        assert self.notifications.next() == "STOPPING=1"
        _, said = self.process.communicate(timeout=10)
        assert self.process.returncode == 0
        return said


def wait_for(path: Path) -> None:
    """The daemons are ready before their PID files and sockets are there, as the real ones are."""
    until = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < until, f"{path} never came"
        time.sleep(0.01)
