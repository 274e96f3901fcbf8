"""The kubelet's configuration file with its drop-ins, and what it and the flags say together.

kubeadm's `/var/lib/kubelet/instance-config.yaml` is not among them: no kubelet reads it. It is a patch that
kubeadm itself applies when it writes `config.yaml`, so what it says counts when it has arrived there.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

import yaml

from installer.errors import RefusedError
from installer.facts.environment import occurrences
from installer.host import Tree, decode

Config = Mapping[str, object]
_GATE = "KubeletCgroupDriverFromCRI"


def flag(argv: Sequence[str], name: str) -> str | None:
    """The value of a flag that takes one, as Go's pflag reads it: both forms, the last wins; None where it is not."""
    found = [each for each in occurrences(argv, name) if each.last < len(argv)]
    return argv[found[-1].last][found[-1].offset :] if found else None


def at_least(version: str, minor: int) -> bool:
    """Whether the version (`v1.34.0`) is 1.`minor` or later; one that can't be read counts as the latest."""
    match = re.match(r"v?(\d+)\.(\d+)", version)
    return match is None or (int(match[1]), int(match[2])) >= (1, minor)


def load(tree: Tree, argv: Sequence[str]) -> dict[str, object]:
    """The configuration that the arguments name. Raises RefusedError where the kubelet could not read it."""
    config: dict[str, object] = {}
    if path := flag(argv, "config"):
        content = tree.read(_absolute(path))
        if content is None:
            raise RefusedError(
                "the kubelet's configuration file is missing", where=path, remedy="join the node to its cluster first"
            )
        config = parse(content, path)
    if folder := flag(argv, "config-dir"):
        for path in _drop_ins(tree, _absolute(folder)):
            config = merged(config, parse(tree.read(path) or b"", path))
    return config


def _absolute(path: str) -> str:
    return path if path.startswith("/") else f"/{path}"  # systemd starts services in /


def _drop_ins(tree: Tree, folder: str) -> Iterator[str]:
    for name in tree.names(folder):
        path = f"{folder}/{name}"
        state = tree.state(path)
        if state and state.kind == "dir":
            yield from _drop_ins(tree, path)
        elif name.endswith(".conf"):
            yield path


def parse(content: bytes, path: str) -> dict[str, object]:
    """One file. Raises RefusedError, naming file and line."""
    remedy = "make it a KubeletConfiguration in YAML; the kubelet cannot start with it as it is"
    try:
        found = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else path
        said = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RefusedError("the kubelet's configuration is not YAML", where=where, found=said, remedy=remedy) from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        said = decode(content[:200]).strip()
        raise RefusedError(
            "the kubelet's configuration is not a mapping", where=f"{path}, line 1", found=said, remedy=remedy
        )
    return found


def merged(base: Config, patch: Config) -> dict[str, object]:
    """JSON merge patch (RFC 7386), as the kubelet merges its drop-ins."""
    made = dict(base)
    for key, value in patch.items():
        if value is None:
            made.pop(key, None)
        elif isinstance(value, Mapping):
            old = made.get(key)
            made[key] = merged(old if isinstance(old, Mapping) else {}, value)
        else:
            made[key] = value
    return made


def text(config: Config, key: str) -> str:
    """A setting that is text; empty where it is not there."""
    value = config.get(key)
    return value if isinstance(value, str) else ""


def cgroup_driver(argv: Sequence[str], config: Config, version: str, said: str = "") -> str:
    """The driver that the kubelet uses: `said` by its runtime if it asks that and gets an answer, else its own."""
    if said and _asks_runtime(argv, config, version):
        return said
    return flag(argv, "cgroup-driver") or text(config, "cgroupDriver") or "cgroupfs"


def _asks_runtime(argv: Sequence[str], config: Config, version: str) -> bool:
    if at_least(version, 34):
        return True
    if not at_least(version, 28):
        return False
    gates = {k: str(v) for k, v in _mapping(config.get("featureGates")).items()}
    for pair in (flag(argv, "feature-gates") or "").split(","):
        name, _, value = pair.partition("=")
        gates[name.strip()] = value.strip()
    return gates.get(_GATE, str(at_least(version, 31))).lower() in ("true", "t", "1")


def _mapping(value: object) -> Config:
    return value if isinstance(value, Mapping) else {}


def healthz(argv: Sequence[str], config: Config) -> str:
    """Where its health can be asked from the node, as `127.0.0.1:10248`; empty where that is off."""
    port = flag(argv, "healthz-port") or str(config.get("healthzPort", 10248))
    address = flag(argv, "healthz-bind-address") or text(config, "healthzBindAddress") or "127.0.0.1"
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104 — nothing listens here
    if not port.isdigit() or int(port) == 0:
        return ""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
