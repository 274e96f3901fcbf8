"""Image names as containerd and CRI-O both understand them, in the one form that both list."""

import re
from dataclasses import dataclass

_TAG = r"\w[\w.-]{0,127}"
_DIGEST = r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-fA-F]{32,}"
_NAME = re.compile(rf"(?P<name>[^@\s]+?)(?::(?P<tag>{_TAG}))?(?:@(?P<digest>{_DIGEST}))?")
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")
_PATH = re.compile(r"[a-z0-9]+(?:(?:\.|__|_|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|__|_|-+)[a-z0-9]+)*)*")
_HUB, _HUB_ALIAS = "docker.io", "index.docker.io"


@dataclass(frozen=True, order=True)
class Reference:
    """An image's name: `registry` with its port, `path` in it, and one of `tag` and `digest`."""

    registry: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def repository(self) -> str:
        """As `docker.io/library/busybox`."""
        return f"{self.registry}/{self.path}"

    def __str__(self) -> str:
        return f"{self.repository}@{self.digest}" if self.digest else f"{self.repository}:{self.tag}"


def parse(text: str) -> Reference | None:
    """The name as runtimes complete it (docker.io, library/, latest); of tag and digest, the digest counts, as it does
    for them. None for what is no name, an image's id among it."""
    found = _NAME.fullmatch(text)
    if found is None or re.fullmatch(r"(sha256:)?[0-9a-f]{64}", text):
        return None
    registry, path = _split(found["name"])
    if not _DOMAIN.fullmatch(registry) or not _PATH.fullmatch(path):
        return None
    digest = found["digest"] or ""
    return Reference(registry, path, "" if digest else found["tag"] or "latest", digest)


def is_registry(text: str) -> bool:
    """Whether it can be a registry's name: a host, with its port where it has one."""
    return _DOMAIN.fullmatch(text) is not None


def is_path(text: str) -> bool:
    """Whether it can be the path of a repository."""
    return _PATH.fullmatch(text) is not None


def _split(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if not slash or not (re.search(r"[.:]", first) or first == "localhost" or first != first.lower()):
        first, rest = _HUB, name
    if first == _HUB_ALIAS:
        first = _HUB
    return first, f"library/{rest}" if first == _HUB and "/" not in rest else rest
