"""shiftfs: built only where a kernel wants it, from sources read as data, and taken back without a trace."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from installer import preflight, support
from installer.changes import BuildModule, Change, InPlace, InstallFiles, InstallPackage, LoadModule, WriteFile, load
from installer.engine import look
from installer.engine.install import undo
from installer.errors import PermanentError, RefusedError
from installer.facts import dkms, gather
from installer.facts.model import Crio, Facts, Kernel, Module, ModuleSources, Os
from installer.host import FileState, Host, Result
from installer.journal import Journal
from installer.plan import Plan, make
from installer.settings import Settings
from installer.steps import ORDER, Nothing, Step, shiftfs
from installer.steps.shiftfs import MODULES_FILE
from installer.steps.sysbox import ARTIFACT
from tests.node import snapshot
from tests.node.node import Node
from tests.standins import shiftfs as standin

SOURCES = ModuleSources("shiftfs", "k1", "", {"dkms.conf": "", "shiftfs.c": ""})
NEEDED, RECOMMENDED = "5.4.0-216-generic", "5.15.0-153-generic"
FILE = FileState("dir", 0o755, 0, 0)


def node(release: str, **changes: Any) -> Facts:
    """An Ubuntu node whose apt can install headers, and an image with sources."""
    facts = Facts(
        os=Os("ubuntu", "20.04"),
        kernel=Kernel(release, "amd64"),
        modules={"shiftfs": Module()},
        offers={"dkms": "2.8.1", f"linux-headers-{release}": "1"},
        shiftfs_sources=SOURCES,
    )
    return dataclasses.replace(facts, **changes)


def wanted(facts: Facts, **settings: Any) -> list[Change | Nothing]:
    return list(shiftfs.wanted(facts, Settings(**settings)))


def reason(facts: Facts, **settings: Any) -> str:
    """Why nothing at all is to be done."""
    (only,) = wanted(facts, **settings)
    assert isinstance(only, Nothing)
    return only.reason


def refusal(facts: Facts, **settings: Any) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        wanted(facts, **settings)
    assert caught.value.where
    assert caught.value.found
    assert "SYSBOX_DEPLOY_SHIFTFS=off" in caught.value.remedy
    return caught.value


def installed(facts: Facts) -> Facts:
    """The node after the step's changes."""
    ours = {change.key: change.to_dict() for change in wanted(facts) if isinstance(change, Change)}
    return dataclasses.replace(facts, ours=ours, kernel=dataclasses.replace(facts.kernel, has_shiftfs=True))


@pytest.mark.parametrize(
    ("release", "built"),
    [
        ("5.0.0-60-generic", False),
        ("5.3.0-76-generic", False),
        ("5.4.0-216-generic", True),
        ("5.8.0-63-generic", True),
        ("5.9.0-1-amd64", False),
        ("5.10.0-35-amd64", True),
        ("5.11.0-49-generic", True),
        ("5.13.0-52-generic", True),
        ("5.15.0-48-generic", False),
        ("5.15.0-480-generic", True),
        ("5.15.0-153-generic", True),
        ("5.17.0-1035-oem", True),
        ("5.18.0-4-amd64", True),
        ("5.19.0-50-generic", False),
        ("6.1.0-40-amd64", False),
        ("6.2.0-39-generic", False),
        ("6.8.0-60-generic", False),
        ("oddity", False),
    ],
)
def test_a_kernel_below_5_19_gets_it_built_where_sources_are_known_to_build_and_work(release: str, built: bool) -> None:
    if not built:
        assert release in reason(node(release))
        assert shiftfs.branch(node(release), Settings()) == ""
        return
    kinds = [type(change) for change in wanted(node(release))]
    assert kinds == [InstallPackage, InstallPackage, BuildModule, WriteFile, LoadModule]
    assert shiftfs.branch(node(release), Settings()) == support.for_kernel(Kernel(release).version).branch


def test_the_build_is_for_the_running_kernel_from_the_images_sources() -> None:
    tool, headers, build, file, module = wanted(node(NEEDED))
    assert isinstance(tool, InstallPackage) and tool.name == "dkms"
    assert isinstance(headers, InstallPackage) and headers.name == f"linux-headers-{NEEDED}"
    assert build == BuildModule("shiftfs", "k1", NEEDED, (("dkms.conf", ""), ("shiftfs.c", "")))
    assert file == WriteFile(MODULES_FILE, "shiftfs\n")
    assert module == LoadModule("shiftfs")


