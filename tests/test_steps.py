"""Steps on whatever a node holds: a plan that is right and goes back without a trace, or a refusal by name."""

import tomllib
from typing import Any

from debian.deb822 import Deb822
from hypothesis import example, given
from hypothesis import strategies as st

from installer.changes import Change, OwnLines, SwitchRuntime, WriteFile
from installer.changes.files import restore
from installer.errors import DeployError, RefusedError, SettingsError
from installer.facts import kubelet, lazy, subids, systemd
from installer.facts.kubelet import flag
from installer.facts.model import Artifact, Containerd, Facts, Kubelet, Module, Sysctl
from installer.host import FileState, encode
from installer.journal import Journal
from installer.settings import Settings
from installer.steps import ORDER
from tests.making import FEW, holds, make, take_back
from tests.tree_host import TreeHost, a_host

UID, GID, DEFS = "/etc/subuid", "/etc/subgid", "/etc/login.defs"


def wanted(name: str, facts: Facts, settings: Settings | None = None) -> list[Change]:
    """What a step wants, its remarks left out."""
    step = next(s for s in ORDER["sysbox"] if s.name == name)
    return [change for change in step.wanted(facts, settings or Settings()) if isinstance(change, Change)]


def refused(error: DeployError) -> None:
    assert error.where
    assert error.found
    assert error.remedy


NUMBERS = st.one_of(
    st.sampled_from(
        [
            "0",
            "1",
            "65536",
            "100000",
            "165536",
            "4294967295",
            "4294967296",
            "-1",
            "0x10000",
            "010",
            "",
            " 7",
            "1e5",
            "٣",
        ]
    ),
    st.integers(0, 2**33).map(str),
)
ENTRIES = st.builds(
    "{}:{}:{}{}".format,
    *(
        st.sampled_from(["containers", "cesar", "sysbox", "997", "", "é"]),
        NUMBERS,
        NUMBERS,
        st.sampled_from(["", "\r", " ", ":9"]),
    ),
)
SUBIDS = st.one_of(
    st.none(),
    st.tuples(st.lists(st.one_of(ENTRIES, st.sampled_from(["# x", "", "\0", "\x0c"])), max_size=5), st.booleans()).map(
        lambda parts: ("\n".join(parts[0]) + "\n" * parts[1]).encode()
    ),
    st.binary(max_size=30),
)
LIMITS = st.one_of(
    st.none(),
    st.lists(
        st.builds("{} {}".format, st.sampled_from(["SUB_UID_MIN", "SUB_UID_MAX", "SUB_GID_MAX", "UID_MIN"]), NUMBERS),
        max_size=3,
    ).map(lambda lines: "\n".join(lines).encode()),
)


@FEW
@given(SUBIDS, SUBIDS, LIMITS, st.sampled_from([1, 65536, 4096 * 65536, 2**32 - 1]))
@example(b"cesar:100000:65536\n", b"cesar:100000:65536\n", None, 4096 * 65536)
def test_subordinate_ids_are_found_in_any_files_or_refused_and_go_without_a_trace(
    uids: bytes | None, gids: bytes | None, limits: bytes | None, count: int
) -> None:
    with a_host() as host:
        for path, content in ((UID, uids), (GID, gids), (DEFS, limits)):
            if content is not None:
                host.put(path, content, 0o640)
        was, facts, settings = host.snapshot(), Facts(files=lazy.files(host)), Settings(subid_count=count)
        try:
            changes = [*wanted("subids", facts, settings), *wanted("sysbox-subids", facts, settings)]
        except RefusedError as error:
            refused(error)
            return
        entries = [make(host, change) for change in changes if isinstance(change, OwnLines)]
        assert len(entries) == len(changes)
        _same_ids_in_both(host, "containers", count)
        ours = {entry.change.key: entry.change.to_dict() for entry in entries}
        now = Facts(files=lazy.files(host), ours=ours)
        again = [*wanted("subids", now, settings), *wanted("sysbox-subids", now, settings)]
        assert again == changes
        assert all(holds(host, change) for change in again)
        for entry in reversed(entries):
            assert take_back(host, entry.change.key) == []
        assert host.snapshot() == was


def _same_ids_in_both(host: TreeHost, user: str, count: int) -> None:
    """As the facts' own reader sees it: one set of ids, enough of them."""
    texts = [(host.read(path) or b"").decode("utf-8", "surrogateescape") for path in (UID, GID)]
    choice = subids.choose(texts[0], texts[1], "", user, count)
    assert (choice.subuid_lines, choice.subgid_lines) == ((), ())
    assert sum(end - start for start, end in choice.ranges) >= count


