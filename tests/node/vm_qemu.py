"""The command that boots a machine's disk: qemu, with the hardware's help where that works."""

import subprocess
import tempfile
from pathlib import Path

from tests.components import cache
from tests.node import network, state
from tests.node.vm_disk import Image, image

_MIB = 2560
_PROBE_SECONDS = 10
_KVM, _EMULATED = "kvm", "tcg,thread=multi,tb-size=512"


def tap(index: int) -> str:
    """The name of the node's network device on the bridge."""
    return f"t{index}"


def attach(index: int) -> None:
    """Wires a machine to the nodes' bridge."""
    detach(index)
    inside = ("-n", network.namespace())
    network.ip(*inside, "tuntap", "add", "dev", tap(index), "mode", "tap")
    network.ip(*inside, "link", "set", tap(index), "master", "nodes", "up")
    network.ip(*inside, "route", "replace", network.pods(index), "via", network.address(index))


def detach(index: int) -> None:
    network.ip("-n", network.namespace(), "link", "del", tap(index), check=False)


def command(name: str, index: int, disk: Path) -> list[str]:
    """Inside the nodes' network; its output is the machine's serial console."""
    # what it ignores are the guest's flushes: this machine's own page cache outlives a killed qemu
    drive = f"file={disk},if=virtio,format=raw,cache=unsafe"
    wire = f"tap,id=wire,ifname={tap(index)},script=no,downscript=no"
    card = f"virtio-net-pci,netdev=wire,mac=52:54:00:4d:00:{index:02x},romfile="
    devices = ["-drive", drive, "-netdev", wire, "-device", card, "-device", "virtio-rng-pci"]
    into = ["ip", "netns", "exec", network.namespace(), "nice", "-n", "2"]
    return [*into, *_machine(accelerator(), image(), _BOOT), "-name", name, *devices]


_BOOT = "root=/dev/vda rw console=ttyS0 quiet mitigations=off net.ifnames=0 systemd.show_status=0 panic=1"


def _machine(accelerator: str, boots: Image, line: str) -> list[str]:
    kind = ["-machine", "q35", "-accel", accelerator, "-cpu", "max", "-smp", "2", "-m", str(_MIB)]
    quiet = ["-nodefaults", "-display", "none", "-serial", "stdio"]
    started = ["-kernel", str(boots.kernel), "-initrd", str(boots.initrd), "-append", line]
    return ["qemu-system-x86_64", *kind, *quiet, *started]


def accelerator() -> str:
    """The quickest that works here. That there is /dev/kvm proves nothing: a nested one may never get to the kernel."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    known = state.run_dir() / f"accelerator-{boot}"
    with cache.locked(state.run_dir() / "accelerator.lock"):
        if not known.exists():
            for old in state.run_dir().glob("accelerator-*"):
                old.unlink()
            known.write_text(_KVM if _kvm_boots() else _EMULATED)
    return known.read_text()


def is_quick() -> bool:
    """Whether machines run at about this one's own speed; else, at a tenth of it."""
    return accelerator() == _KVM


def _kvm_boots() -> bool:
    """Whether a kernel gets so far as to miss its disk, and gives up."""
    if not Path("/dev/kvm").exists():
        return False
    argv = [*_machine(_KVM, image(), "root=/dev/none console=ttyS0 panic=-1"), "-no-reboot"]
    with tempfile.TemporaryFile() as output:
        try:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=_PROBE_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return False
        output.seek(0)
        return done.returncode == 0 and b"Linux version" in output.read()
