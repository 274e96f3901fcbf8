"""apt and dpkg: what is installed stands in dpkg's status, and each package's life has the halves that dpkg's has."""

import fnmatch
import json
from dataclasses import dataclass, field

from installer.host import Result
from tests.crash import systemd
from tests.crash.machine import Job
from tests.crash.world import World

STATUS = "/var/lib/dpkg/status"
UPDATES = "/var/lib/dpkg/updates/0000"
LISTS = "/var/lib/apt/lists/ours"
_SOURCES = "/etc/apt/sources.list.d"
_INTERRUPTED = "E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct the problem.\n"
_CRIO_UNIT = """\
[Unit]
Description=CRI-O
[Service]
ExecStart=/usr/bin/crio
[Install]
WantedBy=multi-user.target
Alias=cri-o.service
"""
_RSYNC_UNIT = (
    "[Unit]\nDescription=rsync\n[Service]\nExecStart=/usr/bin/rsync --daemon\n[Install]\nWantedBy=multi-user.target\n"
)


@dataclass(frozen=True)
class Package:
    """A package of the repositories; `ours` are to be had only from the one that the program adds."""

    version: str
    files: dict[str, str]
    needs: tuple[str, ...] = ()
    conffiles: dict[str, str] = field(default_factory=dict)
    unit: str = ""
    ours: bool = False


_CRIO_FILES = {
    "/usr/bin/crio": "crio",
    "/usr/lib/systemd/system/crio.service": _CRIO_UNIT,
    "/etc/crio/crio.conf.d/10-crio.conf": '[crio.runtime]\ndefault_runtime = "crun"\n',
}
_CRIO_CONFFILES = {
    "/etc/crictl.yaml": "runtime-endpoint: unix:///run/crio/crio.sock\n",
    "/etc/cni/net.d/10-crio-bridge.conflist.disabled": "{}\n",
}
PACKAGES = {
    "libpopt0": Package("1.19", {"/usr/lib/libpopt.so.0": "popt"}),
    "rsync": Package(
        "3.2.7", {"/usr/bin/rsync": "rsync", "/usr/lib/systemd/system/rsync.service": _RSYNC_UNIT}, ("libpopt0",),
        unit="rsync.service",
    ),
    "libfuse3-3": Package("3.14", {"/usr/lib/libfuse3.so.3": "fuse3"}),
    "fuse3": Package(
        "3.14", {"/usr/bin/fusermount3": "fusermount3", "/usr/bin/fusermount": "fusermount3"}, ("libfuse3-3",),
        {"/etc/fuse.conf": "# fuse\n"},
    ),
    "libxtables12": Package("1.8.9", {"/usr/lib/libxtables.so.12": "xtables"}),
    "iptables": Package("1.8.9", {"/usr/sbin/iptables": "iptables"}, ("libxtables12",)),
    "conmon": Package("2.1.6", {"/usr/bin/conmon": "conmon"}),
    "cri-o": Package("1.34.0-1.1", _CRIO_FILES, ("conmon",), _CRIO_CONFFILES, "crio.service", ours=True),
}  # fmt: skip
BASE = {"dpkg": "1.21", "apt": "2.6", "systemd": "252", "containerd": "1.6.20"}

Database = dict[str, dict[str, str | bool]]


def database(world: World) -> Database:
    """dpkg's own: version, state in dpkg's words, whether apt brought it along."""
    found: Database = json.loads(world.text(STATUS))
    return found


def _record(world: World, name: str, version: str, state: str, *, auto: bool) -> None:
    every = database(world)
    if state == "not-installed":
        every.pop(name, None)
    else:
        every[name] = {"version": version, "state": state, "auto": auto}
    world.put(STATUS, json.dumps(every, sort_keys=True), synced=True)


def query(world: World, argv: tuple[str, ...]) -> Result:
    """dpkg-query, in the one format that the program asks for."""
    rows = []
    for name, about in sorted(database(world).items()):
        state = str(about["state"])
        flag = "reinstreq" if state == "half-installed" else "ok"
        rows.append("\t".join([name, "amd64", str(about["version"]), state, flag]) + "\n")
    return Result(0, "".join(rows), "")


def madison(world: World, argv: tuple[str, ...]) -> Result:
    """apt-cache madison."""
    name = argv[-1]
    if not _offered(world, name):
        return Result(0, "", f"N: Unable to locate package {name}\n")
    return Result(0, f"{name} | {PACKAGES[name].version} | file:/srv Packages\n", "")


def _offered(world: World, name: str) -> bool:
    return name in PACKAGES and (not PACKAGES[name].ours or LISTS in world.disk.image)


def simulated(world: World, argv: tuple[str, ...]) -> Result:
    """apt-get --simulate purge."""
    names = [w for w in argv[argv.index("purge") + 1 :] if not w.startswith("-")]
    if UPDATES in world.disk.image:
        return Result(0, "", "")  # what an interrupted run left is not seen before dpkg has taken it up
    return Result(0, "".join(f"Purg {n} [1]\n" for n in _with_dependents(world, names)), "")


