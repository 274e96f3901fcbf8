"""Sysbox as its releases package it: a stand-in that looks to a host as the real one does, and runs runc."""

import tempfile
from pathlib import Path

from tests.standins import deb

_SOURCES = deb.DATA / "sysbox/src"
_PROGRAMS = {
    "sysbox-mgr": ("sysbox-mgr.c", "subid.c", "standin.c"),
    "sysbox-fs": ("sysbox-fs.c", "standin.c"),
    "sysbox-runc": ("sysbox-runc.c", "standin.c"),
}
_FEATURES_SINCE = (0, 7, 0)
_DESCRIPTION = """stand-in for Sysbox, for tests
 Installs, starts, refuses and stops as Sysbox Community Edition does, as far as
 a host can tell. Its sysbox-runc hands over to runc. It isolates nothing, holds
 no code of Sysbox, and is for sysbox-deploy's tests only."""


def build_sysbox(out: Path, version: str = "0.6.7-0.linux") -> Path:
    """Builds sysbox-ce_VERSION_ARCH.deb in the folder `out`.

    As with the releases, the version in the file's name (0.6.7-0.linux) is not the package's (0.6.7.linux),
    and `sysbox-runc features` is there from 0.7.0 on.
    """
    number = version.partition("-")[0]
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary) / "tree"
        deb.lay("sysbox", tree)
        build_programs(tree / "usr/bin", number)
        control = _control(number)
        _lay_changelog(tree, control["Version"])
        name = f"sysbox-ce_{version}_{control['Architecture']}.deb"
        return deb.pack(tree, control, out / name, compression=("-Zxz",))


def build_programs(folder: Path, number: str) -> None:
    """Compiles the stand-ins for the programs of Sysbox `number`; static, so that they run on any node."""
    deb.folders(folder)
    defines = [f'-DVERSION="{number}"']
    if tuple(map(int, number.split("."))) >= _FEATURES_SINCE:
        defines.append("-DWITH_FEATURES")
    for program, sources in _PROGRAMS.items():
        files = [_SOURCES / source for source in sources]
        flags = ["-std=c11", "-Os", "-static", "-s", "-Wall", "-Wextra", "-Werror", *defines]
        deb.run(["gcc", *flags, "-o", folder / program, *files])
        (folder / program).chmod(0o755)


def _control(number: str) -> dict[str, str]:
    return {
        "Package": "sysbox-ce",
        "Version": f"{number}.linux",
        "Section": "admin",
        "Priority": "optional",
        "Architecture": deb.architecture(),
        "Maintainer": "sysbox-deploy's tests <root@localhost>",
        "Pre-Depends": "jq",
        "Depends": "debconf, jq, fuse, lsb-release, rsync, iptables",
        "Homepage": "https://github.com/nestybox/sysbox",
        "Description": _DESCRIPTION,
    }


def _lay_changelog(tree: Path, version: str) -> None:
    changelog = tree / "usr/share/doc/sysbox-ce/changelog"
    changelog.write_text(
        f"sysbox-ce ({version}) unstable; urgency=medium\n\n  * Stand-in for tests.\n\n"
        " -- sysbox-deploy's tests <root@localhost>  Wed, 01 Jan 2025 00:00:00 +0000\n"
    )
    deb.squeeze(changelog)
