"""A folder over plain HTTP, from any network namespace, as well or as badly as a test needs it."""

import concurrent.futures
import contextlib
import ctypes
import http.server
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_CLONE_NEWNET = 0x40000000


class Mirror(http.server.ThreadingHTTPServer):
    """A server of a folder, with faults.

    Counted for each path by itself: `fail_first` requests are answered 503, the next `cut` break off halfway,
    all others are answered well. Every body pauses for `slow` seconds halfway.
    """

    def __init__(self, folder: Path, listener: socket.socket, fail_first: int, cut: int, slow: float) -> None:
        super().__init__(listener.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.folder = folder
        self.fail_first = fail_first
        self.cut = cut
        self.slow = slow
        self.requests: list[tuple[str, int]] = []
        """path and status of each request, in the order of the answers"""
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        address, port = self.socket.getsockname()
        return f"http://{address}:{port}"

    def count(self, path: str) -> int:
        """Which request for this path it is, from 1 on."""
        with self._lock:
            self._counts[path] = self._counts.get(path, 0) + 1
            return self._counts[path]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may leave in the middle of an answer: that is what these tests are about."""


class _Handler(http.server.SimpleHTTPRequestHandler):
    server: Mirror
    protocol_version = "HTTP/1.1"

    def __init__(self, request: socket.socket, client: Any, server: Mirror) -> None:
        super().__init__(request, client, server, directory=str(server.folder))

    def do_GET(self) -> None:
        nth = self.server.count(self.path)
        if nth <= self.server.fail_first:
            self.send_error(503)
            return
        cut = nth <= self.server.fail_first + self.server.cut
        if (cut or self.server.slow) and Path(self.translate_path(self.path)).is_file():
            self._send_in_halves(cut)
            return
        super().do_GET()

    def _send_in_halves(self, cut: bool) -> None:
        content = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        middle = len(content) // 2
        self.wfile.write(content[:middle])
        time.sleep(self.server.slow)
        if cut:
            self.close_connection = True
        else:
            self.wfile.write(content[middle:])

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        self.server.requests.append((self.path, int(code)))

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr: `requests` has it."""


@contextlib.contextmanager
def serve(
    folder: Path,
    address: str = "127.0.0.1",
    port: int = 0,
    *,
    netns: Path | None = None,
    fail_first: int = 0,
    cut: int = 0,
    slow: float = 0.0,
) -> Iterator[Mirror]:
    """Serves the folder while the context lasts, in the network namespace at `netns` (without: in ours)."""
    mirror = Mirror(folder, _listen(address, port, netns), fail_first, cut, slow)
    thread = threading.Thread(target=mirror.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield mirror
    finally:
        mirror.shutdown()
        thread.join()
        mirror.server_close()


def _listen(address: str, port: int, netns: Path | None) -> socket.socket:
    if netns is None:
        return _bound(address, port)
    # A namespace is entered by a thread, and a socket keeps the one it was made in: this thread ends at once.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(_listen_inside, address, port, netns).result()


def _listen_inside(address: str, port: int, netns: Path) -> socket.socket:
    libc = ctypes.CDLL(None, use_errno=True)
    with netns.open("rb") as namespace:
        if libc.setns(namespace.fileno(), _CLONE_NEWNET):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(netns))
    return _bound(address, port)


def _bound(address: str, port: int) -> socket.socket:
    # create_server sets SO_REUSEADDR: a test that runs again must not wait for the last one's connections
    return socket.create_server((address, port), backlog=64)