def _with_dependents(world: World, names: list[str]) -> list[str]:
    """Those that need them go first."""
    going = list(names)
    for name in names:
        for other in database(world):
            if name in getattr(PACKAGES.get(other), "needs", ()) and other not in going:
                going.append(other)
    return sorted(going, key=lambda n: not getattr(PACKAGES.get(n), "needs", ()))


def planned(world: World, argv: tuple[str, ...]) -> tuple[Result, Job]:
    """What apt or dpkg answers, and what it does until then."""
    words = _plain(argv)
    if words[:2] == ["apt-get", "update"]:
        return Result(0, "", ""), [["dpkg-lists"]]
    if argv[:3] == ("dpkg", "--configure", "-a"):
        late = [n for n, a in database(world).items() if a["state"] in ("unpacked", "half-configured")]
        return Result(0, "", ""), [*(["dpkg-configure", n] for n in late), ["dpkg-end"]]
    if UPDATES in world.disk.image:
        return Result(100, "", _INTERRUPTED), []
    if words[:2] == ["apt-get", "install"]:
        return _install(world, words[-1], _excluded(argv))
    assert words[:2] == ["apt-get", "purge"], f"the model does not know {argv}"
    going = [n for n in _with_dependents(world, words[2:]) if n in database(world)]
    bad = [n for n in going if database(world)[n]["state"] == "half-installed"]
    if bad and "Dpkg::Options::=--force-remove-reinstreq" not in argv:
        return Result(100, "", f"dpkg: error processing package {bad[0]}: very bad inconsistent state\n"), []
    return Result(0, "", ""), [["dpkg-begin"], *(["dpkg-purge", n] for n in going), ["dpkg-end"]]


def _plain(argv: tuple[str, ...]) -> list[str]:
    """The words that are no options."""
    words: list[str] = []
    skip = False
    for word in argv:
        if skip or word.startswith("-"):
            skip = word == "-o"
            continue
        words.append(word)
    return words


def _excluded(argv: tuple[str, ...]) -> str:
    return " ".join(w.partition("--path-exclude=")[2] for w in argv if "--path-exclude=" in w)


def _install(world: World, wanted: str, excluded: str) -> tuple[Result, Job]:
    name, _, version = wanted.partition("=")
    if not _offered(world, name) or not fnmatch.fnmatch(PACKAGES[name].version, version or "*"):
        return Result(100, "", f"E: Unable to locate package {wanted}\n"), []
    whole = [n for n, a in database(world).items() if a["state"] == "installed"]
    new = [n for n in (*PACKAGES[name].needs, name) if n not in whole]
    unpack = [["dpkg-unpack", n, "" if n == name else "auto", excluded] for n in new]
    return Result(0, "", ""), [["dpkg-begin"], *unpack, *(["dpkg-configure", n] for n in new), ["dpkg-end"]]


def act(world: World, word: str, rest: list[str]) -> None:
    """One of dpkg's acts."""
    match word:
        case "dpkg-lists":
            if any("sysbox-deploy" in name for name in world.names(_SOURCES)):
                world.put(LISTS, "cri-o\n")
            else:
                world.remove(LISTS)
        case "dpkg-begin":
            world.put(UPDATES, "", synced=True)
        case "dpkg-end":
            world.remove(UPDATES, synced=True)
        case "dpkg-unpack":
            _unpack(world, rest[0], auto=bool(rest[1]), excluded=rest[2].split())
        case "dpkg-configure":
            _configure(world, rest[0])
        case "dpkg-purge":
            _purge(world, rest[0])


def _unpack(world: World, name: str, *, auto: bool, excluded: list[str]) -> None:
    package = PACKAGES[name]
    _record(world, name, package.version, "half-installed", auto=auto)
    with world.whole(f"unpack {name}"):
        for path, text in {**package.files, **package.conffiles}.items():
            if not any(fnmatch.fnmatch(path, pattern) for pattern in excluded):
                world.put(path, text, 0o755 if "/bin/" in path else 0o644, synced=True)
    _record(world, name, package.version, "unpacked", auto=auto)


def _configure(world: World, name: str) -> None:
    package, about = PACKAGES[name], database(world)[name]
    _record(world, name, package.version, "half-configured", auto=bool(about["auto"]))
    if package.unit:
        systemd.enable(world, package.unit)
    _record(world, name, package.version, "installed", auto=bool(about["auto"]))


def _purge(world: World, name: str) -> None:
    package = PACKAGES[name]
    about = database(world).get(name)
    if about is None:
        return
    if package.unit:
        systemd.stop(world, package.unit)
        systemd.disable(world, package.unit)
    _record(world, name, package.version, "half-installed", auto=bool(about["auto"]))
    with world.whole(f"remove {name}"):
        for path in package.files:
            world.remove(path, synced=True)
    _record(world, name, package.version, "config-files", auto=bool(about["auto"]))
    with world.whole(f"purge {name}"):
        for path in package.conffiles:
            world.remove(path, synced=True)
        for folder in ("/etc/crio/crio.conf.d", "/etc/crio"):
            if name == "cri-o" and not world.names(folder):
                world.remove(folder, synced=True)
    _record(world, name, package.version, "not-installed", auto=False)
    systemd.reload(world)
