"""What one registry's folder below containerd's certs.d says: hosts.toml, or the certificates alone."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from installer.facts import reference
from installer.facts.model import Endpoint
from installer.host import Tree, decode

CERTIFICATES = "/etc/containers/certs.d"
HUB = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
EVERY = "*"
_NOWHERE = SplitResult("", "", "", "", "")

Table = Mapping[str, object]


@dataclass
class Found:
    """What one registry's part of the configuration comes to, while it is read."""

    mirrors: list[Endpoint] = field(default_factory=list)
    server: Endpoint | None = None
    authorities: dict[str, list[str]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def trust(self, tree: Tree, paths: list[str], host: str) -> None:
        """Takes the certificate authorities in these files as the host's."""
        for path in paths:
            content = tree.read(path)
            if content is None or b"-----BEGIN CERTIFICATE-----" not in content or b"PRIVATE KEY" in content:
                self.remarks.append(f"{path}, for {host}, holds no certificate that could be given to CRI-O")
            else:
                name = "docker.io" if host in HUB else host
                self.authorities.setdefault(name, []).append(decode(content).rstrip("\n") + "\n")

    def wants_key(self, where: str, host: str) -> None:
        """Says that a key is left where it is."""
        self.remarks.append(
            f"{host} ({where}) wants a client certificate, and keys are not copied:"
            f" put it into {CERTIFICATES}/{host} as x.cert and x.key"
        )


def read(tree: Tree, roots: list[str]) -> Iterator[tuple[str, Found]]:
    """Each registry by the first folder that is its own."""
    seen: set[str] = set()
    for root in roots:
        # Of host_5000_ and host:5000, containerd looks for the first.
        for folder in sorted(tree.names(root), key=lambda name: not name.endswith("_")):
            name = re.sub(r"_(\d+)_$", r":\1", folder)
            if name not in seen:
                seen.add(name)
                found = _folder(tree, f"{root}/{folder}", name)
                yield (EVERY if name == "_default" else name), found


def location(parts: SplitResult, api: str) -> str:
    """As registries.conf names a registry whose API is at `api`; empty where it can't."""
    host = host_of(parts)
    below = api.removeprefix("/v2").lstrip("/")
    if not reference.is_registry(host) or not (api == "/v2" or api.startswith("/v2/")):
        return ""
    if not below:
        return "docker.io" if host in HUB else host
    return f"{host}/{below}" if reference.is_path(below) else ""


def split(url: str) -> SplitResult:
    """The URL's parts, all empty where it is none."""
    try:
        return urlsplit(url if "://" in url else f"https://{url}")
    except ValueError:
        return _NOWHERE


def host_of(parts: SplitResult) -> str:
    """Host and port, without a user or password before them."""
    return parts.netloc.rpartition("@")[2]


def loads(text: str) -> Table:
    """TOML, or nothing."""
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return {}


def table(at: Table, *keys: str) -> Table:
    """The table at these keys, or an empty one."""
    for key in keys:
        value = at.get(key)
        at = value if isinstance(value, Mapping) else {}
    return at


def text(at: Table, key: str) -> str:
    """The text at a key, or none."""
    value = at.get(key)
    return value if isinstance(value, str) else ""


def texts(value: object) -> list[str]:
    """One text, or a list of them."""
    several = value if isinstance(value, list) else [value]
    return [one for one in several if isinstance(one, str)]


def _folder(tree: Tree, folder: str, name: str) -> Found:
    """Where there is no hosts.toml that can be read, containerd takes the certificates beside it."""
    document = loads(decode(tree.read(f"{folder}/hosts.toml") or b""))
    if not document:
        return _certificates_only(tree, folder, name)
    found = Found()
    for url in table(document, "host"):
        if endpoint := _endpoint(tree, folder, url, table(document, "host", url), found):
            found.mirrors.append(endpoint)
    if name != "_default" or text(document, "server"):
        found.server = _endpoint(tree, folder, text(document, "server") or name, document, found)
    return found


def _certificates_only(tree: Tree, folder: str, name: str) -> Found:
    found = Found()
    names = tree.names(folder)
    found.trust(tree, [f"{folder}/{one}" for one in names if one.endswith(".crt")], name)
    if any(one.endswith(".cert") for one in names):
        found.wants_key(folder, name)
    return found


def _endpoint(tree: Tree, folder: str, url: str, said: Table, found: Found) -> Endpoint | None:
    """What a hosts.toml says of one host; None, with a remark where that is a loss, if CRI-O can't use it."""
    capabilities = {one.lower() for one in texts(said.get("capabilities"))} or {"pull", "resolve"}
    if "pull" not in capabilities:
        return None
    parts = split(url)
    host = host_of(parts)
    path = re.sub(r"/+", "/", parts.path).rstrip("/")
    whole = said.get("override_path") is True or path.endswith("/v2")
    where = location(parts, path if whole else f"{path}/v2")
    if not where:
        found.remarks.append(f"{host} ({folder}) has its API at a path that CRI-O can't use: it goes without")
        return None
    if said.get("header"):
        found.remarks.append(f"{host} ({folder}) wants headers of its own, which CRI-O does not send")
    if said.get("client"):
        found.wants_key(folder, host)
    found.trust(tree, [one if one.startswith("/") else f"{folder}/{one}" for one in texts(said.get("ca"))], host)
    insecure = parts.scheme == "http" or said.get("skip_verify") is True
    return Endpoint(where, insecure, "resolve" not in capabilities)
