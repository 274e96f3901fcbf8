"""Kernel settings and modules: set now, put back to what they were, left alone where somebody set them since."""

import pytest

from installer.changes import LoadModule, SetSysctl
from installer.errors import PermanentError
from installer.facts.model import Facts, Module, Sysctl
from tests.making import begin, make, take_back
from tests.tree_host import TreeHost, a_host

FORWARD = SetSysctl("net.ipv4.ip_forward", "1")
KEYS = SetSysctl("kernel.keys.maxkeys", "20000", at_least=True)


def value(host: TreeHost, name: str) -> str:
    return (host.read("/proc/sys/" + name.replace(".", "/")) or b"").decode()


def with_sysctl(host: TreeHost, **values: str) -> None:
    def write(option: str, assigned: str) -> str:
        assert option == "--write"
        name, _, new = assigned.partition("=")
        host.put("/proc/sys/" + name.replace(".", "/"), f"{new}\n".encode())
        return ""

    host.commands["sysctl"] = write
    for name, now in values.items():
        host.put(f"/proc/sys/{name.replace('__', '/')}", now.encode())


@pytest.mark.parametrize(("change", "before"), [(FORWARD, "0\n"), (KEYS, "200\n")], ids=["exact", "at least"])
def test_a_setting_goes_back_to_what_it_was(change: SetSysctl, before: str) -> None:
    with a_host() as host:
        with_sysctl(host, **{change.name.replace(".", "__"): before})
        make(host, change)
        assert value(host, change.name) == f"{change.value}\n"
        make(host, change)
        assert take_back(host, change.key) == []
        assert value(host, change.name) == before


def test_a_setting_that_somebody_set_since_stays_and_is_named() -> None:
    with a_host() as host:
        with_sysctl(host, kernel__keys__maxkeys="200\n")
        make(host, KEYS)
        with_sysctl(host, kernel__keys__maxkeys="30000\n")
        kept = take_back(host, KEYS.key)
        assert kept == ["kernel.keys.maxkeys is 30000, set by somebody since; it stays"]
        assert value(host, KEYS.name) == "30000\n"


def test_a_crash_before_the_deed_leaves_the_setting_alone() -> None:
    with a_host() as host:
        with_sysctl(host, kernel__keys__maxkeys="200\n")
        begin(host, KEYS)
        assert take_back(host, KEYS.key) == []
        assert value(host, KEYS.name) == "200\n"


def test_a_setting_that_did_not_take_fails_the_proof_by_name() -> None:
    with a_host() as host:
        with_sysctl(host, kernel__keys__maxkeys="200\n")
        host.commands["sysctl"] = lambda *_: ""
        with pytest.raises(PermanentError) as failed:
            make(host, KEYS)
        assert failed.value.where == "sysctl kernel.keys.maxkeys"
        assert failed.value.found == "200"


@pytest.mark.parametrize(
    ("change", "now", "holds"),
    [
        (KEYS, "20000", True),
        (KEYS, "30000", True),
        (KEYS, "200", False),
        (KEYS, "9", False),
        (KEYS, "", False),
        (KEYS, "many", False),
        (FORWARD, "1", True),
        (FORWARD, "2", False),
        (SetSysctl("net.ipv4.tcp_rmem", "4096 87380 6291456"), "4096\t87380\t6291456", True),
        (SetSysctl("net.ipv4.tcp_rmem", "4096 87380 6291456"), "4096\t87380\t6291455", False),
    ],
)
def test_a_higher_number_is_enough_only_where_we_say_so(change: SetSysctl, now: str, holds: bool) -> None:
    assert bool(change.satisfied(Facts(sysctls={change.name: Sysctl(now)}))) == holds


def modprobe(host: TreeHost, works: bool = True) -> None:
    def load(name: str) -> str:
        if works:
            host.make_directory(f"/sys/module/{name.replace('-', '_')}")
        return ""

    def unload(name: str) -> str:
        host.remove_directory(f"/sys/module/{name.replace('-', '_')}")
        return ""

    host.commands |= {"modprobe": load, "rmmod": unload}


@pytest.mark.parametrize("name", ["br_netfilter", "nf-conntrack"])
def test_a_module_that_we_loaded_goes_and_one_that_was_there_stays(name: str) -> None:
    change = LoadModule(name)
    with a_host() as host:
        modprobe(host)
        was = host.snapshot()
        make(host, change)
        assert take_back(host, change.key) == []
        assert {p for p in host.snapshot() if p.count("/") > 2} == {p for p in was if p.count("/") > 2}
        host.commands["modprobe"](name)
        there = host.snapshot()
        make(host, change)
        take_back(host, change.key)
        assert host.snapshot() == there


def test_a_file_system_that_is_built_in_counts_as_loaded() -> None:
    with a_host() as host:
        host.put("/proc/filesystems", b"nodev\toverlay\n\text4\n")
        modprobe(host, works=False)
        make(host, LoadModule("overlay"))
        make(host, LoadModule("ext4"))
        with pytest.raises(PermanentError) as failed:
            make(host, LoadModule("over"))
        assert "over" in str(failed.value)


def test_a_module_that_is_built_in_and_has_no_folder_counts_as_loaded() -> None:
    with a_host() as host:
        host.put("/proc/sys/kernel/osrelease", b"6.1.0-1\n")
        host.put("/lib/modules/6.1.0-1/modules.builtin", b"kernel/net/bridge/br_netfilter.ko\n")
        modprobe(host, works=False)
        make(host, LoadModule("br_netfilter"))
        take_back(host, "module:br_netfilter")
        with pytest.raises(PermanentError):
            make(host, LoadModule("netfilter"))


def test_facts_decide_whether_a_module_needs_loading() -> None:
    change = LoadModule("overlay")
    assert not change.satisfied(Facts())
    assert not change.satisfied(Facts(modules={"overlay": Module(available=True)}))
    assert change.satisfied(Facts(modules={"overlay": Module(loaded=True)}))
