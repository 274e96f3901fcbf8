"""What the operator asked for: every variable, its default and its meaning, in one table."""

import dataclasses
import os
import re
from collections.abc import Callable
from typing import Any, cast, get_type_hints
from urllib.parse import urlsplit

from environs import Env, EnvValidationError, ValidationError

from installer.errors import SettingsError

PREFIX = "SYSBOX_DEPLOY_"
_UPSTREAM = ("NODE_NAME", "SYSBOX_MGR_CONFIG", "SYSBOX_FS_CONFIG", "SYSBOX_TAINT")


def _check(pattern: str, wanted: str) -> Callable[[str], None]:
    def check(value: str) -> None:
        if value and not re.fullmatch(pattern, value):
            raise ValidationError(f"{value!r} is not {wanted}")

    return check


def _location(value: str) -> None:
    wanted = "an absolute path, or an http, https or file URL, without white space"
    # A file URL has its path after one slash or three; what has a host is no path on this one.
    _check(r"(/|file:/(//)?(?!/)|https?://[^/])\S*", wanted)(value)
    try:
        urlsplit(value)
    except ValueError as error:
        raise ValidationError(f"{value!r} is not {wanted}: {error}") from None


def _positive(value: int) -> None:
    if not 1 <= value < 2**32:
        raise ValidationError(f"{value} is not from 1 to {2**32 - 1}")


def _words(value: str) -> None:
    if re.search(r"[\x00-\x1f\x7f]", value):
        raise ValidationError("control characters are not allowed")


def _suite(value: str) -> None:
    if not re.fullmatch(r"[\w./:+-]+( [\w./:+-]+)*", value):
        raise ValidationError(f"{value!r} is not a suite, with its components if it has some")


def _one_of(*choices: str) -> Callable[[str], None]:
    def check(value: str) -> None:
        if value not in choices:
            raise ValidationError(f"{value!r} is not one of {', '.join(choices)}")

    return check


def _field(default: Any, meaning: str, check: Callable[[Any], None] | None = None) -> Any:
    return dataclasses.field(default=default, metadata={"meaning": meaning, "check": check})


