"""CRI-O: its version, and what the running one says of itself (it serves that over HTTP on its CRI socket)."""

import tomllib
from collections.abc import Mapping

from installer.errors import DeployError
from installer.facts.model import Crio
from installer.host import Host, decode

SOCKET = "/run/crio/crio.sock"
ENDPOINT = f"unix://{SOCKET}"


def gather(host: Host, commands: frozenset[str]) -> Crio:
    """CRI-O on the host; empty where there is none."""
    if "crio" not in commands:
        return Crio()
    said = host.run("crio", "--version", check=False).out
    return Crio(parse_version(said), "crio", effective(host) or {})


def parse_version(text: str) -> str:
    """The version in `crio --version`'s answer: the line `Version: 1.34.0`, or `crio version 1.34.0`."""
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["Version:"] and len(words) == 2:
            return words[1]
    words = text.split()
    return words[2] if words[:2] == ["crio", "version"] and len(words) > 2 else ""


def effective(host: Host) -> Mapping[str, object] | None:
    """The configuration that the running CRI-O uses; None where none answers."""
    try:
        return tomllib.loads(decode(host.http_get(SOCKET, "/config")))
    except DeployError:
        return None
    except tomllib.TOMLDecodeError:
        return {}


def value(config: Mapping[str, object], dotted: str) -> object:
    """The value at a dotted key, None where there is none."""
    at: object = config
    for part in dotted.split("."):
        if not isinstance(at, Mapping) or part not in at:
            return None
        at = at[part]
    return at
