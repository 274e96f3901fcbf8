"""systemd's units as they are now."""

from installer.facts.model import Unit
from installer.host import Host


def look(host: Host, unit: str) -> Unit:
    """The unit as systemd has it now."""
    return look_all(host, (unit,))[unit]


def look_all(host: Host, units: tuple[str, ...]) -> dict[str, Unit]:
    """Several units by one command."""
    wanted = "Id,Names,LoadState,UnitFileState,ActiveState,MainPID,FragmentPath,DropInPaths,RequiredBy"
    said = host.run("systemctl", "show", f"--property={wanted}", "--", *units).out
    found = {}
    for name, block in zip(units, said.strip("\n").split("\n\n"), strict=True):
        has = dict(line.partition("=")[::2] for line in block.splitlines())
        found[name] = Unit(
            has.get("LoadState", ""),
            has.get("UnitFileState", ""),
            has.get("ActiveState", ""),
            int(has.get("MainPID") or 0),
            has.get("FragmentPath", ""),
            tuple(has.get("DropInPaths", "").split()),
            tuple(has.get("RequiredBy", "").split()),
        )
    return found
