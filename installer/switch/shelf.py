"""A registry of one store on the host's loopback, for the time in which CRI-O takes images from it.

CRI-O is told by a drop-in of registries.conf to look there, and only there, for the repositories concerned: it pulls
under the images' own names. The address holds a secret, so that no other process of the node can read images by it.
"""

import contextlib
import http.server
import json
import re
import secrets
import shutil
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import tomlkit

from installer import log
from installer.errors import DeployError
from installer.facts.reference import Reference
from installer.facts.registries import CARRY
from installer.host import FileState, Host
from installer.switch import cri
from installer.switch.store import Store

_PRIVATE = FileState("file", 0o600, 0, 0)
_NOBODY = "127.0.0.1:1/sysbox-deploy"  # where nobody listens: asked before the drop-in counts, it fails at once
_READ_SECONDS = 20
_IDLE_SECONDS = 60
_TLS_HANDSHAKE = b"\x16"


@contextlib.contextmanager
def offered(host: Host, crictl: str, endpoint: str, store: Store, wanted: Sequence[Reference]) -> Iterator[bool]:
    """While the body runs, the CRI-O at `endpoint` pulls the repositories of `wanted` from the store. False where it
    does not heed the drop-in."""
    repositories = sorted({name.repository for name in wanted})
    with _serving(host, store, repositories) as server:
        folders = host.make_directory(CARRY.rpartition("/")[0])
        try:
            host.replace(CARRY, _drop_in(server, repositories).encode(), _PRIVATE)
            _reload(host)
            yield _is_read(host, crictl, endpoint, server)
        finally:
            sweep(host)
            for folder in reversed(folders):
                host.remove_directory(folder)


def sweep(host: Host) -> None:
    """Takes the drop-in away, ours of now or one that a crash left."""
    if host.exists(CARRY):
        host.remove(CARRY)
        _reload(host)


def _reload(host: Host) -> None:
    # Only the service's own process: the same signal would end others in its control group.
    host.run("systemctl", "kill", "--kill-who=main", "--signal=HUP", "crio.service", check=False)


def _drop_in(server: "_Server", repositories: Sequence[str]) -> str:
    """Repositories go by number: a port or a capital of their registry has no place in a path."""
    said = [*((str(number), name) for number, name in enumerate(repositories)), ("probe", _NOBODY)]
    tables = [{"prefix": name, "location": f"{server.address}/{number}", "insecure": True} for number, name in said]
    return "# For minutes only, while sysbox-deploy carries images\n" + tomlkit.dumps({"registry": tables})


def _is_read(host: Host, crictl: str, endpoint: str, server: "_Server") -> bool:
    """CRI-O reads its registries again when told to, and tells nobody when it has: we see it ask for the probe."""
    deadline = time.monotonic() + _READ_SECONDS
    while time.monotonic() < deadline:
        time.sleep(0.1)
        with contextlib.suppress(DeployError):
            cri.pull(host, crictl, endpoint, f"{_NOBODY}:latest")
        if server.probed:
            return True
        time.sleep(0.4)
    log.get().warning("CRI-O does not heed the registries that it is given; images are pulled instead")
    return False


@contextlib.contextmanager
def _serving(host: Host, store: Store, repositories: Sequence[str]) -> Iterator["_Server"]:
    server = _Server(host.listen(), store, repositories)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """The registry. `probed` turns true once somebody asked for the probe."""

    daemon_threads = True
    # A pull that hangs must not keep us: its thread ends with its connection, or with us.
    block_on_close = False

    def __init__(self, listening: socket.socket, store: Store, repositories: Sequence[str]) -> None:
        super().__init__(listening.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.store = store
        self.repositories = repositories
        self.secret = secrets.token_hex(16)
        self.address = f"127.0.0.1:{listening.getsockname()[1]}/{self.secret}"
        self.probed = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that its other end has dropped is no news; an error of ours is."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            log.get().error("serving an image failed", error=repr(error))


class _Handler(http.server.BaseHTTPRequestHandler):
    """The part of the distribution API that a pull needs: manifests by name or digest, blobs by digest."""

    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS
    _PATH: ClassVar[re.Pattern[str]] = re.compile(
        r"/v2/(?P<secret>\w+)/(?P<number>\w+)/(?P<kind>manifests|blobs)/(?P<ref>[\w.:+-]+)"
    )

    def handle(self) -> None:
        """CRI-O tries TLS first, whatever it is told; it is to notice at once that this is none."""
        if self.connection.recv(1, socket.MSG_PEEK) != _TLS_HANDSHAKE:
            super().handle()

    def do_GET(self) -> None:
        """A manifest, a blob, or the API's own root."""
        path = self.path.partition("?")[0]
        if path in ("/v2", "/v2/"):
            self._send(b"{}", {"Content-Type": "application/json"})
            return
        found = self._PATH.fullmatch(path)
        if found is None or not secrets.compare_digest(found["secret"], self.server.secret):
            self._refuse()
        elif found["kind"] == "manifests":
            self._manifest(found["number"], found["ref"])
        else:
            self._blob(found["ref"])

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Requests are no news."""

    def _manifest(self, number: str, ref: str) -> None:
        self.server.probed |= number == "probe"
        digest = ref if ":" in ref else self._digest(number, ref)
        path = self.server.store.blob(digest)
        if path is None:
            self._refuse()
            return
        content = path.read_bytes()
        self._send(content, {"Content-Type": media_type(json.loads(content)), "Docker-Content-Digest": digest})

    def _digest(self, number: str, tag: str) -> str:
        try:
            registry, _, path = self.server.repositories[int(number)].partition("/")
        except (ValueError, IndexError):
            return ""
        return self.server.store.digest(Reference(registry, path, tag))

    def _blob(self, digest: str) -> None:
        path = self.server.store.blob(digest)
        if path is None:
            self._refuse()
            return
        size = path.stat().st_size
        self._head(200, {"Content-Type": "application/octet-stream", "Content-Length": str(size)})
        if self.command == "GET":
            self._copy(path)

    def _copy(self, path: Path) -> None:
        with path.open("rb") as file:
            shutil.copyfileobj(file, self.wfile, 1 << 20)

    def _refuse(self) -> None:
        body = b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}'
        self._head(404, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        if self.command == "GET":
            self.wfile.write(body)

    def _send(self, content: bytes, headers: Mapping[str, str]) -> None:
        self._head(200, {**headers, "Content-Length": str(len(content))})
        if self.command == "GET":
            self.wfile.write(content)

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def media_type(document: Mapping[str, Any]) -> str:
    """What kind of manifest it is; OCI's need not say so themselves."""
    kind = "index" if "manifests" in document else "manifest"
    return str(document.get("mediaType") or f"application/vnd.oci.image.{kind}.v1+json")
