"""The kubelet: what systemd would start, what runs, and which runtime that means."""

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from installer.errors import RefusedError
from installer.facts import environment, kubelet_config, systemd
from installer.facts.kubelet_config import Config, at_least, flag
from installer.facts.model import Kubelet
from installer.facts.systemd import Argument, Command
from installer.host import Host, Tree, decode

UnitFiles = Sequence[tuple[str, str]]
EnvironmentFiles = Mapping[str, bytes | None]
UNIT = "kubelet.service"
_CONTAINERD = "unix:///run/containerd/containerd.sock"
_DOCKERSHIM = "unix:///var/run/dockershim.sock"
_RUNTIMES = {"containerd.sock": "containerd", "crio.sock": "crio", "cri-dockerd.sock": "cri-dockerd"}
_BINARY = re.compile(r"kubelet[-.\dv]*")
_SHOWN = "LoadState,FragmentPath,DropInPaths,MainPID,NeedDaemonReload"
# systemd.unit(5): a drop-in in an earlier directory hides one of the same name in a later one.
_UNIT_FOLDERS = (
    *("/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/transient"),
    *("/run/systemd/generator.early", "/etc/systemd/system", "/etc/systemd/system.attached", "/run/systemd/system"),
    *("/run/systemd/system.attached", "/run/systemd/generator", "/usr/local/lib/systemd/system"),
    *("/lib/systemd/system", "/usr/lib/systemd/system", "/run/systemd/generator.late"),
)

__all__ = ["effective", "endpoint", "endpoint_with", "flag", "gather", "runtime_of", "same_endpoint", "start"]


@dataclass(frozen=True)
class Start:
    """What systemd would start: the command, its final words, which file sets each variable (empty: the unit),
    and the environment files in order, those that are missing too."""

    command: Command
    arguments: tuple[Argument, ...]
    sources: Mapping[str, str]
    files: tuple[str, ...]

    @property
    def argv(self) -> tuple[str, ...]:
        """The words alone."""
        return tuple(argument.text for argument in self.arguments)


def start(unit_files: UnitFiles, environment_files: EnvironmentFiles, unit: str = UNIT) -> Start:
    """What systemd would start from these files. Raises RefusedError where it could not."""
    service = systemd.service((text for _, text in unit_files), unit)
    if len(service.commands) != 1:
        raise RefusedError(
            "the kubelet's unit has no single command", where=", ".join(path for path, _ in unit_files),
            found=f"{len(service.commands)} commands in ExecStart=",
            remedy="a drop-in that sets ExecStart= must reset it with an empty one first",
        )  # fmt: skip
    values, sources = dict(service.environment), dict.fromkeys(dict(service.environment), "")
    files: list[str] = []
    for path, found in _environments(service.environment_files, environment_files):
        files.append(path)
        values.update(found)
        sources.update(dict.fromkeys(found, path))
    for name, equals, value in (entry.partition("=") for entry in service.unset):
        if not equals or values.get(name) == value:
            values.pop(name, None)
    command = service.commands[0]
    return Start(command, systemd.expand(command, values), sources, tuple(files))


def effective(unit_files: UnitFiles, environment_files: EnvironmentFiles, unit: str = UNIT) -> tuple[str, ...]:
    """The arguments, binary first, that systemd would start. Raises RefusedError where it could not."""
    return start(unit_files, environment_files, unit).argv


def _environments(names: Sequence[str], contents: EnvironmentFiles) -> Iterator[tuple[str, dict[str, str]]]:
    for name in names:
        pattern, optional = name.removeprefix("-"), name.startswith("-")
        paths = sorted(p for p in contents if _matches(p, pattern)) if _is_glob(pattern) else [pattern]
        if not paths and not optional:
            raise _unreadable(pattern, "is missing")
        for path in paths:
            content = contents.get(path)
            found = environment.values(decode(content), path) if content is not None else None
            if found is None and not optional:
                raise _unreadable(path, "is missing" if content is None else "holds bytes that are not UTF-8 text")
            yield path, found or {}


def _unreadable(path: str, why: str) -> RefusedError:
    return RefusedError(
        "the kubelet could not start: its environment file can't be read", where=path, found=f"it {why}",
        remedy="put the file right, or take its EnvironmentFile= out of the unit",
    )  # fmt: skip


def _is_glob(pattern: str) -> bool:
    return any(char in pattern for char in "*?[")


def _matches(path: str, pattern: str) -> bool:
    parts, patterns = path.split("/"), pattern.split("/")
    return len(parts) == len(patterns) and all(
        fnmatch.fnmatchcase(part, glob) and part.startswith(".") <= glob.startswith(".")
        for part, glob in zip(parts, patterns, strict=True)
    )


def endpoint(argv: Sequence[str], config: Config, version: str) -> str:
    """The runtime's endpoint: the flag's, else the configuration's (1.27 on), else that version's default."""
    said = flag(argv, "container-runtime-endpoint")
    if said is not None:
        return said
    if at_least(version, 27) and (configured := kubelet_config.text(config, "containerRuntimeEndpoint")):
        return configured
    return _CONTAINERD if at_least(version, 24) else _DOCKERSHIM


def same_endpoint(one: str, other: str) -> bool:
    """Whether both name the same socket: /var/run is /run, and the scheme may be left out."""
    return _socket(one) == _socket(other)


def _socket(endpoint: str) -> str:
    path = endpoint.removeprefix("unix://")
    return path.removeprefix("/var") if path.startswith("/var/run/") else path