def test_it_stands_before_sysbox_and_in_that_profile_only() -> None:
    names = [step.name for step in ORDER["sysbox"]]
    assert names.index("shiftfs") < names.index("sysbox")
    assert "shiftfs" not in [step.name for step in ORDER["crio"]]


@pytest.mark.parametrize("release", [NEEDED, RECOMMENDED])
def test_nothing_is_built_where_it_is_there_or_switched_off(release: str) -> None:
    there = node(release, kernel=Kernel(release, has_shiftfs=True))
    assert "already" in reason(there)
    assert "SYSBOX_DEPLOY_SHIFTFS is off" in reason(node(release), shiftfs="off")
    assert shiftfs.branch(there, Settings()) == shiftfs.branch(node(release), Settings(shiftfs="off")) == ""


LACKS: list[tuple[str, Callable[[str], dict[str, Any]]]] = [
    ("no sources", lambda release: {"shiftfs_sources": None}),
    ("do not build", lambda release: {"shiftfs_sources": dataclasses.replace(SOURCES, kernels="^5.(99)")}),
    ("headers", lambda release: {"offers": {"dkms": "2.8.1"}}),
    ("not ours", lambda release: {"files": {"/var/lib/dkms/shiftfs": FILE}}),
    ("not ours", lambda release: {"files": {f"/lib/modules/{release}/updates/dkms/shiftfs.ko.zst": FILE}}),
    ("Secure Boot", lambda release: {"kernel": Kernel(release, secure_boot=True)}),
]


@pytest.mark.parametrize(("what", "change"), LACKS, ids=[what for what, _ in LACKS])
def test_what_hinders_it_refuses_where_it_is_needed_and_is_remarked_where_it_is_recommended(
    what: str, change: Callable[[str], dict[str, Any]]
) -> None:
    assert what in refusal(node(NEEDED, **change(NEEDED))).what
    said = reason(node(RECOMMENDED, **change(RECOMMENDED)))
    assert what in said
    assert "remedy: " in said


def test_secure_boot_does_not_hinder_an_operator_who_enrolled_the_key_or_goes_without() -> None:
    facts = node(NEEDED, kernel=Kernel(NEEDED, "amd64", secure_boot=True))
    assert len(wanted(facts, allow=("secure-boot",))) == 5
    judged = {f.name: f.level for f in look.judge(facts, Settings(), "sysbox")}
    assert judged["secure-boot"] == "refuse"
    judged = {f.name: f.level for f in look.judge(facts, Settings(shiftfs="off"), "sysbox")}
    assert judged["secure-boot"] == "warn"
    assert "off" in reason(facts, shiftfs="off")


def test_headers_are_tried_where_apt_has_no_lists_yet() -> None:
    assert len(wanted(node(NEEDED, offers={}))) == 5


def test_headers_that_are_there_without_their_package_are_used() -> None:
    facts = node(NEEDED, kernel=Kernel(NEEDED, has_headers=True), offers={"dkms": "1"})
    assert [type(c) for c in wanted(facts)] == [InstallPackage, Nothing, BuildModule, WriteFile, LoadModule]


def test_our_own_is_wanted_still_even_by_an_image_without_sources() -> None:
    facts = installed(node(NEEDED))
    assert wanted(facts) == wanted(node(NEEDED))
    assert wanted(dataclasses.replace(facts, shiftfs_sources=None)) == wanted(node(NEEDED))


def test_our_own_is_wanted_no_more_once_the_kernels_own_is_there_or_no_longer_needed() -> None:
    facts = installed(node(RECOMMENDED))
    own = {f"/lib/modules/{RECOMMENDED}/kernel/fs/shiftfs.ko": FILE}
    assert "already" in reason(dataclasses.replace(facts, files=own))
    assert "needs no" in reason(dataclasses.replace(facts, kernel=Kernel("6.8.0-60-generic")))


def test_another_kernel_or_other_sources_make_it_another_change() -> None:
    one = BuildModule("shiftfs", "k1", NEEDED, (("a.c", "1"),))
    others = [
        dataclasses.replace(one, release=RECOMMENDED),
        dataclasses.replace(one, version="k2"),
        dataclasses.replace(one, files=(("a.c", "2"),)),
        dataclasses.replace(one, files=(("b.c", "1"),)),
    ]
    assert len({one.key, *(other.key for other in others)}) == 5
    assert load(one.to_dict()) == one


