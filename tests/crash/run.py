"""Runs the program on a simulated host: install or cleanup, as its command line would."""

import contextlib
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import structlog

from installer.cluster import node
from installer.engine import cleanup, install
from installer.errors import DeployError
from installer.facts import sources
from installer.settings import Settings
from tests.crash import cluster
from tests.crash.host import SimulatedHost
from tests.crash.world import World

Operation = Callable[[World], DeployError | None]


@contextlib.contextmanager
def prepared(folder: Path) -> Iterator[None]:
    """Quiet, and with a cache of our own: once for many runs."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(sources, "CACHE", folder / "cache"))
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(io.StringIO()), processors=[_drop])
        yield
        structlog.reset_defaults()


def _drop(*_: object) -> str:
    raise structlog.DropEvent


def installing(settings: Settings, profile: str) -> Operation:
    """`install`; what it returns is the error that it ended with, if any."""
    return lambda world: _run(world, lambda host: install.install(host, settings, profile))


def cleaning(settings: Settings, profile: str) -> Operation:
    """`cleanup`."""
    return lambda world: _run(world, lambda host: cleanup.cleanup(host, settings, profile))


def _run(world: World, do: Callable[[SimulatedHost], object]) -> DeployError | None:
    # Our own container comes anew with every start.
    shutil.rmtree(sources.CACHE, ignore_errors=True)
    with mock.patch.object(node, "connect", lambda: cluster.connection(world)), world.running():
        try:
            do(SimulatedHost(world))
        except DeployError as error:
            return error
    return None