def test_a_file_of_subordinate_ids_that_is_too_long_to_look_at_is_refused_by_name() -> None:
    with a_host() as host:
        host.put(UID, b"cesar:100000:65536\n" * (1 << 16))
        try:
            wanted("subids", Facts(files=lazy.files(host)))
        except RefusedError as error:
            assert (error.where, error.found) == (UID, f"{19 << 16} bytes")
        else:
            raise AssertionError("it was taken for empty")


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@FEW
@given(
    NAMES,
    NAMES,
    st.lists(NAMES, max_size=3).map(tuple),
    st.sampled_from(["systemd", "cgroupfs"]),
    st.integers(1, 2**31),
)
def test_crios_drop_ins_parse_back_to_what_was_meant(
    pause: str, conf: str, bins: tuple[str, ...], driver: str, pids: int
) -> None:
    folder = FileState("dir", 0o755, 0, 0)
    facts = Facts(
        kubelet=Kubelet("v1.32.1", cgroup_driver=driver),
        containerd=Containerd(pause_image=pause, cni_conf=conf, cni_bin=next(iter(bins), ""), cni_bins=bins),
        files=dict.fromkeys(bins, folder),
    )
    made = [c for c in wanted("crio-config", facts, Settings(pids_limit=pids)) if isinstance(c, WriteFile)]
    parsed: dict[str, Any] = {}
    for change in made:
        if change.path.startswith("/etc/crio/"):
            for key, value in tomllib.loads(change.content)["crio"].items():
                parsed[key] = {**parsed[key], **value} if isinstance(value, dict) and key in parsed else value
        elif change.path.startswith("/etc/containers/"):
            assert tomllib.loads(change.content)["unqualified-search-registries"] == ["docker.io"]
    assert parsed["runtime"]["cgroup_manager"] == driver
    assert parsed["runtime"]["conmon_cgroup"] == {"systemd": "system.slice", "cgroupfs": "pod"}[driver]
    assert parsed["runtime"]["pids_limit"] == pids
    assert parsed["runtime"]["runtimes"]["sysbox-runc"]["runtime_path"] == "/usr/bin/sysbox-runc"
    assert parsed.get("image", {}).get("pause_image", "") == pause
    assert parsed["network"]["network_dir"] == (conf or "/etc/cni/net.d")
    assert parsed["network"]["plugin_dirs"] == (list(dict.fromkeys(b for b in bins if b)) or ["/opt/cni/bin"])


@FEW
@given(
    st.one_of(
        st.binary(max_size=30), st.sampled_from([b"[crio]\n", b"a = 1", b"a = [", b"\xef\xbb\xbfa = 1\n", b"a='\xe9'"])
    )
)
def test_an_operators_drop_in_goes_to_the_node_as_it_is_or_is_refused_by_name(content: bytes) -> None:
    text = content.decode("utf-8", "surrogateescape")
    facts = Facts(kubelet=Kubelet("v1.32.1", cgroup_driver="systemd"), drop_ins={"10-x.conf": text})
    try:
        changes = wanted("crio-config", facts, Settings(crio_drop_ins="/operators"))
    except SettingsError as error:
        refused(error)
        assert error.where == "/operators/10-x.conf"
        return
    mine = [c for c in changes if isinstance(c, WriteFile) and c.path.endswith("-10-x.conf")]
    assert [encode(c.content) for c in mine] == [content]
    tomllib.loads(content.decode())


PIECES = (
    *("--a=1", "--log-level debug", " ", "%", "%n", "%%", "$HOME", "${HOME}", "$", "'", '"', "\\", "\\x41", "é"),
    *(";", "\\;", "@"),
)
FLAGS = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
UNIT = "[Service]\nExecStart=\nExecStart=/usr/bin/sysbox-mgr --own\n"


@FEW
@given(FLAGS)
@example("--x='100% of $HOME' --y")
def test_the_operators_flags_reach_the_daemon_as_they_are_or_are_refused(flags: str) -> None:
    artifact = Artifact("", "0" * 64, "0.6.7", (), {"/lib/systemd/system/sysbox-mgr.service": UNIT})
    facts = Facts(artifacts={"sysbox": artifact}, modules=_NO)
    try:
        changes = wanted("sysbox", facts, Settings(sysbox_mgr_config=flags))
    except SettingsError as error:
        refused(error)
        assert error.where == "SYSBOX_MGR_CONFIG"
        return
    drop_in = next(c.content for c in changes if isinstance(c, WriteFile) and "/sysbox-mgr.service.d/" in c.path)
    commands = systemd.service([UNIT, drop_in], "sysbox-mgr.service").commands
    meant = [word.text for word in systemd.words(flags, systemd.Escapes.LENIENT)]
    started = [a.text for command in commands for a in systemd.expand(command, {"HOME": "/root"})]
    assert len(commands) == 1
    assert started == ["/usr/bin/sysbox-mgr", "--own", *meant]


_NO: Any = lazy.Looked(lambda _: Module())


