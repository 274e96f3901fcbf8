"""The move itself, there and back, again and again."""

import shutil
import subprocess
from pathlib import Path

import pytest

from installer.changes import SwitchRuntime
from installer.engine import look, switching
from installer.engine.report import Reporter
from installer.host import Host
from installer.journal import Journal
from installer.settings import Settings
from installer.steps import kubelet
from tests.node import snapshot
from tests.switching import Case

_PROGRAM = Path(switching.__file__).parents[1] / "switch/commit.sh"
_SETTINGS = Settings(settle=1, pod_stop_timeout=2, health_timeout=30)
# what only says how often, and when
_COUNTS = ("/var/lib/sysbox-deploy/journal:", ".lock:", "/var/lib/containers/storage/db.sql:")


@pytest.mark.machine
def test_the_hosts_program_is_plain_posix_sh() -> None:
    for checker in (["dash", "-n"], ["shellcheck", "--shell=sh"]):
        if shutil.which(checker[0]):
            done = subprocess.run([*checker, str(_PROGRAM)], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.node
def test_moving_there_and_back_20_times_leaves_the_node_as_after_once(case: Case) -> None:
    _there(case)
    case.expect("cri-o")
    _back(case)
    case.expect("containerd")
    once = snapshot.take(case.node)
    for _ in range(18):
        _there(case)
        _back(case)
    _there(case)
    case.expect("cri-o")
    _back(case)
    case.expect("containerd")
    differs = snapshot.compare(once, snapshot.take(case.node))
    assert [line for line in differs if not any(path in line for path in _COUNTS)] == []


def _there(case: Case) -> None:
    host = Host(case.node.init_pid)
    journal = Journal(host)
    facts = look.look(host, _SETTINGS, journal, control_plane=False)
    (change,) = (c for c in kubelet.wanted(facts, _SETTINGS) if isinstance(c, SwitchRuntime))
    switching.there(host, journal, change, _SETTINGS, "sysbox", facts, Reporter(_SETTINGS, "sysbox"))


def _back(case: Case) -> None:
    host = Host(case.node.init_pid)
    journal = Journal(host)
    facts = look.look(host, _SETTINGS, journal, control_plane=False)
    entry = journal.entry("switch:kubelet.service")
    assert entry is not None
    journal.undoing(entry)
    switching.back(host, journal, entry, _SETTINGS, facts, Reporter(_SETTINGS, "sysbox"))
    journal.undone(entry, [])
