"""The images of the node's pods, brought into the other runtime's store before the move: carried over from
containerd's own store where it has them, pulled where it does not."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import tenacity

from installer import log
from installer.errors import CommandError, DeployError, PermanentError
from installer.facts import reference
from installer.facts.reference import Reference
from installer.host import Host
from installer.journal import STATE
from installer.switch import cri, shelf
from installer.switch.crio_store import CrioStore
from installer.switch.keyring import Keyring
from installer.switch.store import NAMESPACE, Store

ARCHIVE = f"{STATE}/image.tar"
_IMPORT_SECONDS = 1800
_AT_ONCE = 4
_FULL = ("no space left on device", "disk quota exceeded")
_UNREACHABLE = (
    *("no such host", "i/o timeout", "connection refused", "network is unreachable", "no route to host"),
    *("handshake timeout", "server misbehaving", "context deadline exceeded"),
)

Keys = Callable[[], Keyring]


@dataclass(frozen=True)
class Runtime:
    """A runtime's end of the work."""

    host: Host
    crictl: str
    endpoint: str


def in_use(runtime: Runtime) -> tuple[list[Reference], list[str]]:
    """The names of the images that living pods of this runtime have containers of, ended ones too; and the images
    among them that have no name any more."""
    said = cri.ask(runtime.host, runtime.crictl, runtime.endpoint, "images").get("images") or []
    names = {image["id"]: _asked_by(image) for image in said}
    by_name = {
        name: image["id"] for image in said for name in [*_words(image, "repoTags"), *_words(image, "repoDigests")]
    }
    found: dict[Reference, None] = {}
    nameless: dict[str, None] = {}
    for container in _containers(runtime):
        image, ref = container.get("image") or {}, container.get("imageRef", "")
        known = names.get(by_name.get(ref, ref), [])
        asked = reference.parse(image.get("userSpecifiedImage") or "") or reference.parse(image.get("image") or "")
        found |= dict.fromkeys([asked] if asked else known)
        if not asked and not known:
            nameless[ref] = None
    return list(found), list(nameless)


def present(runtime: Runtime) -> set[Reference]:
    """The names that a runtime has images by."""
    said = cri.ask(runtime.host, runtime.crictl, runtime.endpoint, "images").get("images") or []
    return {name for image in said for name in _names(image)}


def sweep(host: Host) -> None:
    """Takes away what a crash amid a carry left on the host."""
    host.remove(ARCHIVE)
    shelf.sweep(host)


class Source(Protocol):
    """Where images can be had on the node itself."""

    def has(self, name: Reference) -> bool:
        """Whether all of it is there."""

    def carry(self, names: Sequence[Reference], why: dict[Reference, str]) -> None:
        """Brings them to the other runtime; `why` keeps what failed. Raises DiskFullError."""


def bring(runtime: Runtime, wanted: Sequence[Reference], source: Source, keys: Keys) -> dict[Reference, str]:
    """Brings those images that the runtime lacks, from `source` or by pulling them; returns those that it lacks still,
    and why. Raises PermanentError where the disk gets full; what was brought is then taken away again."""
    before = present(runtime)
    missing = [name for name in wanted if name not in before]
    why: dict[Reference, str] = {}
    if not missing:
        return why
    with log.phase(f"bring {len(missing)} image{'s' if len(missing) > 1 else ''}"):
        try:
            carried = [name for name in missing if source.has(name)]
            if carried:
                source.carry(carried, why)
            if rest := [name for name in missing if name in why or name not in carried]:
                _pull_rest(runtime, rest, keys(), why)
        except DiskFullError as error:
            _take_away(runtime, missing, before)
            raise PermanentError(
                "the disk got full while images were brought to the other runtime; they were taken away again",
                where=runtime.endpoint,
                found=str(error),
                remedy="make room (crictl rmi --prune), then run it again",
            ) from None
        there = present(runtime)
    return {name: why.get(name, "it was pulled, but is not there") for name in missing if name not in there}


@dataclass(frozen=True)
class FromContainerd:
    """Images out of containerd's store, which CRI-O pulls as if from a registry."""

    runtime: Runtime
    store: Store

    def has(self, name: Reference) -> bool:
        """Whether all of it is there."""
        return bool(self.store.digest(name))

    def carry(self, names: Sequence[Reference], why: dict[Reference, str]) -> None:
        """Several at once: a name server that is slow to deny costs each its seconds."""
        to = self.runtime
        with shelf.offered(to.host, to.crictl, to.endpoint, self.store, names) as heeded:
            if heeded:
                _each(names, lambda name: _once_more(to, name, ""), why)
            else:
                why |= dict.fromkeys(names, "CRI-O did not take it from containerd's store")


