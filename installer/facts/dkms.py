"""Sources of a kernel module as a folder carries them for DKMS: read as data, never run by us.

DKMS sources dkms.conf as root. So only plain assignments of harmless directives pass: no hook that would do to the
host what nobody takes back, no command but make.
"""

import re
from pathlib import Path

from installer.errors import RefusedError
from installer.facts.model import ModuleSources
from installer.settings import variable

CONF = "dkms.conf"
_SOURCES = re.compile(r"dkms\.conf|Makefile|Kbuild|[\w-]+\.[ch]")
_VARIABLE = r"\$\{?(?:kernelver|kernel_source_dir)\b\}?"
_ASSIGNMENT = re.compile(
    r"(?P<name>[A-Z_]+)(?:\[(?P<index>\d+)\])?="
    rf"(?:\"(?P<double>(?:[^\"`$\\]|\\[^\"`$\\]|{_VARIABLE})*)\"|'(?P<single>[^']*)'|(?P<bare>[\w./:+-]*))\s*"
)
_COMMAND = re.compile(rf"make(?: (?:[\w./:=+-]|{_VARIABLE})+)*")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+~_-]{0,63}")
_DIRECTIVES = frozenset(
    (
        *("PACKAGE_NAME", "PACKAGE_VERSION", "BUILT_MODULE_NAME", "DEST_MODULE_LOCATION", "MAKE", "CLEAN"),
        *("BUILD_EXCLUSIVE_KERNEL", "AUTOINSTALL", "STRIP"),
    )
)
# shiftfs-dkms leaves its version open in dkms.conf, for its Makefile to put in from that file.
_OPEN, _VERSION_FILE = "#MODULE_VERSION#", "version.txt"
_FILE_BYTES = 1 << 20


def sources(folder: str, name: str) -> ModuleSources | None:
    """The sources of module `name` in a folder of our container; None where it is not there. Raises RefusedError."""
    home = Path(folder)
    if not home.is_dir():
        return None
    files = {p.name: _text(p) for p in sorted(home.iterdir()) if _SOURCES.fullmatch(p.name)}
    where = f"{folder}/{CONF}"
    if CONF not in files or len(files) < 2:
        raise _refused("a module's sources are not whole", folder, ", ".join(files) or "nothing to build from")
    if _OPEN in files[CONF] and (home / _VERSION_FILE).exists():
        files[CONF] = files[CONF].replace(_OPEN, _text(home / _VERSION_FILE).strip())
    has = parse(files[CONF], where)
    _check(has, name, where)
    return ModuleSources(name, has["PACKAGE_VERSION"], has.get("BUILD_EXCLUSIVE_KERNEL", ""), files)


def parse(text: str, where: str) -> dict[str, str]:
    """The directives of a dkms.conf, an index other than 0 kept. Raises RefusedError at any other line."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _ASSIGNMENT.fullmatch(line)
        if match is None:
            raise _refused("it has more than plain assignments", f"{where}, line {number}", ascii(line))
        if match["name"] not in _DIRECTIVES:
            raise _refused("it has a directive that is not for us", f"{where}, line {number}", match["name"])
        index = f"[{match['index']}]" if int(match["index"] or 0) else ""
        found[match["name"] + index] = match["double"] or match["single"] or match["bare"] or ""
    return found


def _check(has: dict[str, str], name: str, where: str) -> None:
    for key, wanted in (
        ("PACKAGE_NAME", re.escape(name)),
        ("PACKAGE_VERSION", _VERSION.pattern),
        ("BUILT_MODULE_NAME", f"(?:{re.escape(name)})?"),
        ("MAKE", f"(?:{_COMMAND.pattern})?"),
        ("CLEAN", f"(?:{_COMMAND.pattern})?"),
    ):
        if not re.fullmatch(wanted, has.get(key, "")):
            raise _refused("a directive is not as expected", where, f"{key}={has.get(key, '')!a}")
    if several := [key for key in has if key.endswith("]")]:
        raise _refused("it makes more than one module", where, ", ".join(several))
    try:
        re.compile(has.get("BUILD_EXCLUSIVE_KERNEL", ""))
    except re.error as error:
        raise _refused("its pattern of kernels can't be read", where, str(error)) from error


def _text(path: Path) -> str:
    if path.is_symlink() or not path.is_file() or path.stat().st_size > _FILE_BYTES:
        raise _refused("a source is not a plain file of reasonable size", str(path), "a link, a folder, or over 1 MiB")
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise _refused("a source can't be read as text", str(path), str(error)) from error


def _refused(what: str, where: str, found: str) -> RefusedError:
    remedy = f"carry the folder of shiftfs-dkms as its branch has it, or set {variable('shiftfs')}=off"
    return RefusedError(what, where=where, found=found, remedy=remedy)
