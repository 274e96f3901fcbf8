"""The stand-ins for Sysbox's daemons start, refuse and stop as the real ones do."""

import pytest

from tests.standins.root import NEEDED, Root, wait_for

pytestmark = pytest.mark.machine


@pytest.mark.parametrize("program", ["sysbox-mgr", "sysbox-fs", "sysbox-runc"])
def test_every_version_names_a_stand_in(root: Root, program: str) -> None:
    said = root.run(program, "--version")
    assert said.returncode == 0
    assert said.stdout.splitlines()[0] == program
    assert "stand-in" in said.stdout and "0.7.0" in said.stdout


@pytest.mark.parametrize(
    ("words", "mistake"),
    [
        (["sysbox-mgr", "--bogus"], "flag provided but not defined: -bogus"),
        (["sysbox-fs", "--data-root=/x"], "flag provided but not defined: -data-root"),
        (["sysbox-runc", "--rootless"], "flag provided but not defined: -rootless"),
        (["sysbox-mgr", "--log"], "flag needs an argument: -log"),
        (["sysbox-mgr", "--honor-caps=maybe"], "invalid boolean value"),
        (["sysbox-mgr", "--log-level", "loud"], "'loud' log-level option not recognized"),
        (["sysbox-fs", "--log-level=loud"], "log-level option 'loud' not recognized"),
        (["sysbox-mgr", "--log=/no/such/folder/log"], "open /no/such/folder/log"),
    ],
)
def test_flags_that_the_real_one_refuses_are_refused(root: Root, words: list[str], mistake: str) -> None:
    said = root.run(*words)
    assert said.returncode == 1
    assert mistake in said.stderr
    assert not (root / "run/sysbox").exists()


@pytest.mark.parametrize("program", ["sysbox-mgr", "sysbox-fs"])
def test_a_daemon_notifies_listens_and_ends_on_sigterm(root: Root, program: str) -> None:
    short = program.replace("box-", "")
    with root.started(program) as daemon:
        wait_for(root / f"run/sysbox/{short}.sock")
        pid_file = root / f"run/sysbox/{short}.pid"
        assert pid_file.read_text() == f"{daemon.process.pid}\n"
        assert (root / "run/sysbox").stat().st_mode & 0o777 == 0o700
        assert "Caught OS signal" in (said := daemon.stop()) or "caught signal" in said
    assert not pid_file.exists()
    assert (root / f"run/sysbox/{short}.sock").is_socket()  # the real ones leave it too


@pytest.mark.parametrize("program", ["sysbox-mgr", "sysbox-fs"])
def test_a_second_daemon_is_refused_and_the_first_lives(root: Root, program: str) -> None:
    with root.started(program) as daemon:
        wait_for(root / f"run/sysbox/{program.replace('box-', '')}.sock")
        second = root.run(program)
        assert second.returncode == 1
        assert f"{program} program is running as pid {daemon.process.pid}" in second.stderr
        daemon.stop()


def test_a_pid_file_of_the_dead_is_no_obstacle(root: Root) -> None:
    (root / "run/sysbox").mkdir()
    (root / "run/sysbox/sysmgr.pid").write_text("4194305\n")
    with root.started("sysbox-mgr") as daemon:
        daemon.stop()


@pytest.mark.parametrize("program", NEEDED)
def test_sysbox_mgr_refuses_without(root: Root, program: str) -> None:
    (root / "usr/bin" / program).unlink()
    said = root.run("sysbox-mgr")
    assert said.returncode == 1
    assert f"preflight check failed: {program} is not installed on host." in said.stderr
    assert not (root / "etc/subuid").exists()


def test_the_log_goes_to_the_file_that_is_named(root: Root) -> None:
    log = ["--log=/run/mgr.log", "--log-level", "debug", "--log-format", "json"]
    with root.started("sysbox-mgr", *log) as daemon:
        assert daemon.stop() == ""
    assert '"msg":"Ready ..."' in (root / "run/mgr.log").read_text()


def test_work_folders_come_and_go_with_the_daemons(root: Root) -> None:
    with root.started("sysbox-mgr", "--data-root", "/var/lib/elsewhere") as daemon:
        made = {path.name for path in (root / "var/lib/elsewhere").iterdir()}
        assert {"docker", "kubelet", "containerd", "shiftfs"} <= made
        daemon.stop()
    with root.started("sysbox-fs") as daemon:
        assert (root / "var/lib/sysboxfs").is_dir()
        daemon.stop()
    assert list((root / "var/lib").iterdir()) == []


def test_sysbox_mgr_refuses_to_keep_its_data_on_tmpfs(root: Root) -> None:
    root.data_on_tmpfs = True
    said = root.run("sysbox-mgr")
    assert said.returncode == 1
    assert "host dir for docker vol manager (/var/lib/sysbox/docker) can't be on tmpfs" in said.stderr
