"""The command line: install, cleanup, plan, preflight, status."""

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path

from installer import __version__, log
from installer.errors import DeployError, SettingsError
from installer.host import Host, rejoin_devices
from installer.settings import Settings

READY = Path("/run/sysbox-deploy/ready")
"""In our own container: there once the job is done, for the pod's probe."""


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0 done, 1 failed, 2 wrong usage or settings, 3 refused."""
    arguments = _parser().parse_args(argv)
    as_json = getattr(arguments, "json", False)
    READY.unlink(missing_ok=True)
    try:
        log.configure(as_json=False)
        settings = Settings.load()
        log.configure(as_json=settings.log_format == "json", level=settings.log_level)
        if arguments.init:
            settings = dataclasses.replace(settings, host_init=arguments.init)
        host = _host(settings)
        code: int = arguments.do(host, settings, arguments)
    except DeployError as error:
        if as_json:
            print(json.dumps(error.to_dict()))
        else:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_status
    if code == 0 and arguments.do in (_install, _cleanup) and not arguments.once:
        _stay(host)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sysbox-deploy",
        description="Prepares a Kubernetes node for the Sysbox runtime, and takes every trace back.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument(
        "--init",
        type=int,
        metavar="PID",
        help="the init whose machine is meant (default: SYSBOX_DEPLOY_HOST_INIT, 1)",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, do, text in (
        ("install", _install, "prepare the node"),
        ("cleanup", _cleanup, "take everything back"),
        ("plan", _plan, "show what install (or cleanup) would do; touch nothing"),
        ("preflight", _preflight, "judge the node; touch nothing"),
        ("status", _status, "show what is installed, and what has drifted"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(do=do)
        command.add_argument("--profile", choices=("crio", "sysbox"), default="sysbox")
        if do in (_install, _cleanup):
            command.add_argument("--once", action="store_true", help="exit after success instead of staying alive")
        else:
            command.add_argument("--json", action="store_true", help="for machines")
        if do is _plan:
            command.add_argument("--cleanup", action="store_true", help="what cleanup would do")
    return parser


def _host(settings: Settings) -> Host:
    init = settings.host_init
    if os.geteuid() != 0:
        raise SettingsError("root is needed", remedy="run it as root, or in a privileged pod")
    if not Path(f"/proc/{init}/root/").exists() or not os.access(f"/proc/{init}/ns/mnt", os.R_OK):
        raise SettingsError(
            "that init's machine can't be entered",
            where=f"/proc/{init}",
            remedy="is the PID right, is the pod privileged, with hostPID?",
        )
    return Host(init)


def _install(host: Host, settings: Settings, arguments: argparse.Namespace) -> int:
    from installer.engine.install import install

    install(host, settings, arguments.profile)
    return 0


def _cleanup(host: Host, settings: Settings, arguments: argparse.Namespace) -> int:
    from installer.engine.cleanup import cleanup

    kept = cleanup(host, settings, arguments.profile)
    log.get().info("cleaned up" + (f"; {len(kept)} things stay, named above" if kept else ""))
    return 0


def _plan(host: Host, settings: Settings, arguments: argparse.Namespace) -> int:
    from installer.engine import show

    show.plan(host, settings, arguments.profile, cleanup=arguments.cleanup, as_json=arguments.json)
    return 0


def _preflight(host: Host, settings: Settings, arguments: argparse.Namespace) -> int:
    from installer.engine import show

    return show.preflight(host, settings, arguments.profile, as_json=arguments.json)


def _status(host: Host, settings: Settings, arguments: argparse.Namespace) -> int:
    from installer.engine import show

    show.status(host, settings, as_json=arguments.json)
    return 0


def _stay(host: Host) -> None:
    """Waits at next to no cost until SIGTERM: this process becomes a program that only sleeps."""
    rejoin_devices(host, Path("/proc/self/cgroup").read_text())
    READY.parent.mkdir(parents=True, exist_ok=True)
    READY.touch()
    log.get().info("waiting; delete the DaemonSet when you like, it changes nothing")
    sys.stderr.flush()
    # hostPID makes us no PID 1, so that SIGTERM's default ends it at once.
    os.execvp("sleep", ["sleep", "infinity"])  # noqa: S606 — there is no shell to want
