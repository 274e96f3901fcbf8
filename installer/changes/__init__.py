"""The closed set of kinds of change, and the way back from what the journal holds."""

from installer.changes.artifact import InstallFiles
from installer.changes.base import Change, InPlace, Record, Vault
from installer.changes.directories import DataDirectory
from installer.changes.dkms import BuildModule
from installer.changes.files import OwnLines, WriteFile
from installer.changes.kernel import LoadModule, SetSysctl
from installer.changes.packages import InstallPackage
from installer.changes.switch import SwitchRuntime
from installer.changes.units import ContainerRuntime, UnitState
from installer.errors import RefusedError

__all__ = [
    "BuildModule",
    "Change",
    "ContainerRuntime",
    "DataDirectory",
    "InPlace",
    "InstallFiles",
    "InstallPackage",
    "LoadModule",
    "OwnLines",
    "Record",
    "SetSysctl",
    "SwitchRuntime",
    "UnitState",
    "Vault",
    "WriteFile",
    "load",
]

_KINDS: dict[str, type[Change]] = {
    kind.kind: kind
    for kind in (
        *(BuildModule, ContainerRuntime, DataDirectory, InstallFiles, InstallPackage, LoadModule),
        *(OwnLines, SetSysctl, SwitchRuntime, UnitState, WriteFile),
    )
}


def load(data: Record) -> Change:
    """A change from its record. Raises RefusedError for a kind that only a newer version knows."""
    kind = _KINDS.get(data.get("kind", ""))
    if kind is None:
        raise RefusedError(
            "the journal holds a change of a kind that this version does not know",
            found=str(data.get("kind")),
            where="/var/lib/sysbox-deploy/journal",
            remedy="use the newer version of sysbox-deploy that wrote it",
        )
    return kind.from_dict(data)
