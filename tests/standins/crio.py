"""CRI-O as the package that pkgs.k8s.io's CRI-O repositories have, around programs built here."""

import tempfile
from pathlib import Path

from tests.standins import deb

# crun, conmonrs and crio-credential-provider can't be had here; these two are the distribution's
_LINKS = {"conmon": "/usr/bin/conmon", "runc": "/usr/sbin/runc"}
# the real package needs the first three; the other two are in it
_DEPENDS = ("iptables", "systemd-sysv", "systemd", "conmon", "runc")
# 10-crio.conf and policy.json are not among them in the real package either: they go when the package goes
_CONFFILES = (
    "/etc/containers/registries.conf.d/crio.conf",
    "/etc/crictl.yaml",
    "/etc/default/crio",
    "/etc/cni/net.d/10-crio-bridge.conflist.disabled",
)
_DESCRIPTION = """CRI-O, built for tests
 The container runtime for Kubernetes, built from upstream's module by Go for
 sysbox-deploy's tests, in a stand-in for the package of pkgs.k8s.io's CRI-O
 repositories. conmon and runc are the distribution's, and runc is the default."""


def build_crio(out: Path, crio: Path, pinns: Path, version: str) -> Path:
    """Builds cri-o_VERSION_ARCH.deb in the folder `out`; versions look like 1.34.0-1.1."""
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary) / "tree"
        deb.lay("crio", tree)
        _lay_programs(tree, crio, pinns)
        for page in tree.glob("usr/share/man/*/*"):
            deb.squeeze(page)
        deb.conffiles(tree, _CONFFILES)
        control = _control(version, [*_DEPENDS, *_shared_libraries(crio, Path(temporary))])
        name = f"cri-o_{version}_{control['Architecture']}.deb"
        # A hundred megabytes: xz would take a minute.
        return deb.pack(tree, control, out / name, compression=("-Zgzip", "-z1"))


def _lay_programs(tree: Path, crio: Path, pinns: Path) -> None:
    deb.put(crio, tree / "usr/bin/crio", 0o755)
    deb.put(pinns, tree / "usr/bin/pinns", 0o755)
    deb.folders(tree / "usr/libexec/crio")
    for name, target in _LINKS.items():
        (tree / "usr/libexec/crio" / name).symlink_to(target)
    deb.folders(tree / "var/lib/crio")


def _control(version: str, depends: list[str]) -> dict[str, str]:
    return {
        "Package": "cri-o",
        "Version": version,
        "Section": "admin",
        "Priority": "optional",
        "Architecture": deb.architecture(),
        "Maintainer": "sysbox-deploy's tests <root@localhost>",
        "Depends": ", ".join(depends),
        "Recommends": "kubernetes-cni",
        "Homepage": "https://github.com/cri-o/cri-o",
        "Description": _DESCRIPTION,
    }


def _shared_libraries(program: Path, scratch: Path) -> list[str]:
    """What the program is linked against, as package dependencies; the real one is static and has none."""
    deb.folders(scratch / "debian")
    (scratch / "debian/control").write_text("Source: cri-o\n\nPackage: cri-o\nArchitecture: any\n")
    found = deb.run(["dpkg-shlibdeps", "-O", "--ignore-missing-info", program], cwd=scratch)
    return list(filter(None, found.strip().removeprefix("shlibs:Depends=").split(", ")))