def runtime_of(endpoint: str, argv: Sequence[str], version: str) -> str:
    """containerd, crio, dockershim or cri-dockerd; of a socket by another name, the endpoint itself."""
    if not at_least(version, 24) and flag(argv, "container-runtime") != "remote":
        return "dockershim"
    name = endpoint.rpartition("/")[2]
    if name == "dockershim.sock":  # cri-dockerd took the socket's name over at first
        return "cri-dockerd" if at_least(version, 24) else "dockershim"
    return _RUNTIMES.get(name, endpoint)


def with_file(kubelet: Kubelet, path: str, content: bytes | None) -> Start:
    """What systemd would start if the file held `content` (None: were gone). Raises RefusedError."""
    units, environments = dict(kubelet.unit_files), dict(kubelet.environment_files)
    if path in units or path.startswith(f"/etc/systemd/system/{kubelet.unit}.d/"):
        units[path] = decode(content or b"")
    else:
        environments[path] = content
    fragment, *drop_ins = units.items()
    drop_ins.sort(key=lambda item: item[0].rpartition("/")[2])
    return start([fragment, *drop_ins], environments, kubelet.unit)


def endpoint_with(kubelet: Kubelet, path: str, content: bytes | None) -> str:
    """The endpoint that the flag would name if the file held `content` (None: were gone); empty without the flag."""
    return flag(with_file(kubelet, path, content).argv, "container-runtime-endpoint") or ""


def gather(host: Host, drivers: Mapping[str, str] | None = None) -> Kubelet | None:
    """The host's kubelet; None where it has no such unit. Raises RefusedError where its files could not start one.

    `drivers` is the cgroup driver that a runtime, by the name `runtime_of` gives it, says of itself.
    """
    said = host.run("systemctl", "show", f"--property={_SHOWN}", "--", UNIT).out
    shown = dict(line.partition("=")[::2] for line in said.splitlines())
    if shown.get("LoadState") == "not-found":
        return None
    if shown.get("LoadState") != "loaded":
        return Kubelet(flavour=f"systemd does not load {UNIT}: it is {shown.get('LoadState') or 'unknown'}")
    unit_files = tuple((path, decode(host.read(path) or b"")) for path in _unit_paths(host, shown))
    environments = dict(_read_environments(host, unit_files))
    argv = effective(unit_files, environments)
    if not _BINARY.fullmatch(argv[0].rpartition("/")[2]):
        return Kubelet(
            unit_files=unit_files, environment_files=environments, arguments=argv,
            flavour=f"{UNIT} starts {argv[0]}, not a kubelet, so its flags can't be seen",
        )  # fmt: skip
    return _kubelet(host, unit_files, environments, argv, int(shown.get("MainPID") or 0), drivers or {})


def _kubelet(
    host: Host,
    unit_files: tuple[tuple[str, str], ...],
    environments: EnvironmentFiles,
    argv: tuple[str, ...],
    pid: int,
    drivers: Mapping[str, str],
) -> Kubelet:
    version = parse_version(host.run(argv[0], "--version", check=False).out)
    config = kubelet_config.load(host, argv)
    at = endpoint(argv, config, version)
    return Kubelet(
        version=version,
        unit_files=unit_files,
        environment_files=environments,
        arguments=argv,
        process=_process(host, pid),
        config_path=flag(argv, "config") or "",
        config=config,
        endpoint=at,
        cgroup_driver=kubelet_config.cgroup_driver(
            argv, config, version, drivers.get(runtime_of(at, argv, version), "")
        ),
        pause_image=flag(argv, "pod-infra-container-image") or "",
        healthz=kubelet_config.healthz(argv, config),
    )


def parse_version(text: str) -> str:
    """The version in `kubelet --version`'s answer, `Kubernetes v1.34.0`."""
    words = text.split()
    return words[1] if words[:1] == ["Kubernetes"] and len(words) > 1 else ""


def _unit_paths(tree: Tree, shown: Mapping[str, str]) -> Iterator[str]:
    """The unit's files as the next daemon-reload will find them, in order."""
    yield shown.get("FragmentPath", "")
    if shown.get("NeedDaemonReload") != "yes":
        yield from shown.get("DropInPaths", "").split()
        return
    found: dict[str, str] = {}
    for folder in [f"{at}/{name}.d" for name in (UNIT, "service") for at in _UNIT_FOLDERS]:
        for name in tree.names(folder):
            if name.endswith(".conf"):
                found.setdefault(name, f"{folder}/{name}")
    yield from (found[name] for name in sorted(found))


def _read_environments(tree: Tree, unit_files: UnitFiles) -> Iterator[tuple[str, bytes | None]]:
    for name in systemd.service((text for _, text in unit_files), UNIT).environment_files:
        pattern = name.removeprefix("-")
        for path in _globbed(tree, pattern) if _is_glob(pattern) else [pattern]:
            yield path, tree.read(path)


def _globbed(tree: Tree, pattern: str) -> list[str]:
    found = [""]
    for part in pattern.split("/")[1:]:
        found = [
            f"{at}/{name}"
            for at in found
            for name in (tree.names(at or "/") if _is_glob(part) else [part])
            if _matches(name, part)
        ]
    return [path for path in found if tree.exists(path)]


def _process(tree: Tree, pid: int) -> tuple[str, ...]:
    """The running process's arguments; none where there is none."""
    try:
        content = (tree.read(f"/proc/{pid}/cmdline") if pid else None) or b""
    except ProcessLookupError:  # it ended while we looked
        content = b""
    return tuple(decode(content).split("\0")[:-1])
