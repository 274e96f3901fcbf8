"""containerd's content store: which names it knows, and of which images every blob is there."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from installer import log
from installer.facts import reference
from installer.facts.reference import Reference
from installer.host import Host

NAMESPACE = "k8s.io"
_BLOBS = "io.containerd.content.v1.content/blobs"
_DIGEST = re.compile(r"(sha256|sha384|sha512):([0-9a-f]{64,128})")
_DOCUMENT_BYTES = 8 << 20  # more than any registry takes for a manifest

Document = Mapping[str, Any]


def read(host: Host, endpoint: str, root: str, arch: str) -> "Store":
    """The store of the containerd at `endpoint`. Without its `ctr`, or with no answer, one without names."""
    address = endpoint.removeprefix("unix://")
    said = host.run("ctr", "--address", address, "--namespace", NAMESPACE, "images", "list", check=False)
    if said.code:
        log.get().warning("containerd's images can't be listed; they will be pulled", found=said.err.strip()[-300:])
    return Store(parse_list(said.out if said.code == 0 else ""), host.real(f"{root}/{_BLOBS}"), arch)


def parse_list(text: str) -> dict[Reference, str]:
    """Names and digests in `ctr images list`: a head, then lines of NAME TYPE DIGEST …; ids among them are left out."""
    rows = [line.split() for line in text.splitlines()[1:]]
    named = [(reference.parse(row[0]), row[2]) for row in rows if len(row) > 2 and _DIGEST.fullmatch(row[2])]
    return {name: digest for name, digest in named if name}


class Store:
    """Blobs by digest below `blobs`, and the digest that each name stands for. `arch` is the node's, as Go has it."""

    def __init__(self, names: Mapping[Reference, str], blobs: Path, arch: str) -> None:
        self.names = names
        self._blobs = blobs
        self._arch = arch

    def digest(self, name: Reference) -> str:
        """What a runtime on this machine is to be given for the name; empty where the store has not all of it.

        An index is given as it is if the one instance that anybody would choose is whole, since its digest is then
        kept; else, where the name is a tag, the instance alone.
        """
        top = name.digest or self.names.get(name, "")
        whole = [digest for digest in self._instances(top) if self._is_whole(digest)]
        if not whole:
            return ""
        if top in whole or self._choices(top) == whole:
            return top
        return "" if name.digest else whole[0]

    def size(self, name: Reference) -> dict[str, tuple[int, bool]]:
        """The layers that the name's image is made of: by digest, the bytes here, and whether they are compressed."""
        top = name.digest or self.names.get(name, "")
        instance = next((digest for digest in self._instances(top) if self._is_whole(digest)), "")
        layers = self.document(instance).get("layers", ()) if instance else ()
        return {layer["digest"]: (int(layer["size"]), _is_packed(layer)) for layer in layers}

    def blob(self, digest: str) -> Path | None:
        """The blob's file; None where it is not there."""
        found = _DIGEST.fullmatch(digest)
        path = self._blobs / found[1] / found[2] if found else None
        return path if path and path.is_file() else None

    def document(self, digest: str) -> Document:
        """A manifest, index or image configuration; empty where it is none of them, or not there."""
        path = self.blob(digest)
        if path is None or path.stat().st_size > _DOCUMENT_BYTES:
            return {}
        try:
            content = json.loads(path.read_bytes())
        except ValueError:
            return {}
        return content if isinstance(content, dict) else {}

    def _instances(self, digest: str, depth: int = 3) -> Iterator[str]:
        """The manifests for this machine that a digest leads to, in order."""
        document = self.document(digest)
        if "manifests" not in document:
            if {"config", "layers"} <= document.keys() and self._fits(document):
                yield digest
            return
        for entry in document["manifests"] if depth else ():
            if self._said_to_fit(entry) is not False:
                yield from self._instances(entry["digest"], depth - 1)

    def _choices(self, digest: str) -> list[str]:
        """What an index says outright to be for this machine."""
        return [entry["digest"] for entry in self.document(digest).get("manifests", ()) if self._said_to_fit(entry)]

    def _said_to_fit(self, entry: Document) -> bool | None:
        platform = entry.get("platform")
        if not platform:
            return None
        return bool(platform.get("os") == "linux" and platform.get("architecture") == self._arch)

    def _fits(self, manifest: Document) -> bool:
        config = self.document(manifest.get("config", {}).get("digest", ""))
        return bool(config.get("architecture", self._arch) == self._arch and config.get("os", "linux") == "linux")

    def _is_whole(self, digest: str) -> bool:
        manifest = self.document(digest)
        return all(self._has(part) for part in (manifest["config"], *manifest["layers"]))

    def _has(self, part: Document) -> bool:
        path = self.blob(part["digest"])
        return path is not None and path.stat().st_size == part["size"]


def _is_packed(layer: Document) -> bool:
    return not str(layer.get("mediaType", "")).endswith("tar")
