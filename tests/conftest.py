"""What every test has: the disposable node's fixtures, and a guard on plain unit tests."""

import os
import socket
import subprocess
from collections.abc import Callable, Iterator

import pytest

pytest_plugins = ["tests.node.fixtures", "tests.switching", "tests.carrying"]

_FREE = ("machine", "node", "vm")


@pytest.fixture(autouse=True)
def _no_way_out(request: pytest.FixtureRequest) -> Iterator[None]:
    """A plain unit test starts no process and opens no connection: it would depend on the machine that it runs on."""
    if any(request.node.get_closest_marker(name) for name in _FREE):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "__init__", _forbidden("starts a process"))
        for name in ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system"):
            patch.setattr(os, name, _forbidden("starts a process"))
        for name in ("connect", "connect_ex", "bind", "sendto"):
            patch.setattr(socket.socket, name, _forbidden("uses the network"))
        patch.setattr(socket, "getaddrinfo", _forbidden("looks a name up"))
        yield


def _forbidden(what: str) -> Callable[..., None]:
    def fail(*arguments: object, **_: object) -> None:
        # No Exception, so that no `except` of what is tested takes it for a failure to deal with.
        said = ", ".join(repr(each) for each in arguments if isinstance(each, (str, bytes, list, tuple)))
        pytest.fail(f"a plain unit test {what}: mark it `machine`, or give it a stand-in ({said})")

    return fail