def test_a_branch_as_it_is_published_is_read_without_what_is_not_for_the_host(tmp_path: Path) -> None:
    found = dkms.sources(str(standin.lay(tmp_path / "k6.1")), "shiftfs")
    assert found is not None
    assert (found.name, found.version, found.kernels) == ("shiftfs", standin.VERSION, "^6.(1|2).*")
    assert set(found.files) == {"dkms.conf", "Makefile", "shiftfs.c"}
    assert f'PACKAGE_VERSION="{standin.VERSION}"' in found.files["dkms.conf"]
    assert dkms.sources(str(tmp_path / "k5.4"), "shiftfs") is None


@pytest.mark.parametrize(
    "line",
    [
        'POST_INSTALL="evil.sh"',
        'PRE_BUILD="configure"',
        'PATCH[0]="a.patch"',
        'REMAKE_INITRD="yes"',
        "rm -rf /",
        'CLEAN="make clean; rm -rf /"',
        'CLEAN="rm -rf /"',
        'CLEAN="make $(id)"',
        'CLEAN="make `id`"',
        "CLEAN='make -C $(id)'",
        'AUTOINSTALL="yes" ; id',
        'AUTOINSTALL="$HOME"',
        'PACKAGE_NAME="other"',
        'PACKAGE_VERSION="../../etc"',
        'PACKAGE_VERSION=""',
        'BUILT_MODULE_NAME[0]="other"',
        'BUILT_MODULE_NAME[1]="second"',
        'BUILD_EXCLUSIVE_KERNEL="(5"',
        "source /tmp/x",
    ],
)
def test_a_dkms_conf_that_does_more_than_say_how_to_make_one_module_is_refused(tmp_path: Path, line: str) -> None:
    folder = standin.lay(tmp_path / "k6.1")
    (folder / "dkms.conf").write_text((folder / "dkms.conf").read_text() + line + "\n")
    with pytest.raises(RefusedError) as caught:
        dkms.sources(str(folder), "shiftfs")
    assert "dkms.conf" in caught.value.where
    assert caught.value.found


def test_sources_that_are_not_whole_or_lead_elsewhere_are_refused(tmp_path: Path) -> None:
    folder = standin.lay(tmp_path / "k6.1")
    (folder / "extra.c").symlink_to("/etc/shadow")
    with pytest.raises(RefusedError, match="plain file"):
        dkms.sources(str(folder), "shiftfs")
    (folder / "extra.c").unlink()
    (folder / "dkms.conf").unlink()
    with pytest.raises(RefusedError, match="whole"):
        dkms.sources(str(folder), "shiftfs")


def test_sources_are_read_only_where_they_are_wanted(tmp_path: Path) -> None:
    standin.lay(tmp_path / "k5.4", kernels="^5.(4|5|6|7).*")
    known = InstallFiles(ARTIFACT, "0.7.0", "0" * 64, ())
    facts = node(NEEDED, shiftfs_sources=None, crio=Crio("1.34.0"), ours={known.key: known.to_dict()})

    def found(facts: Facts, profile: str = "sysbox", **more: Any) -> ModuleSources | None:
        settings = Settings(sysbox_sha256="0" * 64, shiftfs_sources=str(tmp_path), **more)
        return look.with_sources(Host(), settings, facts, profile).shiftfs_sources

    there = found(facts)
    assert there is not None
    assert len(wanted(dataclasses.replace(facts, shiftfs_sources=there))) == 5
    assert found(facts, "crio") is found(facts, shiftfs="off") is None
    assert found(dataclasses.replace(facts, kernel=Kernel("6.8.0-60-generic"))) is None
    assert found(dataclasses.replace(facts, kernel=Kernel(RECOMMENDED))) is None


class Cut(Host):
    """A host on which our process dies once DKMS has taken the sources, before it builds."""

    def survives(self, unit: str, *argv: str, timeout: int, environment: dict[str, str] | None = None) -> Result:
        if "build" in argv:
            raise ConnectionAbortedError
        return super().survives(unit, *argv, timeout=timeout, environment=environment)


