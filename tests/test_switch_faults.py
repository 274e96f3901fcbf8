"""Whatever fails while the kubelet moves: the node serves on one of the two runtimes, and nothing is lost."""

import pytest

from tests.switching import Case, kill

pytestmark = pytest.mark.node

_BROKEN_CRIO = """\
#!/bin/sh
case $* in *--version* | *config*) exec /usr/bin/crio.real "$@" ;; esac
echo "this CRI-O does not start" >&2
exit 1
"""
_REFUSING = """\
#!/bin/sh
case $* in *crio.sock*) echo "failed to parse kubelet flag: unknown flag" >&2; exit 1 ;; esac
exec /usr/bin/kubelet.real "$@"
"""
_SILENT = """\
#!/bin/sh
case $* in *crio.sock*) exec /usr/bin/kubelet.real "$@" --healthz-port=0 ;; esac
exec /usr/bin/kubelet.real "$@"
"""
_SHORT_LIVED = """\
#!/bin/sh
case $* in *crio.sock*) exec timeout 6 /usr/bin/kubelet.real "$@" ;; esac
exec /usr/bin/kubelet.real "$@"
"""
_START_COMMIT = "^armed: systemctl start sysbox-deploy-switch@commit"
_BEFORE = (
    _START_COMMIT,
    "^armed: mv .*/state$",
    "^committing: systemctl stop kubelet",
    "^committing: crictl .* stop ",
    "^committing: crictl .* rmp ",
    "^committing: mv .* /etc/default/kubelet$",
)
_AFTER = (
    "^committing: systemctl daemon-reload",
    "^committing: systemctl start .*kubelet",
    "^committing: crictl .* info ",
    "^committing: mv .*/state$",
)
_ROLLING_BACK = (
    "^rolling-back: systemctl stop kubelet",
    "^rolling-back: crictl .* rmp ",
    "^rolling-back: mv .* /etc/default/kubelet$",
    "^rolling-back: systemctl start kubelet",
    "^rolling-back: mv .*/state$",
)
_INSTALL, _BACK = ("install", "--once"), ("back",)


def replace(case: Case, program: str, script: str) -> None:
    """Puts a script in a program's place; the program is beside it."""
    case.node.run("mv", f"/usr/bin/{program}", f"/usr/bin/{program}.real")
    case.node.write(f"/usr/bin/{program}", script, 0o755)


def cure(case: Case, program: str) -> None:
    case.node.run("mv", f"/usr/bin/{program}.real", f"/usr/bin/{program}")


def test_a_crio_that_does_not_start_moves_nothing(case: Case) -> None:
    case.node.run("systemctl", "stop", "crio")
    replace(case, "crio", _BROKEN_CRIO)
    pid = case.main_pid("kubelet")
    assert "crio.service did not restart" in case.fails(*_INSTALL)
    case.expect("containerd")
    assert case.main_pid("kubelet") == pid
    cure(case, "crio")
    case.install()


def test_a_crio_that_is_gone_when_the_kubelet_shall_start_is_left(case: Case) -> None:
    case.hold_at("^committing: systemctl start crio")
    process = case.start(*_INSTALL)
    case.wait_held()
    replace(case, "crio", _BROKEN_CRIO)
    case.node.run("systemctl", "stop", "crio")
    case.let_go()
    case.rolls_back(process, "did not get healthy on crio.service: it does not start")
    cure(case, "crio")
    case.install(RETRY="cured")


def test_a_crio_that_dies_after_20_seconds_is_left(case: Case) -> None:
    case.node.write("/etc/systemd/system/crio.service.d/99-short.conf", "[Service]\nRuntimeMaxSec=20\n")
    case.node.run("systemctl", "daemon-reload")
    case.node.run("systemctl", "restart", "crio")
    case.rolls_back(case.start(*_INSTALL, SETTLE="30"), "ended after it had been healthy", SETTLE="30")
    case.node.run("rm", "/etc/systemd/system/crio.service.d/99-short.conf")
    case.node.run("systemctl", "daemon-reload")
    case.node.run("systemctl", "restart", "crio")
    case.install(RETRY="cured")