@FEW
@given(st.sampled_from(["65530", "262144", "1048576", "", "many"]), st.booleans())
def test_a_boot_never_lowers_what_somebody_set_higher(now: str, writable: bool) -> None:
    facts = Facts(
        artifacts={"sysbox": Artifact("", "0" * 64)}, modules=_NO, sysctls={"vm.max_map_count": Sysctl(now, writable)}
    )
    lines = [c.content for c in wanted("sysbox", facts) if isinstance(c, WriteFile) and "sysctl.d" in c.path]
    assert lines == [f"vm.max_map_count = {max(int(now) if now.isdigit() else 0, 262144)}\n"]


def test_the_repositorys_source_parses_back() -> None:
    settings = Settings(crio_repository="http://mirror.example/{minor}/x", crio_repository_suite="bookworm main")
    facts = Facts(kubelet=Kubelet("v1.34.1"), keys={"http://mirror.example/1.34/x/Release.key": "\udc99"})
    files = {c.path: c.content for c in wanted("crio", facts, settings) if isinstance(c, WriteFile)}
    assert dict(Deb822(files["/etc/apt/sources.list.d/sysbox-deploy-cri-o.sources"])) == {
        "Types": "deb",
        "URIs": "http://mirror.example/1.34/x",
        "Suites": "bookworm",
        "Components": "main",
        "Signed-By": "/etc/apt/keyrings/sysbox-deploy-cri-o.gpg",
    }
    assert dict(Deb822(files["/etc/apt/preferences.d/sysbox-deploy-crio"])) == {
        "Package": "cri-o",
        "Pin": "version 1.34.*",
        "Pin-Priority": "1001",
    }


CONTAINERD, CRIO = "unix:///run/containerd/containerd.sock", "unix:///run/crio/crio.sock"
LINE = f"--container-runtime-endpoint={CONTAINERD}"
KUBELET = "/usr/lib/systemd/system/kubelet.service"
ENVIRONMENT_PIECES = (
    *(b"KUBELET_OPTS=", LINE.encode(), b"--runtime-cgroups=/system.slice/containerd.service", b" --v=2", b" "),
    *(b"\n", b"\n", b"\r\n", b'"', b"'", b"\\", b"\\\n", b"#", b"X=1", b"$", b"caf\xe9", b"\0", b"\xef\xbb\xbf"),
)
ENVIRONMENTS = st.lists(st.sampled_from(ENVIRONMENT_PIECES), max_size=10).map(b"".join)


@FEW
@given(st.one_of(st.none(), ENVIRONMENTS), st.sampled_from([0o644, 0o600]))
@example(f'KUBELET_OPTS="--v=2 {LINE}"'.encode(), 0o600)
@example(f'KUBELET_OPTS="--v=2 {LINE}"\r\n'.encode(), 0o644)
def test_the_kubelets_file_is_changed_by_the_endpoint_only_and_goes_back_byte_for_byte(
    content: bytes | None, mode: int
) -> None:
    with a_host() as host:
        unit = "[Service]\nEnvironmentFile=-/etc/default/kubelet\nExecStart=/usr/bin/kubelet --config= $KUBELET_OPTS\n"
        host.put(KUBELET, unit.encode())
        if content is not None:
            host.put("/etc/default/kubelet", content, mode)
        was = host.snapshot()
        try:
            before = _kubelet(host)
            (move,) = (c for c in wanted("kubelet", _facts(host, before)) if isinstance(c, SwitchRuntime))
        except RefusedError as error:
            assert error.where
            assert error.remedy
            assert host.snapshot() == was
            return
        journal = Journal(host)
        found = move.capture(host, journal)
        host.make_directory(move.path.rpartition("/")[0])
        host.replace(move.path, encode(move.content), FileState("file", move.mode, move.uid, move.gid))
        after = _kubelet(host)
        assert flag(after.arguments, "container-runtime-endpoint") == CRIO
        assert _others(after) == _others(before)
        state = host.state(move.path)
        assert state
        assert state.mode == (mode if content is not None and move.path == "/etc/default/kubelet" else 0o644)
        assert restore(host, journal, found, encode(move.content)) == []
        assert host.snapshot() == was


def _kubelet(host: TreeHost) -> Kubelet:
    shown = f"LoadState=loaded\nFragmentPath={KUBELET}\nNeedDaemonReload=yes\n"
    host.commands.update(systemctl=lambda *_: shown, kubelet=lambda *_: "Kubernetes v1.32.13\n")
    found = kubelet.gather(host)
    assert found
    return found


def _facts(host: TreeHost, now: Kubelet) -> Facts:
    return Facts(files=lazy.files(host), kubelet=now)


def _others(now: Kubelet) -> list[str]:
    ours = ("--container-runtime-endpoint=", "--runtime-cgroups=")
    return [argument for argument in now.arguments if not argument.startswith(ours)]