@dataclasses.dataclass
class Rig:
    """The step on a machine whose headers are for another kernel than runs there, so nothing is loaded."""

    host: Host
    release: str
    sources: Path

    def plan(self, journal: Journal) -> Plan:
        facts = gather.gather(self.host, preflight.FLAVOUR_UNITS)
        ours = {entry.change.key: entry.change.to_dict() for entry in journal.entries}
        kernel = dataclasses.replace(facts.kernel, release=self.release, has_shiftfs=False)
        found = dkms.sources(str(self.sources), "shiftfs")
        facts = dataclasses.replace(facts, kernel=kernel, ours=ours, shiftfs_sources=found)
        made = make(facts, Settings(), (Step("shiftfs", shiftfs.wanted),), journal.entries, "sysbox")
        return dataclasses.replace(made, items=tuple(i for i in made.items if not isinstance(i.change, LoadModule)))

    def do(self, journal: Journal, change: InPlace, host: Host | None = None) -> None:
        """As the engine does: record, act, prove, record."""
        known = journal.entry(change.key)
        before = known.before if known and known.state != "done" else change.capture(self.host, journal)
        entry = journal.begin("shiftfs", change, before, "sysbox")
        after = change.apply(host or self.host, journal, before)
        change.verify(self.host)
        journal.done(entry, after)

    def undo(self, journal: Journal, *kinds: str) -> list[str]:
        """Takes back the newest first; all, or only some kinds."""
        entries = [e for e in reversed(journal.entries) if not kinds or e.change.kind in kinds]
        return [kept for entry in entries for kept in undo(self.host, journal, entry)]


@pytest.fixture
def rig(bare_node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    bare_node.run("apt-get", "update", "-q")
    architecture = bare_node.run("dpkg", "--print-architecture").stdout.strip()
    depends = bare_node.run("apt-cache", "depends", f"linux-headers-{architecture}").stdout
    release = depends.partition("Depends: linux-headers-")[2].split()[0]
    # Debian 12's kernel is past the need; the sources build for any.
    wants = support.Shiftfs("needed", "k6.1")
    monkeypatch.setattr(support, "for_kernel", lambda version: wants)
    return Rig(Host(bare_node.init_pid), release, standin.lay(tmp_path / "k6.1"))


@pytest.mark.node
def test_dkms_builds_it_for_debians_headers_and_every_trace_goes_again(bare_node: Node, rig: Rig) -> None:
    before = snapshot.take(bare_node)
    journal = Journal(rig.host)
    todo = [item.change for item in rig.plan(journal).todo]
    assert [change.kind for change in todo] == ["package", "package", "dkms", "file"]
    for change in todo[:2]:
        assert isinstance(change, InPlace)
        rig.do(journal, change)
    with_tools = snapshot.take(bare_node)
    build, file = todo[2:]
    assert isinstance(build, BuildModule) and isinstance(file, WriteFile)

    with pytest.raises(ConnectionAbortedError):
        rig.do(journal, build, Cut(bare_node.init_pid))
    assert "shiftfs/standin1: added" in bare_node.run("dkms", "status").stdout
    assert [i.change.key for i in rig.plan(journal).todo] == [build.key, file.key]
    assert rig.undo(journal, "dkms") == []
    assert _but_journal(snapshot.compare(with_tools, snapshot.take(bare_node))) == []

    bad = dataclasses.replace(build, files=(*build.files[:-1], ("shiftfs.c", "#error this is no module\n")))
    with pytest.raises(PermanentError, match="can't build") as caught:
        rig.do(journal, bad)
    assert "this is no module" in caught.value.found
    assert rig.undo(journal, "dkms") == []
    assert _but_journal(snapshot.compare(with_tools, snapshot.take(bare_node))) == []

    with pytest.raises(ConnectionAbortedError):
        rig.do(journal, build, Cut(bare_node.init_pid))
    rig.do(journal, build)
    rig.do(journal, file)
    module = f"/lib/modules/{rig.release}/updates/dkms/shiftfs.ko"
    about = bare_node.run("modinfo", "-k", rig.release, "shiftfs").stdout
    assert module in about
    assert f"vermagic:       {rig.release} " in about
    assert "stand-in" in about
    assert "installed" in bare_node.run("dkms", "status").stdout

    bare_node.run("rm", "/usr/src/shiftfs-standin1/shiftfs.c")
    assert [i.change.key for i in rig.plan(journal).todo] == [build.key]
    rig.do(journal, build)
    plan = rig.plan(Journal(rig.host))
    assert plan.todo == []
    assert f"shiftfs standin1 is built for {rig.release}" in [item.reason for item in plan.items]

    assert rig.undo(journal) == []
    journal.destroy()
    assert snapshot.compare(before, snapshot.take(bare_node)) == []


def _but_journal(differs: list[str]) -> list[str]:
    return [line for line in differs if "/var/lib/sysbox-deploy" not in line]
