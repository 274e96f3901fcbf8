"""Passwords for registries, found for an image as the kubelet finds them. None of them is ever shown."""

import base64
import binascii
import fnmatch
import json
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from installer.facts.certs_d import HUB
from installer.facts.reference import Reference

Document = Mapping[str, Any]


class Keyring:
    """Holds documents of the form of docker's config.json, or of the older .dockercfg."""

    def __init__(self, documents: Iterable[Document]) -> None:
        self._keys: dict[str, list[str]] = {}
        for document in documents:
            entries = document.get("auths", document)
            for where, entry in entries.items() if isinstance(entries, Mapping) else ():
                if auth := _auth(entry):
                    self._keys.setdefault(_key(where), []).append(auth)

    def auths(self, name: Reference) -> list[str]:
        """What may open the image, likeliest first: base64 of USER:PASSWORD."""
        found = [auth for key in sorted(self._keys, reverse=True) if _opens(key, name) for auth in self._keys[key]]
        return list(dict.fromkeys(found))

    def __repr__(self) -> str:
        return f"Keyring of {', '.join(sorted(self._keys)) or 'nothing'}"


def parse(content: bytes | None) -> Document:
    """A document, or an empty one where it is none."""
    try:
        said = json.loads(content or b"{}")
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _auth(entry: object) -> str:
    if not isinstance(entry, Mapping):
        return ""
    user, password = entry.get("username"), entry.get("password")
    if isinstance(user, str) and isinstance(password, str) and user:
        return base64.b64encode(f"{user}:{password}".encode()).decode()
    auth = entry.get("auth")
    try:
        return auth if isinstance(auth, str) and b":" in base64.b64decode(auth, validate=True) else ""
    except (binascii.Error, ValueError):
        return ""


def _key(where: str) -> str:
    """Host and path, without scheme and API version."""
    try:
        parts = urlsplit(where if "://" in where else f"https://{where}")
    except ValueError:
        return ""
    path = parts.path
    for version in ("/v1", "/v2"):
        if path == version or path.startswith(f"{version}/"):
            path = path[len(version) :]
    return (parts.netloc.rpartition("@")[2] + path).rstrip("/")


def _opens(key: str, name: Reference) -> bool:
    """Every label of a host may hold wildcards; a path opens all below it."""
    host, _, path = key.partition("/")
    if name.registry == "docker.io" and host in HUB:
        return name.path.startswith(path)
    (theirs, their_port), (ours, our_port) = _labels(host), _labels(name.registry)
    same = their_port == our_port and len(theirs) == len(ours)
    matches = all(fnmatch.fnmatchcase(label, pattern) for label, pattern in zip(ours, theirs, strict=False))
    return same and matches and name.path.startswith(path)


def _labels(host: str) -> tuple[list[str], str]:
    bare, colon, port = host.rpartition(":")
    return (bare.split("."), port) if colon else (host.split("."), "")