def test_a_crio_that_answers_but_is_not_ready_is_left(case: Case) -> None:
    case.hold_at("^committing: systemctl start crio")
    process = case.start(*_INSTALL, HEALTH_TIMEOUT="6")
    case.wait_held()
    case.node.write("/etc/crio/crio.conf.d/99-no-network.conf", '[crio.network]\nnetwork_dir = "/nonexistent"\n')
    case.node.run("systemctl", "restart", "crio")
    case.let_go()
    case.rolls_back(process, "crio.service is not ready", HEALTH_TIMEOUT="6")
    case.node.run("rm", "/etc/crio/crio.conf.d/99-no-network.conf")
    case.node.run("systemctl", "restart", "crio")
    case.install()


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        pytest.param(_REFUSING, "kubelet.service does not run", id="refuses-the-flag"),
        pytest.param(_SILENT, "kubelet.service does not answer", id="never-gets-healthy"),
        pytest.param(_SHORT_LIVED, "ended after it had been healthy", id="gets-healthy-and-dies"),
    ],
)
def test_a_kubelet_goes_back_that_fails_on_crio(case: Case, script: str, cause: str) -> None:
    replace(case, "kubelet", script)
    settings = {"HEALTH_TIMEOUT": "6", "SETTLE": "10"}
    case.rolls_back(case.start(*_INSTALL, **settings), cause, **settings)
    cure(case, "kubelet")
    case.install(RETRY="cured")


def test_the_power_is_cut_before_the_rename_and_the_node_boots_into_the_old_runtime(case: Case) -> None:
    for boundary in _BEFORE:
        case.hold_at(boundary)
        process = case.start(*_INSTALL)
        case.wait_held()
        kill(process)
        case.cut_power()
        case.expect("containerd")
        assert case.state() == "armed", boundary
    case.install()


@pytest.mark.parametrize("boundary", _AFTER)
def test_the_power_is_cut_after_the_rename_and_the_node_boots_into_the_new_runtime(case: Case, boundary: str) -> None:
    for argv, runtime, conclude in ((_INSTALL, "cri-o", case.install), (_BACK, "containerd", case.back)):
        case.hold_at(boundary)
        process = case.start(*argv)
        case.wait_held()
        kill(process)
        case.cut_power()
        case.expect(runtime)
        case.wait_state("committed")
        conclude()


def test_the_power_is_cut_while_the_kubelet_moves_back_and_it_does(case: Case) -> None:
    replace(case, "kubelet", _REFUSING)
    for boundary in _ROLLING_BACK:
        case.hold_at(boundary)
        process = case.start(*_INSTALL, HEALTH_TIMEOUT="2", RETRY=boundary)
        case.wait_held()
        kill(process)
        case.cut_power()
        case.wait_state("rolled-back")
        case.expect("containerd")
        assert "kubelet.service does not run" in case.fails(*_INSTALL, HEALTH_TIMEOUT="2", RETRY=boundary)
    cure(case, "kubelet")
    case.install()


@pytest.mark.parametrize("boundaries", [_BEFORE, _AFTER], ids=["before-the-rename", "after-the-rename"])
def test_our_pod_is_killed_at_any_boundary_and_the_next_one_concludes(case: Case, boundaries: tuple[str, ...]) -> None:
    for boundary in boundaries:
        for argv, conclude in ((_INSTALL, case.install), (_BACK, case.back)):
            case.hold_at(boundary)
            process = case.start(*argv)
            case.wait_held()
            kill(process)
            case.let_go()
            conclude()


def test_an_api_that_is_not_there_moves_nothing(case: Case) -> None:
    pid = case.main_pid("kubelet")
    kubeconfig = case.settings["KUBECONFIG"]
    case.settings["KUBECONFIG"] = case.unreachable_api()
    done = case.run(*_INSTALL, KUBERNETES_TIMEOUT="3")
    assert done.returncode == 1
    assert "TemporaryError" in done.stdout
    assert (case.main_pid("kubelet"), case.state()) == (pid, "none")
    case.settings["KUBECONFIG"] = kubeconfig
    case.install()


