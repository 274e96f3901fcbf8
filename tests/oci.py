"""Images of every shape that containerd's store can hold, built here, and a registry that has some of them."""

import base64
import contextlib
import gzip
import hashlib
import http.server
import io
import json
import socket
import tarfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_OCI = "application/vnd.oci.image"
_DOCKER = "application/vnd.docker"
_KINDS = {
    "oci": {
        "index": f"{_OCI}.index.v1+json",
        "manifest": f"{_OCI}.manifest.v1+json",
        "config": f"{_OCI}.config.v1+json",
        "packed": f"{_OCI}.layer.v1.tar+gzip",
        "plain": f"{_OCI}.layer.v1.tar",
    },
    "docker": {
        "index": f"{_DOCKER}.distribution.manifest.list.v2+json",
        "manifest": f"{_DOCKER}.distribution.manifest.v2+json",
        "config": f"{_DOCKER}.container.image.v1+json",
        "packed": f"{_DOCKER}.image.rootfs.diff.tar.gzip",
        "plain": f"{_DOCKER}.image.rootfs.diff.tar",
    },
}

Json = dict[str, Any]
Layer = Mapping[str, bytes]
"""The files of a layer, by path."""


def digest(blob: bytes) -> str:
    """The digest by which a registry knows it."""
    return "sha256:" + hashlib.sha256(blob).hexdigest()


def tar(files: Layer) -> bytes:
    """A layer; names ending in a slash are folders."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name.rstrip("/"))
            member.mode = 0o755
            if name.endswith("/"):
                member.type = tarfile.DIRTYPE
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


@dataclass
class Blobs:
    """Everything of some images, by digest."""

    content: dict[str, bytes] = field(default_factory=dict)

    def put(self, blob: bytes, kind: str) -> Json:
        """Keeps it; returns its descriptor."""
        name = digest(blob)
        self.content[name] = blob
        return {"mediaType": kind, "digest": name, "size": len(blob)}

    def image(
        self, layers: Sequence[Layer], *, kind: str = "oci", packed: bool = True, arch: str = "amd64", says: bool = True
    ) -> Json:
        """An image of these layers; returns its manifest's descriptor. `says`: the manifest names its own type."""
        types = _KINDS[kind]
        raw = [tar(layer) for layer in layers]
        config = self.put(_config(raw, arch), types["config"])
        stored = [gzip.compress(layer, mtime=0) if packed else layer for layer in raw]
        parts = [self.put(layer, types["packed" if packed else "plain"]) for layer in stored]
        manifest = {"schemaVersion": 2, "config": config, "layers": parts}
        if says:
            manifest["mediaType"] = types["manifest"]
        return self.put(json.dumps(manifest).encode(), types["manifest"])

    def index(self, *entries: tuple[Json, str], kind: str = "oci") -> Json:
        """An index of manifests by architecture, empty for one that says none; returns its descriptor."""
        types = _KINDS[kind]
        listed = [e | ({"platform": {"os": "linux", "architecture": arch}} if arch else {}) for e, arch in entries]
        content = {"schemaVersion": 2, "mediaType": types["index"], "manifests": listed}
        return self.put(json.dumps(content).encode(), types["index"])

    def without(self, *digests: str) -> "Blobs":
        """The same with some blobs missing."""
        return Blobs({name: blob for name, blob in self.content.items() if name not in digests})

    def layers(self, manifest: Json) -> list[str]:
        """The digests of a manifest's layers."""
        return [layer["digest"] for layer in json.loads(self.content[manifest["digest"]])["layers"]]

    def archive(self, file: Path, names: Mapping[str, Json]) -> Path:
        """An OCI archive with these names, as `ctr images import` reads it."""
        entries = [
            top | {"annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}}
            for name, top in names.items()
        ]
        index = {"schemaVersion": 2, "mediaType": _KINDS["oci"]["index"], "manifests": entries}
        members = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index).encode()}
        members |= {f"blobs/{name.replace(':', '/')}": blob for name, blob in self.content.items()}
        return write(file, members)


def docker_archive(file: Path, name: str, layers: Sequence[Layer], arch: str = "amd64") -> Path:
    """What `docker save` writes: layers that are not compressed."""
    raw = [tar(layer) for layer in layers]
    members = {f"{number}/layer.tar": layer for number, layer in enumerate(raw)}
    listed = [{"Config": "config.json", "RepoTags": [name], "Layers": list(members)}]
    return write(file, {**members, "config.json": _config(raw, arch), "manifest.json": json.dumps(listed).encode()})


def write(file: Path, members: Mapping[str, bytes]) -> Path:
    """A tar of these."""
    file.write_bytes(tar(members))
    return file


def _config(layers: Sequence[bytes], arch: str) -> bytes:
    content = {
        "architecture": arch,
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        "history": [{"created_by": "tests.oci"} for _ in layers],
    }
    return json.dumps(content).encode()


@dataclass
class Registry:
    """A registry by HTTP: `tags` as `repository:tag` to digest. Where `password` is set, only user:password may in."""

    blobs: Blobs
    tags: dict[str, str]
    password: str = ""
    asked: list[str] = field(default_factory=list)
    port: int = 0


@contextlib.contextmanager
def serving(registry: Registry, listening: socket.socket) -> Iterator[Registry]:
    """The registry, up while the body runs."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            registry.asked.append(self.path)
            wanted = "Basic " + base64.b64encode(registry.password.encode()).decode()
            if registry.password and self.headers["Authorization"] != wanted:
                self._answer(401, b"{}", {"WWW-Authenticate": 'Basic realm="test"'})
                return
            blob = self._blob()
            if blob is None:
                self._answer(200 if self.path == "/v2/" else 404, b"{}", {})
                return
            kind = _kind(blob) if "/manifests/" in self.path else "application/octet-stream"
            self._answer(200, blob, {"Content-Type": kind, "Docker-Content-Digest": digest(blob)})

        do_HEAD = do_GET

        def _blob(self) -> bytes | None:
            repository, _, ref = self.path.partition("?")[0].removeprefix("/v2/").rpartition("/")
            repository = repository.rpartition("/")[0]
            return registry.blobs.content.get(registry.tags.get(f"{repository}:{ref}", ref))

        def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass

    server = Server(listening.getsockname(), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listening
    registry.port = listening.getsockname()[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _kind(blob: bytes) -> str:
    said = json.loads(blob)
    return str(said.get("mediaType") or _KINDS["oci"]["index" if "manifests" in said else "manifest"])
