"""The command that boots a node's disk: systemd-nspawn, with what makes it a machine to a kubelet."""

import os
import shlex
from pathlib import Path

from tests.node.disk import Disk

_DEVICES = ("/dev/kmsg", "/dev/fuse")


def command(name: str, namespace: str, disk: Disk, cgroups: list[Path]) -> list[str]:
    """Into the control groups, into a mount namespace of its own, and then it becomes nspawn."""
    enter = "\n".join(f"echo $$ >{shlex.quote(str(group))}/cgroup.procs" for group in cgroups)
    inner = f"set -e\n{disk.mount_script()}\nexec {shlex.join(_nspawn(name, namespace, disk))}"
    # the kubelet and the runtimes write to /proc/sys and /sys, which nspawn makes read-only otherwise
    outer = (
        f"set -e\n{enter}\nexport SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes\n"
        f"exec unshare --mount --propagation private sh -c {shlex.quote(inner)}"
    )
    return ["sh", "-c", outer]


def _nspawn(name: str, namespace: str, disk: Disk) -> list[str]:
    nice = ["nice", "-n", "2", "systemd-nspawn", "--quiet", f"--directory={disk.root}"]
    # there is no machined to register with, nor a systemd that would make a unit
    identity = [f"--machine={name}", f"--hostname={name}", "--register=no", "--keep-unit"]
    powers = ["--capability=all", "--system-call-filter=@known", "--kill-signal=SIGRTMIN+3"]
    devices = [f"--bind={device}" for device in _DEVICES if os.path.exists(device)]
    files = ["--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=pipe"]
    wire = [f"--network-namespace-path=/run/netns/{namespace}"]
    return [*nice, *identity, *powers, *devices, *files, *wire, "--", "/usr/local/lib/node/init"]