def test_an_api_that_goes_while_the_kubelet_moves_lets_the_dead_man_win(case: Case) -> None:
    case.hold_at("^committing: systemctl start .*kubelet")
    process = case.start(*_INSTALL, CONFIRM_TIMEOUT="20")
    case.wait_held()
    case.cut_off_from_api()
    case.let_go()
    case.wait_state("committed")
    case.wait_state("rolled-back")
    case.join_api()
    case.expect("containerd")
    kill(process)
    assert "nobody confirmed the move in time" in case.fails(*_INSTALL, CONFIRM_TIMEOUT="20")
    case.install()


def test_a_full_disk_stops_the_carriage_of_images_and_moves_nothing(case: Case) -> None:
    pid = case.main_pid("kubelet")
    case.node.run("systemctl", "stop", "crio")
    case.node.run("mount", "-t", "tmpfs", "-o", "size=2m", "full", "/var/lib/containers/storage")
    case.node.run("systemctl", "start", "crio")
    assert "not room enough" in case.fails(*_INSTALL, SWITCH_REQUIRES_ALL_IMAGES="true")
    case.expect("containerd")
    assert case.main_pid("kubelet") == pid
    case.node.run("systemctl", "stop", "crio")
    case.node.run("umount", "/var/lib/containers/storage")
    case.install()


def test_without_our_image_nobody_confirms_and_the_dead_man_rolls_back(case: Case) -> None:
    case.hold_at("^committing: mv .*/state$")
    process = case.start(*_INSTALL, CONFIRM_TIMEOUT="15")
    case.wait_held()
    kill(process)
    case.let_go()
    case.wait_state("committed")
    case.expect("cri-o")
    case.hold_at("^rolling-back: systemctl stop kubelet")
    case.wait_held()
    late = case.start(*_INSTALL, CONFIRM_TIMEOUT="15")
    resume = "sysbox-deploy-switch@resume.service"
    case.wait("the next pod waits for the dead man", lambda: case.is_active(resume) == "activating", 60)
    case.let_go()
    out = case.rolls_back(late, "nobody confirmed the move in time", CONFIRM_TIMEOUT="15")
    assert out.count("Z rolling back: ") == 1
    case.install()


def test_the_dead_man_survives_a_reboot_and_ends_what_a_dead_crio_left(case: Case) -> None:
    case.hold_at("^committing: mv .*/state$")
    process = case.start(*_INSTALL, CONFIRM_TIMEOUT="20")
    case.wait_held()
    kill(process)
    case.let_go()
    case.wait_state("committed")
    case.cut_power()
    case.expect("cri-o")
    assert case.state() == "committed"
    replace(case, "crio", _BROKEN_CRIO)
    case.node.run("systemctl", "kill", "--signal=KILL", "crio")
    case.wait_state("rolled-back")
    case.expect("containerd")
    cure(case, "crio")


def test_the_dead_man_waits_for_the_commit_and_one_of_the_two_wins(case: Case) -> None:
    deadman = "sysbox-deploy-switch@deadman.service"
    case.hold_at("^committing: crictl .* info ")
    process = case.start(*_INSTALL, CONFIRM_TIMEOUT="3")
    case.wait_held()
    case.wait("the dead man waits", lambda: case.is_active(deadman) == "activating", 20)
    case.let_go()
    case.rolls_back(process, "nobody confirmed the move in time", CONFIRM_TIMEOUT="3")


def test_a_containerd_that_does_not_start_keeps_the_node_on_crio(case: Case) -> None:
    case.install()
    case.hold_at("^committing: systemctl start containerd")
    process = case.start(*_BACK)
    case.wait_held()
    replace(case, "containerd", _BROKEN_CRIO.replace("crio", "containerd"))
    case.node.run("systemctl", "stop", "containerd")
    case.let_go()
    assert "did not get healthy on containerd.service: it does not start" in case.failed(process)
    case.expect("cri-o")
    cure(case, "containerd")
    assert "nothing has changed since" in case.fails(*_BACK)
    case.back(RETRY="cured")
