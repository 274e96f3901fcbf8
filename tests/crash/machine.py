"""What of the simulated host is not on its disk: what systemd, the kernel and the API server have in memory."""

import copy
import dataclasses
import hashlib
import json
from typing import Any

Job = list[list[str]]
"""What a host's own process has left to do, first word the name of the act."""


@dataclasses.dataclass
class Machine:
    """Plain data, so that it can be kept, compared and brought back.

    `active` are the running units; `loaded` what systemd has read of a unit's files; `told` is the kubelet's
    command line, `crio` the texts of the configuration that the running CRI-O has read; `containers` run in a
    runtime; `jobs` go on whatever becomes of us, by unit; `timers` are seconds until a unit's timer fires;
    `failed` are units that did not start; `node` is the Node object as the API server has it.
    """

    active: list[str] = dataclasses.field(default_factory=list)
    loaded: dict[str, list[list[str]]] = dataclasses.field(default_factory=dict)
    told: list[str] = dataclasses.field(default_factory=list)
    crio: list[str] = dataclasses.field(default_factory=list)
    containers: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    jobs: dict[str, Job] = dataclasses.field(default_factory=dict)
    timers: dict[str, float] = dataclasses.field(default_factory=dict)
    failed: list[str] = dataclasses.field(default_factory=list)
    node: dict[str, Any] = dataclasses.field(default_factory=dict)

    def copy(self) -> "Machine":
        """One of its own."""
        return copy.deepcopy(self)

    def facts(self) -> dict[str, Any]:
        """What tells one machine from another: not how long a timer has to go, nor what only people read."""
        said: dict[str, Any] = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        said["active"] = sorted(self.active)
        said["timers"] = sorted(self.timers)
        said["loaded"] = hashlib.blake2b(json.dumps(self.loaded, sort_keys=True).encode()).hexdigest()
        said["containers"] = {unit: names for unit, names in self.containers.items() if names}
        said["node"] = self.bare_node()
        return said

    def bare_node(self) -> dict[str, Any]:
        """The node as far as the program heeds it."""
        return _bare(self.node)

    def key(self) -> str:
        """The same as one word."""
        return json.dumps(self.facts(), sort_keys=True)


def _bare(node: dict[str, Any]) -> dict[str, Any]:
    """The node without its version, and without times and messages: those are written, never read by us."""
    metadata = {k: v for k, v in node.get("metadata", {}).items() if k != "resourceVersion"}
    conditions = [{k: c[k] for k in ("type", "status", "reason")} for c in node.get("status", {}).get("conditions", ())]
    return {**node, "metadata": metadata, "status": {**node.get("status", {}), "conditions": conditions}}
