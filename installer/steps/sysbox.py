"""Sysbox: the release's files, its daemons with the operator's flags, its kernel settings and modules."""

import re

from installer.changes import DataDirectory, InstallFiles, LoadModule, SetSysctl, UnitState, WriteFile
from installer.errors import RefusedError, SettingsError
from installer.facts import systemd
from installer.facts.model import Artifact, Facts
from installer.settings import Settings, variable
from installer.steps.base import Nothing, Wanted

ARTIFACT = "sysbox"
_DATA = ("/var/lib/sysbox", "/var/lib/sysboxfs")
_DAEMONS = ("sysbox-mgr", "sysbox-fs")
_SOCKETS = ("/run/sysbox/sysmgr.sock", "/run/sysbox/sysfs.sock")
_MAIN = "sysbox.service"
# What Sysbox needs under Kubernetes beyond what its package asks for.
_MODULES_FILE = "/etc/modules-load.d/sysbox-deploy-sysbox.conf"
_MODULES = ("configfs",)
_SYSCTL_FILE = "/etc/sysctl.d/99-sysbox-deploy-sysbox.conf"
_SYSCTLS = {"vm.max_map_count": "262144"}
# dpkg's own folders of a package; nothing on the node needs them.
_SKIP = re.compile(r"/usr/share/(doc|lintian|bug)/")


def wanted(facts: Facts, settings: Settings) -> Wanted:
    """Files, settings of the kernel, then the services, main one last: it needs the other two."""
    artifact = facts.artifacts[ARTIFACT]
    for path in _DATA:
        yield DataDirectory(path)
    files = tuple((f.path, f.mode, f.sha256, f.target) for f in artifact.files if not _SKIP.match(f.path))
    texts = tuple(sorted((p, t) for p, t in artifact.texts.items() if not _SKIP.match(p)))
    # Settings before the files that name them: what a boot in between sets would not be known as ours.
    yield from _kernel(facts, artifact)
    yield InstallFiles(ARTIFACT, artifact.version, artifact.sha256, files, texts)
    yield from _kernel_files(facts)
    flags = {"sysbox-mgr": settings.sysbox_mgr_config, "sysbox-fs": settings.sysbox_fs_config}
    yield from _services(artifact, flags)


def _kernel(facts: Facts, artifact: Artifact) -> Wanted:
    for name in dict.fromkeys([*modules(artifact), *_extra(facts)]):
        if facts.modules[name].available:
            yield LoadModule(name)
        else:
            yield Nothing(f"this kernel has no module {name}; left alone")
    for name, value in {**sysctls(artifact), **_SYSCTLS}.items():
        yield _sysctl(facts, name, value)


def _kernel_files(facts: Facts) -> Wanted:
    if extra := _extra(facts):
        yield WriteFile(_MODULES_FILE, "".join(f"{name}\n" for name in extra))
    lines = [f"{name} = {_no_less(facts, name, value)}\n" for name, value in _SYSCTLS.items() if name in facts.sysctls]
    if lines:
        yield WriteFile(_SYSCTL_FILE, "".join(lines))


def _extra(facts: Facts) -> list[str]:
    return [name for name in _MODULES if facts.modules[name].available]


def _no_less(facts: Facts, name: str, value: str) -> str:
    """The value that the next boot shall set: one that is higher now is somebody's, and our file sorts late."""
    now = facts.sysctls[name].value
    return now if now.isdigit() and int(now) > int(value) else value


def _sysctl(facts: Facts, name: str, value: str) -> SetSysctl | Nothing:
    now = facts.sysctls.get(name)
    change = SetSysctl(name, value, at_least=True)
    if now is None:
        return Nothing(f"this kernel has no setting {name}; left alone")
    if not now.writable and not change.satisfied(facts):
        return Nothing(f"{name} is {now.value} and read-only here; left alone")
    return change


def _services(artifact: Artifact, flags: dict[str, str]) -> Wanted:
    watches = [f"artifact:{ARTIFACT}"]
    for daemon in _DAEMONS:
        path = f"/etc/systemd/system/{daemon}.service.d/50-sysbox-deploy.conf"
        yield WriteFile(path, drop_in(artifact, daemon, flags[daemon]))
        watches.append(f"file:{path}")
    # The daemons are bound to the main unit: it starts, stops and restarts them.
    needs = tuple(f"{daemon}.service" for daemon in _DAEMONS)
    yield UnitState(_MAIN, watches=tuple(watches), needs=needs, sockets=_SOCKETS)


def drop_in(artifact: Artifact, daemon: str, flags: str) -> str:
    """Sane bounds for a daemon's service, and the operator's flags after the release's own."""
    lines = ["[Service]", "TimeoutStartSec=60", "Restart=on-failure", "RestartSec=2"]
    if flags:
        unit = next((t for p, t in artifact.texts.items() if p.endswith(f"/{daemon}.service")), "")
        start = [value for _, key, value in systemd.assignments(unit) if key == "ExecStart" and value]
        lines += [
            "ExecStart=",
            f"ExecStart={start[-1] if start else f'/usr/bin/{daemon}'} {_verbatim(flags, daemon)}",
        ]
    return "\n".join(lines) + "\n"


def _verbatim(flags: str, daemon: str) -> str:
    """The flags so that systemd hands them on as written, but for quotes. Raises SettingsError where it would not."""
    line = flags.replace("%", "%%").replace("$", "$$")
    found = flags
    try:
        meant = [word.text for word in systemd.words(flags, systemd.Escapes.LENIENT)]
        commands = systemd.service([f"[Service]\nExecStart={daemon} {line}\n"], f"{daemon}.service").commands
        if [[word.text for word in systemd.expand(command, {})] for command in commands] == [[daemon, *meant]]:
            return line
    except (ValueError, RefusedError) as error:
        found = str(error)
    raise SettingsError(
        f"systemd would not hand on the flags for {daemon} as they are",
        where=variable(f"{daemon.replace('-', '_')}_config"),
        found=found,
        remedy="close the quotes, write a backslash twice, put a lone ; in quotes",
    )


def sysctls(artifact: Artifact) -> dict[str, str]:
    """The kernel settings that the release's sysctl.d files ask for."""
    found = {}
    for line in _lines(artifact, "sysctl.d"):
        name, _, value = line.partition("=")
        if value:
            found[name.strip().lstrip("-").replace("/", ".")] = " ".join(value.split())
    return found


def modules(artifact: Artifact) -> list[str]:
    """The modules that the release's modules-load.d files ask for."""
    return [line.strip() for line in _lines(artifact, "modules-load.d")]


def _lines(artifact: Artifact, folder: str) -> list[str]:
    texts = [text for path, text in sorted(artifact.texts.items()) if f"/{folder}/" in path]
    return [line for text in texts for line in text.splitlines() if line.strip() and line.strip()[0] not in "#;"]
