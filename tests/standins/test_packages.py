"""The packages hold what the real ones hold, where they hold it."""

import filecmp
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest

from tests.standins.crio import build_crio
from tests.standins.sysbox import build_sysbox

pytestmark = pytest.mark.machine

ELF = Path("/bin/bash")  # stands for crio and pinns: what they do is not what is tested here


def contents(deb: Path) -> dict[str, tarfile.TarInfo]:
    """The package's files and links, by path."""
    archive = subprocess.run(["dpkg-deb", "--fsys-tarfile", deb], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        return {member.name.removeprefix("."): member for member in tar if member.name != "."}


def field(deb: Path, name: str) -> str:
    return subprocess.run(
        ["dpkg-deb", "--field", deb, name], capture_output=True, text=True, check=True
    ).stdout.strip()


def files(deb: Path) -> set[str]:
    return {path for path, member in contents(deb).items() if not member.isdir()}


@pytest.fixture(scope="module")
def crio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_crio(tmp_path_factory.mktemp("crio"), ELF, ELF, "1.34.0-1.1")


@pytest.fixture(scope="module")
def sysbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_sysbox(tmp_path_factory.mktemp("sysbox"))


def test_crio_has_the_files_of_the_real_package_that_can_be_had_here(crio: Path) -> None:
    assert files(crio) == {
        "/etc/cni/net.d/10-crio-bridge.conflist.disabled",
        "/etc/containers/registries.conf.d/crio.conf",
        "/etc/crictl.yaml",
        "/etc/crio/crio.conf.d/10-crio.conf",
        "/etc/crio/policy.json",
        "/etc/default/crio",
        "/usr/bin/crio",
        "/usr/bin/pinns",
        "/usr/lib/systemd/system/crio.service",
        "/usr/libexec/crio/conmon",
        "/usr/libexec/crio/runc",
        "/usr/share/bash-completion/completions/crio",
        "/usr/share/doc/cri-o/LICENSE",
        "/usr/share/doc/cri-o/README.md",
        "/usr/share/fish/completions/crio.fish",
        "/usr/share/man/man5/crio.conf.5.gz",
        "/usr/share/man/man5/crio.conf.d.5.gz",
        "/usr/share/man/man8/crio.8.gz",
        "/usr/share/oci-umount/oci-umount.d/crio-umount.conf",
        "/usr/share/zsh/site-functions/_crio",
    }
    assert contents(crio)["/usr/libexec/crio/runc"].linkname == "/usr/sbin/runc"
    assert contents(crio)["/var/lib/crio"].isdir()


def test_crio_is_named_and_needs_what_the_real_package_does(crio: Path) -> None:
    assert crio.name.startswith("cri-o_1.34.0-1.1_")
    assert field(crio, "Version") == "1.34.0-1.1"
    depends = field(crio, "Depends")
    assert depends.startswith("iptables, systemd-sysv, systemd, conmon, runc, ")
    assert "libc6" in depends  # what the program is linked against
    assert "built for tests" in field(crio, "Description")


def test_sysbox_has_the_files_of_the_real_package(sysbox: Path) -> None:
    assert files(sysbox) == {
        "/lib/sysctl.d/99-sysbox-sysctl.conf",
        "/lib/systemd/system/sysbox-fs.service",
        "/lib/systemd/system/sysbox-mgr.service",
        "/lib/systemd/system/sysbox.service",
        "/usr/bin/sysbox-fs",
        "/usr/bin/sysbox-mgr",
        "/usr/bin/sysbox-runc",
        "/usr/share/doc/sysbox-ce/changelog.gz",
        "/usr/share/doc/sysbox-ce/copyright",
    }


def test_sysbox_has_one_version_in_its_name_and_another_inside(sysbox: Path) -> None:
    assert sysbox.name.startswith("sysbox-ce_0.6.7-0.linux_")
    assert field(sysbox, "Version") == "0.6.7.linux"
    assert field(sysbox, "Pre-Depends") == "jq"
    assert field(sysbox, "Depends") == "debconf, jq, fuse, lsb-release, rsync, iptables"
    assert "stand-in" in field(sysbox, "Description")


def test_everything_in_a_package_is_roots_and_none_but_root_writes_it(crio: Path, sysbox: Path) -> None:
    for path, member in {**contents(crio), **contents(sysbox)}.items():
        assert (member.uid, member.gid) == (0, 0), path
        assert member.issym() or member.mode in {0o644, 0o755}, path


@pytest.mark.parametrize(
    "build", [lambda out: build_crio(out, ELF, ELF, "1.34.0-1.1"), build_sysbox], ids=["cri-o", "sysbox-ce"]
)
def test_the_same_package_comes_out_twice(build: Callable[[Path], Path], tmp_path: Path) -> None:
    one = build(tmp_path / "one")
    before = os.umask(0o077)
    try:
        assert filecmp.cmp(one, build(tmp_path / "two"), shallow=False)
    finally:
        os.umask(before)


def test_the_packages_units_are_ones_that_systemd_takes(crio: Path, sysbox: Path, tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not there")
    for deb in (crio, sysbox):
        subprocess.run(["dpkg-deb", "--extract", deb, tmp_path], check=True)
    folders = [tmp_path / "usr/lib/systemd/system", tmp_path / "lib/systemd/system"]
    for unit in (unit for folder in folders for unit in folder.iterdir()):
        # Programs are looked for on this machine, where they are not; all else must be right.
        text = unit.read_text().replace("ExecStart=/usr/bin/", "ExecStart=/bin/true /usr/bin/")
        unit.write_text(
            "\n".join(line for line in text.splitlines() if not line.startswith("Documentation=man"))
        )
        argv = ["systemd-analyze", "verify", "--man=no", str(unit)]
        checked = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            env={**os.environ, "SYSTEMD_UNIT_PATH": ":".join(map(str, folders)) + ":"},
        )
        complaints = [line for line in checked.stderr.splitlines() if unit.name in line]
        assert complaints == [], unit.name