@dataclasses.dataclass(frozen=True)
class Settings:
    """The operator's settings, validated. The name of a field in capitals is its variable's."""

    node_name: str = _field(
        "",
        "name of this node's object; empty: work on the host alone, talk to no API",
        _check(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", "a node's name"),
    )
    sysbox_mgr_config: str = _field("", "flags for sysbox-mgr, as `--log-level debug`", _words)
    sysbox_fs_config: str = _field("", "flags for sysbox-fs", _words)
    sysbox_taint: str = _field(
        "sysbox-runtime=not-running:NoSchedule",
        "taint while Sysbox is not ready; empty: none",
        _check(r"[^\s=:]+(=[^\s=:]*)?:(NoSchedule|PreferNoSchedule|NoExecute)", "a taint, as key=value:NoSchedule"),
    )
    allow: tuple[str, ...] = _field(
        (), "names of findings that shall warn instead of refuse, separated by commas (see `preflight`)"
    )
    allow_control_plane: bool = _field(False, "prepare control-plane nodes too")
    host_init: int = _field(1, "PID of the init whose machine is prepared", _positive)
    log_level: str = _field("info", "`info`, or `debug` to see every command on the host", _one_of("info", "debug"))
    log_format: str = _field("text", "`text` or `json`", _one_of("text", "json"))
    kubernetes_timeout: int = _field(300, "seconds to wait for an API server that does not answer", _positive)
    subid_count: int = _field(268435456, "subordinate ids for user `containers`: 65536 a pod", _positive)
    crio_repository: str = _field(
        "",
        "apt repository of CRI-O, `{minor}` standing for the kubelet's minor; empty: the one in support.toml",
        _location,
    )
    crio_repository_suite: str = _field(
        "/",
        "its suite and components, as `bookworm main`; `/` for a flat one",
        _suite,
    )
    crio_repository_key: str = _field("", "its public key, path or URL; empty: `Release.key` in it", _location)
    crio_key_fingerprint: str = _field(
        "",
        "fingerprint that every key in it must have; several separated by commas; empty: the one in support.toml",
        _check(r"[0-9A-Fa-f ,]+", "hexadecimal"),
    )
    crio_drop_ins: str = _field(
        "",
        "directory (of this container) whose *.conf become drop-ins of CRI-O",
        _check(r"/.*", "an absolute path"),
    )
    pids_limit: int = _field(16384, "CRI-O's pids_limit: processes of a container", _positive)
    sysbox_package: str = _field(
        "",
        "the Sysbox release's .deb: path in this container, or URL; empty: /opt/sysbox-deploy/artifacts/sysbox-ce.deb",
        _location,
    )
    sysbox_sha256: str = _field(
        "",
        "its SHA-256; mandatory for profile sysbox",
        _check(r"[0-9a-f]{64}", "a SHA-256 in lower-case hex"),
    )
    shiftfs: str = _field("auto", "`auto`: where the kernel wants it; `off`: never", _one_of("auto", "off"))
    shiftfs_sources: str = _field(
        "/opt/sysbox-deploy/shiftfs", "directory with the sources of shiftfs, a folder a kernel branch"
    )
    pod_stop_timeout: int = _field(
        10, "seconds that pods get to end when the kubelet moves, before they are killed", _positive
    )
    health_timeout: int = _field(
        120, "seconds in which the moved kubelet must be healthy, else it moves back", _positive
    )
    settle: int = _field(
        30, "seconds on end that kubelet and runtime must then be healthy before the move counts as good", _positive
    )
    confirm_timeout: int = _field(
        600, "seconds in which our pod must confirm the move, else the node moves back", _positive
    )
    retry: str = _field(
        "", "any text; a move of the kubelet that failed is tried again when this, another setting or we change", _words
    )
    switch_requires_all_images: bool = _field(
        False, "refuse to move while an image of the node's pods is not in the new runtime's store"
    )
    drain: bool = _field(False, "evict the node's pods through the API before the kubelet moves")
    drain_timeout: int = _field(300, "seconds for that", _positive)
    drain_deadline: str = _field(
        "fail", "what happens when it is over: `fail` or `continue`", _one_of("fail", "continue")
    )

    @classmethod
    def load(cls) -> "Settings":
        """Settings from the environment. Raises SettingsError that lists every problem."""
        known = {variable(f.name) for f in dataclasses.fields(cls)}
        unknown = [name for name in os.environ if name.startswith(PREFIX) and name not in known]
        problems = {name: ["no such setting"] for name in unknown}
        env = Env(eager=False)
        types = get_type_hints(cls)
        values = {f.name: _value(env, f, types[f.name]) for f in dataclasses.fields(cls)}
        try:
            env.seal()
        except EnvValidationError as error:
            problems.update({k: list(v) for k, v in cast(dict[str, list[str]], error.error_messages).items()})
        if problems:
            raise SettingsError(
                f"{len(problems)} setting{'s are' if len(problems) > 1 else ' is'} not valid",
                where="the environment (ConfigMap sysbox-deploy)",
                found="; ".join(f"{name}: {' '.join(why)}" for name, why in sorted(problems.items())),
                remedy="correct them; the README has the table of settings",
            )
        return cls(**values)

    @property
    def fingerprints(self) -> frozenset[str]:
        """The allowed key fingerprints, upper-case, without spaces."""
        return frozenset(x.replace(" ", "").upper() for x in self.crio_key_fingerprint.split(",") if x.strip())


def variable(field: str) -> str:
    """The environment variable of a field."""
    name = field.upper()
    return name if name in _UPSTREAM else PREFIX + name


def table() -> str:
    """The README's table of settings, in Markdown."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for field in dataclasses.fields(Settings):
        shown = _shown(field.default)
        rows.append(f"| `{variable(field.name)}` | {f'`{shown}`' if shown else ''} | {field.metadata['meaning']} |")
    return "\n".join(rows)


def _shown(default: Any) -> str:
    if isinstance(default, tuple):
        return ",".join(default)
    return str(default).lower() if isinstance(default, bool) else str(default)


def _value(env: Env, field: "dataclasses.Field[Any]", kind: Any) -> Any:
    check = field.metadata["check"]
    name, default = variable(field.name), cast(Any, field.default)
    if kind is bool:
        return env.bool(name, default)
    if kind is int:
        return env.int(name, default, validate=check)
    if kind is str:
        return env.str(name, default, validate=check)
    return tuple(env.list(name, [], subcast=str))
