"""The simulated kernel: modules and settings as files, and what a boot makes of them."""

from installer.host import Result
from tests.crash import systemd
from tests.crash.machine import Machine
from tests.crash.tree import VOLATILE
from tests.crash.world import World

RELEASE = "6.1.0-30-amd64"
MODULES = ("overlay", "br_netfilter", "configfs")
_BRIDGE = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables")
SETTINGS = {
    "net/ipv4/ip_forward": "0",
    "vm/max_map_count": "65530",
    "fs/inotify/max_queued_events": "16384",
    "fs/inotify/max_user_watches": "8192",
    "fs/inotify/max_user_instances": "128",
    "kernel/keys/maxkeys": "200",
    "kernel/keys/maxbytes": "20000",
    "kernel/pid_max": "32768",
    "kernel/osrelease": RELEASE,
}


def modprobe(world: World, argv: tuple[str, ...]) -> Result:
    """modprobe NAME."""
    name = argv[-1]
    if name not in MODULES:
        return Result(1, "", f"modprobe: FATAL: Module {name} not found\n")
    _load(world, name)
    return Result(0, "", "")


def rmmod(world: World, argv: tuple[str, ...]) -> Result:
    """rmmod NAME."""
    name = argv[-1]
    if name == "overlay" and "crio.service" in world.machine.active:
        return Result(1, "", "rmmod: ERROR: Module overlay is in use\n")
    with world.whole(f"unload {name}"):
        if name == "br_netfilter":
            for path in (*reversed(world.below("/proc/sys/net/bridge")), "/proc/sys/net/bridge"):
                world.remove(path)
        world.remove(f"/sys/module/{name}")
    return Result(0, "", "")


def _load(world: World, name: str) -> None:
    if f"/sys/module/{name}" in world.disk.image:
        return
    with world.whole(f"load {name}"):
        world.make_folders(f"/sys/module/{name}")
        if name == "br_netfilter":
            for setting in _BRIDGE:
                world.put(f"/proc/sys/net/bridge/{setting}", "1\n")


def sysctl(world: World, argv: tuple[str, ...]) -> Result:
    """sysctl --write NAME=VALUE."""
    name, _, value = argv[-1].partition("=")
    path = "/proc/sys/" + name.replace(".", "/")
    if path not in world.disk.image:
        return Result(255, "", f"sysctl: cannot stat {path}: No such file or directory\n")
    world.put(path, f"{value}\n")
    return Result(0, "", "")


def boot(world: World) -> None:
    """Power comes back: nothing is left in memory, and what starts by itself starts."""
    node = world.machine.node
    world.machine = Machine(node=node)
    for path in [p for p in sorted(world.disk.image, reverse=True) if p.startswith(VOLATILE)]:
        world.remove(path)
    lay(world)
    for name in _lines(world, "modules-load.d"):
        if name in MODULES:
            _load(world, name)
    for line in _lines(world, "sysctl.d"):
        name, _, value = line.partition("=")
        path = "/proc/sys/" + name.strip().replace(".", "/")
        if path in world.disk.image:
            world.put(path, f"{value.strip()}\n")
    systemd.boot(world)
    world.finish()
    world.disk.synced_all()


def lay(world: World) -> None:
    """The kernel's own files as a boot makes them."""
    for name, value in SETTINGS.items():
        world.put(f"/proc/sys/{name}", f"{value}\n")
    world.put("/proc/filesystems", "nodev\tproc\n\text4\n")
    world.put("/proc/swaps", "Filename Type Size Used Priority\n")
    world.make_folders("/sys/module/configfs")
    world.make_folders("/run/systemd/system")


def _lines(world: World, folder: str) -> list[str]:
    files: dict[str, str] = {}
    for at in (f"/etc/{folder}", f"/usr/lib/{folder}"):
        for name in world.names(at):
            files.setdefault(name, f"{at}/{name}")
    texts = [world.text(files[name]) for name in sorted(files) if name.endswith(".conf")]
    return [line.strip() for text in texts for line in text.splitlines() if line.strip() and line[0] not in "#;"]
