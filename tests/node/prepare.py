"""What this machine itself must have before nodes and clusters can run on it."""

import os
import shutil
import subprocess

# package -> a program or file that proves it is there, looked for first because it costs nothing
_NEEDED = {
    "systemd-container": "systemd-nspawn",
    "mmdebstrap": "mmdebstrap",
    "etcd-server": "etcd",
    "iptables": "iptables",
    "iproute2": "ip",
    "util-linux": "nsenter",
    "uidmap": "newuidmap",
    "openssl": "openssl",
    "buildah": "buildah",
    "busybox-static": "",
    "gcc": "gcc",
    "libc6-dev": "/usr/include/stdio.h",
    "libseccomp-dev": "/usr/include/seccomp.h",
    "pkg-config": "pkg-config",
    "dpkg-dev": "dpkg-buildpackage",
    "apt-utils": "apt-ftparchive",
    "gnupg": "gpg",
    "shellcheck": "shellcheck",
}
_EMULATOR = {
    "qemu-system-x86": "qemu-system-x86_64",
    "openssh-client": "ssh",
    "e2fsprogs": "mke2fs",
}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Unprepared(RuntimeError):
    """This machine can't run disposable nodes; the text says why and what to do."""


def missing(emulator: bool = False) -> list[str]:
    """The Debian packages that this machine lacks."""
    needed = {**_NEEDED, **(_EMULATOR if emulator else {})}
    return [package for package, proof in needed.items() if not _is_there(package, proof)]


def _is_there(package: str, proof: str) -> bool:
    if proof.startswith("/"):
        return os.path.exists(proof)
    if proof:
        return shutil.which(proof, path=_PATH) is not None
    asked = subprocess.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Status}", package],
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout == "installed"


def machine(emulator: bool = False) -> None:
    """Install what is missing with apt. Quick, and silent, when nothing is. Emulated machines need more."""
    if os.geteuid() != 0:
        raise Unprepared("disposable nodes need root: they boot systemd in containers (try again with sudo)")
    packages = missing(emulator)
    if not packages:
        return
    print(f"prepare: installing {' '.join(packages)}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"]
    for argv in (["apt-get", "update", "-q"], [*install, *packages]):
        done = subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise Unprepared(f"`{' '.join(argv)}` failed ({done.returncode}); its output above says why")
    if still := missing(emulator):
        raise Unprepared(f"installed, but still not found: {' '.join(still)}")


if __name__ == "__main__":
    machine()
    print("prepare: all is there")
