"""Images brought from the old runtime's store into the new one's before the move, without a registry.

containerd keeps what it pulled as blobs by digest. For the time of the carry we serve them as a registry on the
host's loopback, which CRI-O is told to try first for the registries concerned; it pulls under the images' own
names, and goes to the real registry for what the store lacks.
"""

import contextlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import tenacity

from installer import log
from installer.errors import CommandError, PermanentError
from installer.host import FileState, Host
from installer.settings import Settings
from installer.switch import cri

_BLOBS = "io.containerd.content.v1.content/blobs/sha256"
_MIRRORS = "/etc/containers/registries.conf.d/99-sysbox-deploy-carry.conf"
_NAME = re.compile(r"[\w.:/@-]+")
_PULL_SECONDS = 600


def carry(host: Host, settings: Settings, crictl: str, old: str, new: str, root: str, extra: list[str]) -> list[str]:
    """Brings the images of the node's containers, and `extra`, into the new runtime's store; returns those it could
    not bring. Raises PermanentError for those where the settings ask for all."""
    wanted = list(dict.fromkeys([*_used(host, crictl, old), *extra]))
    missing = [name for name in wanted if name not in _names(host, crictl, new)]
    if not missing:
        return []
    with log.phase(f"carry {len(missing)} images"), _source(host, old, root, missing):
        lost = [name for name in missing if not _pull(host, crictl, new, name)]
    if lost and settings.switch_requires_all_images:
        raise PermanentError(
            "images of this node's pods could not be brought to the new runtime",
            found=", ".join(lost),
            where=new,
            remedy="make them pullable, delete their pods, or set SYSBOX_DEPLOY_SWITCH_REQUIRES_ALL_IMAGES=false",
        )
    for name in lost:
        log.get().warning(f"image {name} is not in the new runtime's store; its pods pull it after the move")
    return lost


@contextlib.contextmanager
def _source(host: Host, old: str, root: str, names: list[str]) -> Iterator[None]:
    """Serves containerd's store to CRI-O for the time of the carry; for the way back registries are all there is."""
    if "containerd" not in old:
        yield
        return
    digests = _digests(host)
    server = _serve(host, digests, host.real(f"{root}/{_BLOBS}"))
    hosts = sorted({name.split("/")[0] for name in names if "/" in name})
    text = "".join(_mirror(registry, server.server_address[1]) for registry in hosts)
    try:
        host.make_directory(_MIRRORS.rsplit("/", 1)[0])
        host.replace(_MIRRORS, text.encode(), FileState("file", 0o644, 0, 0))
        host.run("systemctl", "kill", "--signal=HUP", "crio.service")
        yield
    finally:
        host.remove(_MIRRORS)
        host.run("systemctl", "kill", "--signal=HUP", "crio.service", check=False)
        server.shutdown()
        server.server_close()


def _mirror(registry: str, port: int) -> str:
    return (
        f'[[registry]]\nprefix = "{registry}"\nlocation = "{registry}"\n'
        f'[[registry.mirror]]\nlocation = "127.0.0.1:{port}/{registry}"\ninsecure = true\n'
    )


def _used(host: Host, crictl: str, endpoint: str) -> list[str]:
    """Every name of every image that a container of the old runtime has, running or not."""
    used = {c["imageRef"] for c in cri.ask(host, crictl, endpoint, "ps", "--all").get("containers") or []}
    names: list[str] = []
    for image in cri.ask(host, crictl, endpoint, "images").get("images") or []:
        called = [*(image.get("repoTags") or []), *(image.get("repoDigests") or [])]
        if image["id"] in used or used & set(called) or any("/pause:" in name for name in called):
            names += [name for name in called if _NAME.fullmatch(name)]
    return names


def _names(host: Host, crictl: str, endpoint: str) -> set[str]:
    images = cri.ask(host, crictl, endpoint, "images").get("images") or []
    return {name for image in images for name in [*(image.get("repoTags") or []), *(image.get("repoDigests") or [])]}


def _pull(host: Host, crictl: str, endpoint: str, name: str) -> bool:
    # CRI-O takes a moment to read its registries again; a second try is cheap.
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(CommandError),
        wait=tenacity.wait_fixed(1),
        stop=tenacity.stop_after_attempt(3),
        reraise=True,
    )
    try:
        retrying(
            host.run,
            crictl,
            "--runtime-endpoint",
            endpoint,
            "--image-endpoint",
            endpoint,
            "--timeout",
            f"{_PULL_SECONDS}s",
            "pull",
            name,
            timeout=_PULL_SECONDS + 10,
        )
    except CommandError as error:
        log.get().warning(f"image {name} could not be brought", found=error.found)
        return False
    log.get().info(f"carried {name}")
    return True


def _digests(host: Host) -> dict[str, str]:
    """containerd's names and what they stand for: lines of NAME TYPE DIGEST …"""
    said = host.run("ctr", "--namespace", "k8s.io", "images", "list").out
    rows = [line.split() for line in said.splitlines()[1:]]
    return {row[0]: row[2] for row in rows if len(row) > 2 and row[2].startswith("sha256:")}


def _serve(host: Host, digests: dict[str, str], blobs: Path) -> http.server.ThreadingHTTPServer:
    """A read-only registry over containerd's blobs, on the host's loopback."""

    class Handler(_Registry):
        names = digests
        store = blobs

    made = host.listen()
    server = http.server.ThreadingHTTPServer(made.getsockname(), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = made
    server.server_address = made.getsockname()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class _Registry(http.server.BaseHTTPRequestHandler):
    """The part of the distribution API that a pull needs: manifests by name or digest, blobs by digest."""

    protocol_version = "HTTP/1.1"
    names: ClassVar[dict[str, str]] = {}
    store: ClassVar[Path] = Path()

    def do_GET(self) -> None:
        """A manifest, a blob, or the API's own root."""
        if self.path in ("/v2", "/v2/"):
            self._send(b"{}", "application/json")
            return
        found = re.fullmatch(r"/v2/(?P<repo>[\w./:-]+)/(?P<kind>manifests|blobs)/(?P<ref>[\w.:-]+)(\?.*)?", self.path)
        digest = self._digest(found["repo"], found["ref"]) if found else ""
        path = self.store / digest.removeprefix("sha256:")
        if not found or not re.fullmatch(r"sha256:[0-9a-f]{64}", digest) or not path.is_file():
            self.send_error(404)
        elif found["kind"] == "manifests":
            content = path.read_bytes()
            self._send(content, _media_type(content), digest)
        else:
            self._send_file(path, digest)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Requests are no news."""

    def _digest(self, repo: str, ref: str) -> str:
        return ref if ref.startswith("sha256:") else self.names.get(f"{repo}:{ref}", "")

    def _send(self, content: bytes, media_type: str, digest: str = "") -> None:
        self._head(len(content), media_type, digest)
        if self.command == "GET":
            self.wfile.write(content)

    def _send_file(self, path: Path, digest: str) -> None:
        self._head(path.stat().st_size, "application/octet-stream", digest)
        if self.command == "GET":
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    self.wfile.write(chunk)

    def _head(self, size: int, media_type: str, digest: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(size))
        if digest:
            self.send_header("Docker-Content-Digest", digest)
        self.end_headers()


def _media_type(content: bytes) -> str:
    document = json.loads(content)
    kind = "index" if "manifests" in document else "manifest"
    return str(document.get("mediaType") or f"application/vnd.oci.image.{kind}.v1+json")
