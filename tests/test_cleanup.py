"""Cleanup of one profile while another stays, or a service was there before us: it reads its files again, once."""

from collections.abc import Iterator

import pytest

from installer.changes import InPlace, UnitState, WriteFile
from installer.engine import cleanup as engine
from installer.engine.install import undo
from installer.engine.report import Reporter
from installer.facts import lazy
from installer.facts.model import Facts
from installer.facts.units import look_all
from installer.journal import Journal
from installer.plan import make
from installer.settings import Settings
from tests.making import make as do
from tests.test_plan import Machine, step
from tests.tree_host import TreeHost, a_host

OURS, BOTH = WriteFile("/etc/conf.d/a", "sysbox\n"), WriteFile("/etc/conf.d/b", "both\n")
UNIT = UnitState("reader.service", watches=(OURS.key, BOTH.key))


class Asked(Machine):
    """The same, where systemd is asked for other units too."""

    def systemctl(self, verb: str, *rest: str) -> str:
        if verb != "show":
            return super().systemctl("restart" if verb == "try-restart" else verb, *rest)
        asked = rest[rest.index("--") + 1 :]
        blocks = [super(Asked, self).systemctl(verb) if u == UNIT.unit else "LoadState=not-found\n" for u in asked]
        return "\n".join(blocks)


@pytest.fixture
def machine() -> Iterator[Asked]:
    with a_host({"dpkg-query": lambda *_: "", "containerd": lambda *_: ""}) as host:
        host.make_directory("/etc/conf.d")
        host.make_directory("/run")
        yield Asked(host, active=True)


def clean(host: TreeHost, profile: str) -> None:
    settings = Settings()
    engine._Cleanup(host, settings, profile, Journal(host), Reporter(settings, profile)).run()


def planned(host: TreeHost, *wanted: InPlace) -> list[str]:
    facts = Facts(files=lazy.files(host), units=look_all(host, (UNIT.unit,)))
    plan = make(facts, Settings(), [step(*wanted)], Journal(host).entries, "crio")
    return [item.change.key for item in plan.todo]


def installed(machine: Asked) -> None:
    for change in (OURS, BOTH, UNIT):
        do(machine.host, change, "sysbox")
    for change in (BOTH, UNIT):
        do(machine.host, change, "crio")
    assert machine.read == {"a": b"sysbox\n", "b": b"both\n"}


def test_a_service_that_stays_starts_again_once_and_the_next_install_has_nothing_to_do(machine: Asked) -> None:
    installed(machine)
    starts = machine.starts
    clean(machine.host, "sysbox")
    assert machine.read == machine.files() == {"b": b"both\n"}
    assert machine.starts == starts + 1
    assert planned(machine.host, BOTH, UNIT) == []


def test_a_service_that_stays_starts_again_though_the_cleanup_was_cut_off(machine: Asked) -> None:
    installed(machine)
    journal = Journal(machine.host)
    entry = journal.entry(OURS.key)
    assert entry
    undo(machine.host, journal, entry)  # and then the process is killed
    clean(machine.host, "sysbox")
    assert machine.read == machine.files() == {"b": b"both\n"}
    assert planned(machine.host, BOTH, UNIT) == []


def test_a_service_that_was_there_before_us_reads_its_own_files_again(machine: Asked) -> None:
    machine.host.put("/etc/conf.d/a", b"theirs\n")
    installed(machine)
    for profile in ("crio", "sysbox"):
        clean(machine.host, profile)
    assert machine.read == machine.files() == {"a": b"theirs\n"}
    assert machine.active
    assert Journal(machine.host).entries == []


def test_a_cleanup_where_nothing_was_installed_does_nothing(machine: Asked) -> None:
    was = machine.host.snapshot()
    clean(machine.host, "sysbox")
    assert {p: s for p, s in machine.host.snapshot().items() if not p.endswith(".lock")} == was
    assert not machine.host.exists("/var/lib/sysbox-deploy")
