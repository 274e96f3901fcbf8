"""What comes from outside: the operator's drop-ins, a repository's key, an artifact; each verified before use."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import tenacity

from installer.errors import RefusedError, SettingsError, TemporaryError
from installer.facts import debian, openpgp
from installer.facts.model import Artifact
from installer.host import Host, decode, fetched

CACHE = Path("/var/tmp/sysbox-deploy")  # noqa: S108 — a folder of our own container's, content checked by digest
_RETRY = tenacity.retry(
    retry=tenacity.retry_if_exception_type(TemporaryError),
    wait=tenacity.wait_exponential(min=1, max=20),
    stop=tenacity.stop_after_attempt(5),
    reraise=True,
)


def drop_ins(folder: str) -> dict[str, str]:
    """The operator's *.conf files, by name. Raises SettingsError where the folder is not there."""
    if not folder:
        return {}
    if not Path(folder).is_dir():
        raise SettingsError(
            "the folder of CRI-O's drop-ins is not there",
            where=folder,
            remedy="mount it into the pod, or clear the setting",
        )
    return {p.name: decode(p.read_bytes()) for p in sorted(Path(folder).glob("*.conf")) if p.is_file()}


@_RETRY
def key(host: Host, location: str, allowed: Iterable[str]) -> str:
    """A repository's public key, every key of it among the allowed fingerprints. Raises RefusedError."""
    data = b"".join(_bytes(host, location))
    check_key(data, location, allowed)
    # apt's own reader of armored keys stumbles over CRLF.
    return decode(data).replace("\r\n", "\n") if data.startswith(b"-----BEGIN") else decode(data)


def check_key(data: bytes, location: str, allowed: Iterable[str]) -> None:
    """Raises RefusedError unless every key in the file has an allowed fingerprint."""
    found = openpgp.fingerprints(data, where=location)
    wrong = [fingerprint for fingerprint in found if fingerprint not in set(allowed)]
    if wrong or not found:
        raise RefusedError(
            "the repository's key is not the expected one",
            where=location,
            found=", ".join(wrong) or "no key",
            remedy="set SYSBOX_DEPLOY_CRIO_KEY_FINGERPRINT to the fingerprint that its publisher names",
        )


def artifact(host: Host, location: str, sha256: str) -> Artifact:
    """A .deb, fetched into our container, its digest checked. Raises RefusedError."""
    path = CACHE / sha256
    if not path.is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        _save(host, location, path.with_suffix(".part"))
        debian.verify(path.with_suffix(".part"), sha256)
        path.with_suffix(".part").rename(path)
    return debian.listing(path, sha256)


def staged(path: Path) -> Iterator[bytes]:
    """The bytes of a fetched artifact."""
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            yield chunk


@_RETRY
def _save(host: Host, location: str, path: Path) -> None:
    with path.open("wb") as file:
        for chunk in _bytes(host, location):
            file.write(chunk)


def _bytes(host: Host, location: str) -> Iterator[bytes]:
    """A file: URL is on the host, as apt has it; a plain path is in our container."""
    if location.startswith("/"):
        yield _local(Path(location))
    elif location.startswith("file:"):
        data = host.read("/" + location.removeprefix("file:").lstrip("/"))
        if data is None:
            raise RefusedError("there is no such file on the host", where=location, remedy="correct the setting")
        yield data
    else:
        yield from _remote(location)


def _local(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RefusedError(
            "a file that a setting names can't be read",
            where=str(path),
            found=error.strerror or "",
            remedy="correct the setting",
        ) from None


def _remote(url: str) -> Iterator[bytes]:
    try:
        yield from fetched(url)
    except OSError as error:
        raise TemporaryError(
            "a download failed",
            where=url,
            found=str(error),
            remedy="is the address right, and reachable from this node?",
        ) from error


__all__ = ["CACHE", "artifact", "check_key", "drop_ins", "key", "staged"]