@dataclass(frozen=True)
class FromCrio:
    """Images out of CRI-O's store, which containerd imports."""

    runtime: Runtime
    store: CrioStore

    def has(self, name: Reference) -> bool:
        """Whether it is there; what of it can be read shows only on the way."""
        return bool(self.store.size(name))

    def carry(self, names: Sequence[Reference], why: dict[Reference, str]) -> None:
        """One after the other: each needs room for its archive."""
        host = self.runtime.host
        for name in names:
            try:
                self.store.write(name, host.real(ARCHIVE))
                address = self.runtime.endpoint.removeprefix("unix://")
                argv = ("ctr", "--address", address, "--namespace", NAMESPACE, "images", "import", ARCHIVE)
                host.run(*argv, timeout=_IMPORT_SECONDS)
            except (DeployError, OSError, LookupError, ValueError) as error:
                why[name] = error.found if isinstance(error, DeployError) else str(error)
                if any(sign in why[name].lower() for sign in _FULL):
                    raise DiskFullError(why[name]) from None
            else:
                log.get().info(f"brought {name}")
            finally:
                host.remove(ARCHIVE)


class DiskFullError(Exception):
    """No image more can be brought."""


def _pull_rest(runtime: Runtime, names: Sequence[Reference], keyring: Keyring, why: dict[Reference, str]) -> None:
    """From registries and mirrors, as the runtime is configured. One that does not answer is asked once."""
    silent: dict[str, str] = {}

    def pull(name: Reference) -> None:
        if name.registry in silent:
            raise CommandError(["crictl"], 1, silent[name.registry], "")
        try:
            _pull_with_any(runtime, name, keyring.auths(name))
        except CommandError as error:
            if any(sign in error.found for sign in _UNREACHABLE):
                silent[name.registry] = error.found
            raise

    why |= dict.fromkeys(names, "")
    _each(names, pull, why)


def _pull_with_any(runtime: Runtime, name: Reference, auths: Sequence[str]) -> None:
    for auth in auths:
        try:
            _once_more(runtime, name, auth)
        except CommandError as error:
            log.get().info(f"a password does not open {name}", found=error.found[-200:])
        else:
            return
    _once_more(runtime, name, "")


def _once_more(runtime: Runtime, name: Reference, auth: str) -> None:
    """Pulls it, in two attempts. Raises CommandError, or DiskFullError."""
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_may_pass),
        wait=tenacity.wait_fixed(1),
        stop=tenacity.stop_after_attempt(2),
        reraise=True,
    )
    try:
        retrying(cri.pull, runtime.host, runtime.crictl, runtime.endpoint, str(name), auth)
    except CommandError as error:
        if any(sign in error.found for sign in _FULL):
            raise DiskFullError(f"{name}: {error.found}") from None
        raise


def _may_pass(error: BaseException) -> bool:
    signs = (*_FULL, *_UNREACHABLE)
    return isinstance(error, CommandError) and not any(sign in error.found for sign in signs)


def _each(names: Sequence[Reference], do: Callable[[Reference], None], why: dict[Reference, str]) -> None:
    """Several at once: a name server that is slow to deny costs each its seconds. `why` keeps what failed."""

    def one(name: Reference) -> None:
        try:
            do(name)
        except CommandError as error:
            why[name] = _said(error)
        else:
            why.pop(name, None)
            log.get().info(f"brought {name}")

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            list(pool.map(one, names))
        except DiskFullError:
            pool.shutdown(cancel_futures=True)
            raise


def _said(error: CommandError) -> str:
    """crictl says everything twice; its last sentence, in quotes, is the one for people."""
    quoted = re.findall(r'msg="((?:[^"\\]|\\.)*)"', error.found)
    return " ".join((quoted[-1].replace('\\"', '"') if quoted else error.found).split())[:500]


def _take_away(runtime: Runtime, names: Sequence[Reference], before: set[Reference]) -> None:
    """A full disk would have the kubelet evict pods."""
    ours = [str(name) for name in names if name in present(runtime) - before]
    if ours:
        cri.remove_images(runtime.host, runtime.crictl, runtime.endpoint, ours)


def _containers(runtime: Runtime) -> Iterator[Mapping[str, Any]]:
    """Every container, running or not, of a pod that has a sandbox up."""
    pods = cri.ask(runtime.host, runtime.crictl, runtime.endpoint, "pods").get("items") or []
    alive = {_uid(pod) for pod in pods if pod["state"] == "SANDBOX_READY"}
    for container in cri.ask(runtime.host, runtime.crictl, runtime.endpoint, "ps", "--all").get("containers") or []:
        if _uid(container) in alive:
            yield container


def _uid(labelled: Mapping[str, Any]) -> str:
    return str((labelled.get("labels") or {}).get("io.kubernetes.pod.uid", ""))


def _names(image: Mapping[str, Any]) -> list[Reference]:
    parsed = (reference.parse(name) for name in [*_words(image, "repoTags"), *_words(image, "repoDigests")])
    return [name for name in parsed if name]


def _asked_by(image: Mapping[str, Any]) -> list[Reference]:
    """The names that pods may ask for it by. Where it has tags, its digests come with them."""
    names = _names(image)
    return [name for name in names if name.tag] or names


def _words(image: Mapping[str, Any], key: str) -> list[str]:
    return list(image.get(key) or [])
