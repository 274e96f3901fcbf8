"""The kubelet's move to another runtime, as data. `installer/switch` is what does it."""

import dataclasses
from typing import ClassVar

from installer.changes.base import Change, Record, Vault
from installer.changes.files import capture_file, unified
from installer.errors import PermanentError
from installer.facts import kubelet
from installer.facts.model import Facts
from installer.host import Host


@dataclasses.dataclass(frozen=True)
class SwitchRuntime(Change):
    """Points the kubelet at another runtime by one file, put in place in one rename.

    Endpoints are as the kubelet's flag has them (`unix:///run/crio/crio.sock`), units as systemd names them.
    """

    kind: ClassVar[str] = "switch"
    unit: str
    path: str
    content: str
    old_endpoint: str
    new_endpoint: str
    old_unit: str
    new_unit: str
    healthz: str
    mode: int = 0o644
    uid: int = 0
    gid: int = 0

    @property
    def key(self) -> str:
        return f"switch:{self.unit}"

    def describe(self) -> str:
        return (
            f"move {self.unit} from {self.old_unit} to {self.new_unit} by {self.path} (restarts every pod of the node)"
        )

    def satisfied(self, facts: Facts) -> str:
        now = facts.kubelet
        if (
            now
            and now.endpoint == self.new_endpoint
            and kubelet.flag(now.process, "container-runtime-endpoint") == self.new_endpoint
        ):
            return f"the kubelet runs on {self.new_endpoint}"
        return ""

    def diff(self, facts: Facts) -> str:
        now = facts.files.get(self.path)
        return unified(self.path, now.text if now else "", self.content)

    def capture(self, host: Host, vault: Vault) -> Record:
        return capture_file(host, vault, self.path)

    def verify(self, host: Host) -> None:
        """The running kubelet's own arguments name the new runtime. Raises PermanentError."""
        now = kubelet.gather(host)
        said = kubelet.flag(now.process, "container-runtime-endpoint") if now else None
        if said != self.new_endpoint:
            raise PermanentError(
                "the running kubelet does not name the new runtime",
                where=self.unit,
                found=str(said),
                remedy=f"see journalctl -u {self.unit} and /var/lib/sysbox-deploy/switch/log",
            )
