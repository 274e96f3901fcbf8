"""Plain unit tests can't leave their process."""

import os
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Callable

import pytest
import sh

from installer.host import Host


def _socket(do: Callable[[socket.socket], object], family: int = socket.AF_INET) -> None:
    with socket.socket(family) as made:
        do(made)


WAYS: dict[str, Callable[[], object]] = {
    "subprocess.run": lambda: subprocess.run(["true"]),
    "os.system": lambda: os.system("true"),
    "os.fork": lambda: os.waitpid(os.fork(), 0),
    "sh": lambda: sh.Command("true")(_tty_out=False),
    "the host": lambda: Host().run("true"),
    "a connection": lambda: _socket(lambda made: made.connect(("127.0.0.1", 9))),
    "a unix socket": lambda: _socket(lambda made: made.connect("/run/crio/crio.sock"), socket.AF_UNIX),
    "a server": lambda: _socket(lambda made: made.bind(("127.0.0.1", 0))),
    "a name": lambda: socket.getaddrinfo("localhost", 80),
    "a download": lambda: urllib.request.urlopen("http://127.0.0.1:9/"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_plain_unit_test_fails_by_what_it_did(way: str) -> None:
    with pytest.raises(pytest.fail.Exception, match="a plain unit test"):
        WAYS[way]()


def test_threads_and_pairs_of_sockets_are_no_way_out() -> None:
    one, other = socket.socketpair()
    with one, other:
        thread = threading.Thread(target=one.send, args=(b"x",))
        thread.start()
        thread.join()
        assert other.recv(1) == b"x"


@pytest.mark.machine
def test_a_test_that_is_marked_can_use_its_machine() -> None:
    assert subprocess.run(["true"]).returncode == 0
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
