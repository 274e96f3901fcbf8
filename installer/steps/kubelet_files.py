"""The smallest change of the kubelet's files that points it at another runtime: one file, proven beforehand.

Proven means: what systemd would start is computed again from the changed file, and is the same command line but
for the flags that were to change. Files that kubeadm generates are never touched.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from installer.errors import RefusedError
from installer.facts import kubelet as facts
from installer.facts.environment import occurrences, set_flag
from installer.facts.kubelet import Start, flag
from installer.facts.kubelet_config import text
from installer.facts.model import Kubelet
from installer.host import decode, encode

OWN = "99-sysbox-deploy.conf"
_ENDPOINT, _IMAGES, _CGROUPS = "container-runtime-endpoint", "image-service-endpoint", "runtime-cgroups"
_OPERATORS = ("/etc/default/", "/etc/sysconfig/")
_VARIABLES = ("KUBELET_EXTRA_ARGS", "KUBELET_OPTS")
_RUNTIME_UNITS = ("containerd.service", "crio.service", "docker.service")


class Target(NamedTuple):
    """What the kubelet shall be pointed at."""

    endpoint: str
    cgroups: str


class Edit(NamedTuple):
    """A file's new content, and its old (None: there is no file)."""

    path: str
    new: bytes
    old: bytes | None


def point_at(kubelet: Kubelet, endpoint: str, cgroups: str) -> Edit | None:
    """The one file to change so that the kubelet uses `endpoint` (`unix:///…`); None where it does already.

    `cgroups` is the new runtime's, for --runtime-cgroups where that names another runtime's unit now. Raises
    RefusedError, with the reason and a remedy, where no one file can be proven to do it.
    """
    if kubelet.flavour:
        raise RefusedError(
            kubelet.flavour, where=kubelet.unit, remedy="use a kubelet laid out as kubeadm's packages do"
        )
    now = facts.start(kubelet.unit_files, kubelet.environment_files, kubelet.unit)
    target = Target(endpoint, cgroups)
    if _own_path(kubelet) in dict(kubelet.unit_files):
        return _renewed(kubelet, now, target)
    wanted = _wanted(kubelet, now.argv, target)
    if not wanted:
        return None
    return _first_proven([*_operator_edits(kubelet, now, wanted), _drop_in(kubelet, wanted)], kubelet, now, target)


def _renewed(kubelet: Kubelet, now: Start, target: Target) -> Edit | None:
    """Our drop-in restates the unit's command, so it follows where that has changed, by an upgrade say."""
    before = facts.with_file(kubelet, _own_path(kubelet), None)
    ours = {_ENDPOINT: target.endpoint, **_wanted(kubelet, before.argv, target)}
    if not _wanted(kubelet, now.argv, target) and _without(now.argv, ours) == _without(before.argv, ours):
        return None
    return _first_proven([_drop_in(kubelet, ours)], kubelet, before, target)


def _wanted(kubelet: Kubelet, argv: Sequence[str], target: Target) -> dict[str, str]:
    """The flags that have to change, with their new values."""
    wanted = {}
    endpoint, cgroups = target
    if not facts.same_endpoint(facts.endpoint(argv, kubelet.config, kubelet.version), endpoint):
        wanted[_ENDPOINT] = endpoint
    images = flag(argv, _IMAGES) or text(kubelet.config, "imageServiceEndpoint")
    if images and not facts.same_endpoint(images, endpoint):
        wanted[_IMAGES] = endpoint
    unit = (flag(argv, _CGROUPS) or "").rpartition("/")[2]
    if unit in _RUNTIME_UNITS and not cgroups.endswith(f"/{unit}"):
        wanted[_CGROUPS] = cgroups
    return wanted


