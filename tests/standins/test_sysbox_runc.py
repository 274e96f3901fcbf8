"""The stand-in for sysbox-runc refuses where the real one would, and else hands over to runc."""

from pathlib import Path

import pytest

from tests.standins.root import Root, wait_for
from tests.standins.sysbox import build_programs

pytestmark = pytest.mark.machine


@pytest.fixture
def with_runc(root: Root) -> Root:
    """A runc that shows what it was given; the busybox under it is static, as the root has no libraries."""
    (root / "usr/sbin").mkdir()
    (root / "bin").mkdir()
    (root / "bin/sh").write_bytes(Path("/bin/busybox").read_bytes())
    (root / "bin/sh").chmod(0o755)
    runc = root / "usr/sbin/runc"
    runc.write_text('#!/bin/sh\nfor word; do echo "$word"; done\n')
    runc.chmod(0o755)
    return root


def test_sysbox_runc_creates_nothing_without_the_daemons(with_runc: Root) -> None:
    said = with_runc.run("sysbox-runc", "--log=/run/log", "--log-format=json", "create", "x")
    assert said.returncode == 1
    assert "failed to register with sysbox-mgr" in said.stderr
    assert '"level":"error"' in (with_runc / "run/log").read_text()


def test_sysbox_runc_sees_that_a_socket_has_no_daemon_any_more(with_runc: Root) -> None:
    with with_runc.started("sysbox-mgr") as daemon:
        wait_for(with_runc / "run/sysbox/sysmgr.sock")
        daemon.stop()
    said = with_runc.run("sysbox-runc", "run", "x")
    assert said.returncode == 1
    assert "connect: Connection refused" in said.stderr


def test_sysbox_runc_hands_over_to_runc_when_both_daemons_answer(with_runc: Root) -> None:
    with with_runc.started("sysbox-mgr") as mgr:
        wait_for(with_runc / "run/sysbox/sysmgr.sock")
        alone = with_runc.run("sysbox-runc", "create", "x")
        assert alone.returncode == 1
        assert "failed to get config from sysbox-fs" in alone.stderr
        with with_runc.started("sysbox-fs") as fs:
            wait_for(with_runc / "run/sysbox/sysfs.sock")
            flags = ["--root", "/run/r", "--systemd-cgroup", "--no-kernel-check"]
            words = [*flags, "create", "--bundle", "/b", "x"]
            said = with_runc.run("sysbox-runc", *words)
            fs.stop()
        mgr.stop()
    assert said.stdout.split() == ["--root=/run/r", "--systemd-cgroup=true", "create", "--bundle", "/b", "x"]


def test_sysbox_runc_asks_nobody_for_what_is_no_new_container(with_runc: Root) -> None:
    said = with_runc.run("sysbox-runc", "delete", "--force", "x")
    assert said.stdout.split() == ["--root=/run/sysbox-runc", "delete", "--force", "x"]


def test_sysbox_runc_passes_features_on(with_runc: Root) -> None:
    said = with_runc.run("sysbox-runc", "features")
    assert said.returncode == 0
    assert said.stdout.split()[-1] == "features"
    assert said.stderr == ""  # CRI-O reads both as one document


def test_sysbox_runc_of_0_6_knows_no_features(with_runc: Root) -> None:
    old = with_runc / "usr/local/bin"
    build_programs(old, "0.6.7")
    said = with_runc.run("/usr/local/bin/sysbox-runc", "features")
    assert said.returncode == 3
    assert "No help topic for 'features'" in said.stderr
