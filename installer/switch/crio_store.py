"""Images out of CRI-O's store, as OCI archives: its layers are unpacked, but it keeps the order and the heads of the
files of each layer's archive (tar-split), so that the very same archive can be put together again."""

import base64
import gzip
import hashlib
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from installer.errors import PermanentError
from installer.facts.reference import Reference, parse
from installer.host import Host, Tree

_FILE, _SEGMENT = 1, 2
_BLOCK = 512
_OCI, _DOCKER = "application/vnd.oci.image", "application/vnd.docker"
# By the type of an image's configuration, those of its manifest and of its layers once they are not compressed.
_KINDS = {
    f"{_OCI}.config.v1+json": (f"{_OCI}.manifest.v1+json", f"{_OCI}.layer.v1.tar"),
    f"{_DOCKER}.container.image.v1+json": (
        f"{_DOCKER}.distribution.manifest.v2+json",
        f"{_DOCKER}.image.rootfs.diff.tar",
    ),
}

Json = dict[str, Any]


@dataclass(frozen=True)
class _Layer:
    id: str
    parent: str
    digest: str
    size: int


class CrioStore:
    """CRI-O's store below `root`, read only. Without the driver overlay there is nothing in it that we can read."""

    def __init__(self, host: Host, root: str) -> None:
        self._host, self._root = host, root
        self._images: list[Json] = self._json("overlay-images/images.json")
        self._layers = {one["id"]: _layer(one) for one in self._json("overlay-layers/layers.json")}

    def size(self, name: Reference) -> int:
        """The bytes of its layers; 0 where the store does not have the image."""
        image = self._find(name)
        return sum(layer.size for layer in self._chain(image)) if image else 0

    def write(self, name: Reference, path: Path) -> None:
        """Writes the image's archive. Raises PermanentError where what the store has is not what the image was."""
        image = self._find(name)
        assert image  # its size was asked
        config = self._data(image, f"sha256:{image['id']}")
        kind = json.loads(self._data(image, "manifest"))["config"]["mediaType"]
        of_manifest, of_layer = _KINDS[kind]
        with path.open("wb") as file:
            layers = [self._add_layer(file, layer, of_layer) for layer in self._chain(image)]
            content = {"schemaVersion": 2, "mediaType": of_manifest, "config": _add(file, config, kind)}
            manifest = _add(file, json.dumps({**content, "layers": layers}).encode(), of_manifest)
            entry = {**manifest, "annotations": {"io.containerd.image.name": str(name)}}
            _member(file, "oci-layout", [b'{"imageLayoutVersion":"1.0.0"}'])
            _member(file, "index.json", [json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()])
            file.write(bytes(2 * _BLOCK))

    def _find(self, name: Reference) -> Json | None:
        for image in self._images:
            names = {parsed for text in image.get("names") or () if (parsed := parse(text))}
            digests = {image.get("digest"), *(image.get("big-data-digests") or {}).values()}
            if name in names or (name.digest in digests and name.repository in {one.repository for one in names}):
                return image
        return None

    def _chain(self, image: Json) -> list[_Layer]:
        """The layers, lowest first."""
        chain: list[_Layer] = []
        at = image.get("layer", "")
        while at:
            chain.insert(0, self._layers[at])
            at = self._layers[at].parent
        return chain

    def _data(self, image: Json, key: str) -> bytes:
        file = key if key.isalnum() else "=" + base64.b64encode(key.encode()).decode()
        return self._host.read(f"{self._root}/overlay-images/{image['id']}/{file}") or b""

    def _add_layer(self, file: IO[bytes], layer: _Layer, kind: str) -> Json:
        found = _member(file, f"blobs/{layer.digest.replace(':', '/')}", self._pieces(layer), layer.size)
        if found != layer.digest:
            raise PermanentError(
                "a layer in CRI-O's store is not what it was when it was pulled",
                where=f"{self._root}/overlay/{layer.id}/diff",
                found=found,
                remedy="have the image's registry at hand",
            )
        return {"mediaType": kind, "digest": layer.digest, "size": layer.size}

    def _pieces(self, layer: _Layer) -> Iterator[bytes]:
        tree = Tree(self._host.real(f"{self._root}/overlay/{layer.id}/diff"))
        with gzip.open(self._host.real(f"{self._root}/overlay-layers/{layer.id}.tar-split.gz")) as lines:
            for line in lines:
                entry = json.loads(line)
                if entry["type"] == _SEGMENT:
                    yield base64.b64decode(entry["payload"])
                elif entry["type"] == _FILE and entry.get("size"):
                    yield from _content(tree, entry)

    def _json(self, name: str) -> list[Json]:
        return json.loads(self._host.read(f"{self._root}/{name}") or b"[]") or []


def _layer(said: Mapping[str, Any]) -> _Layer:
    return _Layer(said["id"], said.get("parent", ""), said.get("diff-digest", ""), said.get("diff-size", 0))


def _content(tree: Tree, entry: Mapping[str, Any]) -> Iterator[bytes]:
    raw = base64.b64decode(entry["name_raw"]) if entry.get("name_raw") else entry["name"].encode()
    with tree.real("/" + raw.decode("utf-8", "surrogateescape"), follow=False).open("rb") as file:
        while chunk := file.read(1 << 20):
            yield chunk


def _add(file: IO[bytes], content: bytes, kind: str) -> Json:
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    _member(file, f"blobs/{digest.replace(':', '/')}", [content])
    return {"mediaType": kind, "digest": digest, "size": len(content)}


def _member(file: IO[bytes], name: str, pieces: Iterable[bytes], size: int | None = None) -> str:
    """Adds a member to an archive, piece by piece; returns its content's digest."""
    if size is None:
        pieces = list(pieces)
        size = sum(map(len, pieces))
    info = tarfile.TarInfo(name)
    info.size = size
    file.write(info.tobuf())
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
        file.write(piece)
    file.write(bytes(-size % _BLOCK))
    return "sha256:" + digest.hexdigest()