def _operator_edits(kubelet: Kubelet, now: Start, wanted: Mapping[str, str]) -> Iterator[Edit]:
    """Edits of the operator's own environment files: where the flag stands now, else the variables from the last."""
    standing = _variable_of(now, next(iter(wanted)))
    for variable in dict.fromkeys([*filter(None, [standing]), *_variables(now)]):
        path = _file_of(kubelet, now, variable)
        if not path.startswith(_OPERATORS):
            continue
        old = kubelet.environment_files.get(path)
        content = decode(old or b"")
        try:
            for name, value in wanted.items():
                content = set_flag(content, _own_variable(now, name, path) or variable, name, value, path)
        except RefusedError:  # the drop-in needs nothing of this file
            continue
        yield Edit(path, encode(content), old)


def _variables(now: Start) -> list[str]:
    """The variables that stand in the command as words of their own and are the operator's to set, last first."""
    names = [word[1:] for word in now.command.argv if word.startswith("$") and not word.startswith(("$$", "${"))]
    return [n for n in reversed(names) if n in _VARIABLES or now.sources.get(n, "").startswith(_OPERATORS)]


def _variable_of(now: Start, name: str) -> str:
    """The variable that the flag's effective occurrence came from; empty where none."""
    found = list(occurrences(now.argv, name))
    return now.arguments[found[-1].first].variable if found else ""


def _own_variable(now: Start, name: str, path: str) -> str:
    variable = _variable_of(now, name)
    return variable if now.sources.get(variable) == path else ""


def _file_of(kubelet: Kubelet, now: Start, variable: str) -> str:
    """The file that sets the variable, or could: the last of the operator's that is there, or may be."""
    if variable in now.sources:
        return now.sources[variable]
    operators = [path for path in reversed(now.files) if path.startswith(_OPERATORS)]
    there = [path for path in operators if kubelet.environment_files.get(path) is not None]
    return next(iter([*there, *operators]), "")


def _own_path(kubelet: Kubelet) -> str:
    return f"/etc/systemd/system/{kubelet.unit}.d/{OWN}"


def _drop_in(kubelet: Kubelet, wanted: Mapping[str, str]) -> Edit:
    path = _own_path(kubelet)
    command = facts.with_file(kubelet, path, None).command.line
    flags = " ".join(f"--{name}={value}" for name, value in wanted.items())
    content = (
        "# By sysbox-deploy: the unit's own command line, and which runtime the kubelet uses.\n"
        f"[Service]\nExecStart=\nExecStart={command} {flags}\n"
    )
    old = dict(kubelet.unit_files).get(path)
    return Edit(path, encode(content), None if old is None else encode(old))


def _first_proven(edits: Sequence[Edit], kubelet: Kubelet, before: Start, target: Target) -> Edit:
    wanted = _wanted(kubelet, before.argv, target)
    for edit in edits:
        if _proven(kubelet, before, edit, target):
            return edit
    setting = [path for path, content in kubelet.unit_files if "ExecStart" in content]
    flags = " ".join(f"--{name}={value}" for name, value in wanted.items())
    raise RefusedError(
        "no change of one file would surely make the kubelet use the runtime", where=(setting or [kubelet.unit])[-1],
        found=" ".join(kubelet.arguments),
        remedy=f"give it a name that sorts before {OWN}, or a plain command line that {flags} can be added to",
    )  # fmt: skip


def _proven(kubelet: Kubelet, before: Start, edit: Edit, target: Target) -> bool:
    """Whether systemd would start the same command line, but for the flags that were to change, and those right."""
    try:
        after = facts.with_file(kubelet, edit.path, edit.new).argv
    except RefusedError:
        return False
    ours = {_ENDPOINT: target.endpoint, **_wanted(kubelet, before.argv, target)}
    settled = not _wanted(kubelet, after, target)
    return settled and _without(after, ours) == _without(before.argv, ours)


def _without(argv: Sequence[str], names: Mapping[str, str]) -> list[str]:
    gone = {i for name in names for each in occurrences(argv, name) for i in range(each.first, each.last + 1)}
    return [word for i, word in enumerate(argv) if i not in gone]
