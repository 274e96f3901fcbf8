"""Two of us on one node take turns."""

import fcntl
from collections.abc import Iterator
from typing import IO

import pytest

from installer.errors import DeployError
from installer.host import door
from tests.tree_host import TreeHost, a_host

LOCK = "/etc/lock"


@pytest.fixture
def host() -> Iterator[TreeHost]:
    with a_host() as made:
        yield made


@pytest.fixture
def held(host: TreeHost) -> Iterator[IO[str]]:
    """The lock, in another's hands."""
    with host.real(LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def test_the_second_waits_until_the_first_has_ended(
    host: TreeHost, held: IO[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("installer.host.door.time.sleep", lambda _: held.close())
    with host.lock(LOCK):
        assert held.closed


def test_it_does_not_wait_for_ever(host: TreeHost, held: IO[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "_LOCK_SECONDS", 0)
    with pytest.raises(DeployError, match="another sysbox-deploy"), host.lock(LOCK):
        pass
    assert not host.inherited
