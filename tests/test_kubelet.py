"""The kubelet as facts: what systemd would start, what runs, and what that means."""

from pathlib import Path

import pytest

from installer.errors import RefusedError
from installer.facts import kubelet, kubelet_config
from tests.fake_host import FakeHost

CONTAINERD, CRIO = "unix:///run/containerd/containerd.sock", "unix:///run/crio/crio.sock"
FRAGMENT, DROP_IN = "/lib/systemd/system/kubelet.service", "/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf"
UNIT = "[Service]\nExecStart=/usr/bin/kubelet\nRestart=always\n"
KUBEADM = r"""[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/k"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
"""
FLAGS_ENV = (
    f'KUBELET_KUBEADM_ARGS="--container-runtime-endpoint={CONTAINERD}'
    ' --pod-infra-container-image=registry.k8s.io/pause:3.10"\n'
)
CONFIG = (
    "apiVersion: kubelet.config.k8s.io/v1beta1\ncgroupDriver: systemd\ncontainerRuntimeEndpoint: \"\"\n"
    "healthzBindAddress: 127.0.0.1\nhealthzPort: 10248\nkind: KubeletConfiguration\n"
)  # fmt: skip
STARTED = (
    "/usr/bin/kubelet",
    "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf",
    "--kubeconfig=/k",
    "--config=/var/lib/kubelet/config.yaml",
    f"--container-runtime-endpoint={CONTAINERD}",
    "--pod-infra-container-image=registry.k8s.io/pause:3.10",
)
SHOW = "systemctl show --property=LoadState,FragmentPath,DropInPaths,MainPID,NeedDaemonReload -- kubelet.service"
FILES = [(FRAGMENT, UNIT), (DROP_IN, KUBEADM)]


def shown(load: str = "loaded", drop_ins: str = DROP_IN, pid: int = 0, reload: str = "no") -> str:
    return (
        f"MainPID={pid}\nLoadState={load}\nFragmentPath={FRAGMENT}\nDropInPaths={drop_ins}\nNeedDaemonReload={reload}\n"
    )


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    """A node as kubeadm's packages lay it."""
    made = FakeHost(tmp_path, {SHOW: shown(), "/usr/bin/kubelet --version": "Kubernetes v1.32.13\n"})
    made.put(FRAGMENT, UNIT)
    made.put(DROP_IN, KUBEADM)
    made.put("/var/lib/kubelet/kubeadm-flags.env", FLAGS_ENV)
    made.put("/var/lib/kubelet/config.yaml", CONFIG)
    return made


def test_kubeadm_s_layout_is_gathered_by_two_commands(host: FakeHost) -> None:
    found = kubelet.gather(host)
    assert found is not None
    assert host.asked == [SHOW, "/usr/bin/kubelet --version"]
    assert found.version == "v1.32.13"
    assert found.minor == "1.32"
    assert [path for path, _ in found.unit_files] == [FRAGMENT, DROP_IN]
    assert found.environment_files == {
        "/var/lib/kubelet/kubeadm-flags.env": FLAGS_ENV.encode(),
        "/etc/default/kubelet": None,
    }
    assert found.arguments == STARTED
    assert found.process == ()
    assert found.config_path == "/var/lib/kubelet/config.yaml"
    assert found.config["cgroupDriver"] == "systemd"
    assert found.endpoint == CONTAINERD
    assert found.cgroup_driver == "systemd"
    assert found.pause_image == "registry.k8s.io/pause:3.10"
    assert found.healthz == "127.0.0.1:10248"
    assert found.flavour == ""


def test_a_running_kubelet_s_own_arguments_are_read(host: FakeHost) -> None:
    host.answers[SHOW] = shown(pid=77)
    host.put("/proc/77/cmdline", "/usr/bin/kubelet\0--config=/c\0\0")
    found = kubelet.gather(host)
    assert found is not None
    assert found.process == ("/usr/bin/kubelet", "--config=/c", "")


def test_a_kubelet_that_ended_meanwhile_has_no_arguments(host: FakeHost) -> None:
    host.answers[SHOW] = shown(pid=78)
    found = kubelet.gather(host)
    assert found is not None
    assert found.process == ()


def test_no_kubelet_unit_is_no_kubelet(host: FakeHost) -> None:
    host.answers[SHOW] = "LoadState=not-found\n"
    assert kubelet.gather(host) is None


@pytest.mark.parametrize("load", ["masked", "bad-setting", "error"])
def test_a_unit_that_systemd_does_not_load_is_named(host: FakeHost, load: str) -> None:
    host.answers[SHOW] = shown(load)
    found = kubelet.gather(host)
    assert found is not None
    assert load in found.flavour


@pytest.mark.parametrize(
    "line", ["/bin/sh -c 'exec kubelet $KUBELET_OPTS'", "/usr/bin/snap run kubelet.daemon", "/opt/kubelet-wrapper --x"]
)
def test_a_unit_that_starts_something_else_is_named(host: FakeHost, line: str) -> None:
    host.put(DROP_IN, f"[Service]\nExecStart=\nExecStart={line}\n")
    found = kubelet.gather(host)
    assert found is not None
    assert line.split()[0] in found.flavour
    assert host.asked == [SHOW]


def test_a_kubelet_of_another_name_or_place_is_one(host: FakeHost) -> None:
    host.put(DROP_IN, "[Service]\nExecStart=\nExecStart=/opt/bin/kubelet-v1.32.1 --x\n")
    host.answers["/opt/bin/kubelet-v1.32.1 --version"] = "Kubernetes v1.32.1"
    found = kubelet.gather(host)
    assert found is not None
    assert (found.flavour, found.version) == ("", "v1.32.1")


def test_files_that_systemd_has_not_read_yet_count_as_it_will_read_them(host: FakeHost) -> None:
    host.answers[SHOW] = shown(drop_ins="", reload="yes")
    host.put("/etc/systemd/system/kubelet.service.d/20-extra.conf", "[Service]\nEnvironment=KUBELET_EXTRA_ARGS=--x\n")
    host.put(
        "/usr/lib/systemd/system/kubelet.service.d/20-extra.conf", "[Service]\nEnvironment=KUBELET_EXTRA_ARGS=--y\n"
    )
    host.put("/run/systemd/system/service.d/05-all.conf", "[Service]\nNice=1\n")
    host.put("/run/systemd/system/service.d/notes.txt", "no drop-in")
    found = kubelet.gather(host)
    assert found is not None
    assert [path for path, _ in found.unit_files] == [
        FRAGMENT,
        "/run/systemd/system/service.d/05-all.conf",
        DROP_IN,
        "/etc/systemd/system/kubelet.service.d/20-extra.conf",
    ]
    assert found.arguments == (*STARTED, "--x")


def test_globs_in_the_names_of_environment_files_are_followed(host: FakeHost) -> None:
    host.put(DROP_IN, "[Service]\nExecStart=\nExecStart=/usr/bin/kubelet $A $B\nEnvironmentFile=/etc/kubelet.d/*.env\n")
    host.put("/etc/kubelet.d/2.env", "A=--two")
    host.put("/etc/kubelet.d/1.env", "A=--one\nB=--both")
    host.put("/etc/kubelet.d/.3.env", "A=--hidden")
    found = kubelet.gather(host)
    assert found is not None
    assert found.arguments[1:] == ("--two", "--both")
    assert list(found.environment_files) == ["/etc/kubelet.d/1.env", "/etc/kubelet.d/2.env"]


def test_a_later_environment_file_wins_over_an_earlier_and_over_the_unit() -> None:
    unit = "[Service]\nExecStart=/k $A $B ${C}\nEnvironment=A=unit B=unit C=unit\n"
    unit += "EnvironmentFile=/1\nEnvironmentFile=-/2\n"
    files = {"/1": b"A=1\nB=1\n", "/2": b"B=2\n"}
    assert kubelet.effective([("/u", unit)], files) == ("/k", "1", "2", "unit")
    assert kubelet.effective([("/u", f"{unit}UnsetEnvironment=A B=1\n")], files) == ("/k", "2", "unit")
    assert kubelet.effective([("/u", f"{unit}EnvironmentFile=\n")], {}) == ("/k", "unit", "unit", "unit")


@pytest.mark.parametrize("content", [None, b"A=\xff\n", b"A=1\0"])
def test_an_optional_file_that_cannot_be_read_is_passed_over_and_another_refused(content: bytes | None) -> None:
    unit = "[Service]\nExecStart=/k $A\nEnvironment=A=unit\nEnvironmentFile="
    assert kubelet.effective([("/u", f"{unit}-/1\n")], {"/1": content}) == ("/k", "unit")
    with pytest.raises(RefusedError, match="could not start") as refused:
        kubelet.effective([("/u", f"{unit}/1\n")], {"/1": content})
    assert refused.value.where == "/1"


def test_a_glob_that_matches_nothing_is_refused_unless_optional() -> None:
    assert kubelet.effective([("/u", "[Service]\nExecStart=/k\nEnvironmentFile=-/x/*\n")], {}) == ("/k",)
    with pytest.raises(RefusedError, match="could not start"):
        kubelet.effective([("/u", "[Service]\nExecStart=/k\nEnvironmentFile=/x/*\n")], {})


@pytest.mark.parametrize(
    "text", ["[Service]\n", "[Service]\nExecStart=/a\nExecStart=/b\n", "[Service]\nExecStart=/a ; /b\n"]
)
def test_a_unit_without_a_single_command_is_refused(text: str) -> None:
    with pytest.raises(RefusedError, match="no single command"):
        kubelet.effective([("/u", text)], {})


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (("--x=1",), "1"),
        (("--x", "1"), "1"),
        (("--x=1", "--x=2"), "2"),
        (("--x=", "--y"), ""),
        (("--x_=1", "--x"), None),
        (("-x=1", "--xy=2"), None),
        (("--", "--x=1"), None),
        (("--x=a=b",), "a=b"),
    ],
)
def test_a_flag_is_read_as_go_reads_it(argv: tuple[str, ...], value: str | None) -> None:
    assert kubelet.flag(("/k", *argv), "x") == value


def test_underscores_in_a_flag_s_name_are_dashes() -> None:
    assert kubelet.flag(("/k", "--container_runtime_endpoint=a"), "container-runtime-endpoint") == "a"


@pytest.mark.parametrize(
    ("argv", "config", "version", "endpoint"),
    [
        ((f"--container-runtime-endpoint={CRIO}",), {"containerRuntimeEndpoint": CONTAINERD}, "v1.34.0", CRIO),
        ((), {"containerRuntimeEndpoint": CRIO}, "v1.34.0", CRIO),
        ((), {"containerRuntimeEndpoint": ""}, "v1.34.0", CONTAINERD),
        ((), {"containerRuntimeEndpoint": CRIO}, "v1.20.2", "unix:///var/run/dockershim.sock"),
        ((), {}, "", CONTAINERD),
    ],
)
def test_the_endpoint_is_the_flag_s_or_the_configuration_s_or_the_default(
    argv: tuple[str, ...], config: dict[str, object], version: str, endpoint: str
) -> None:
    assert kubelet.endpoint(argv, config, version) == endpoint


@pytest.mark.parametrize(
    ("endpoint", "argv", "version", "runtime"),
    [
        (CONTAINERD, (), "v1.32.0", "containerd"),
        ("/run/containerd/containerd.sock", (), "v1.32.0", "containerd"),
        ("unix:///var/run/crio/crio.sock", (), "v1.32.0", "crio"),
        ("unix:///var/run/cri-dockerd.sock", (), "v1.32.0", "cri-dockerd"),
        ("unix:///var/run/dockershim.sock", (), "v1.28.0", "cri-dockerd"),
        (CONTAINERD, (), "v1.20.2", "dockershim"),
        (CONTAINERD, ("--container-runtime=remote",), "v1.20.2", "containerd"),
        ("unix:///run/frakti.sock", (), "v1.32.0", "unix:///run/frakti.sock"),
    ],
)
def test_the_runtime_is_known_by_its_endpoint(endpoint: str, argv: tuple[str, ...], version: str, runtime: str) -> None:
    assert kubelet.runtime_of(endpoint, argv, version) == runtime


def test_endpoints_that_name_one_socket_are_the_same() -> None:
    assert kubelet.same_endpoint("unix:///var/run/crio/crio.sock", "/run/crio/crio.sock")
    assert not kubelet.same_endpoint(CRIO, CONTAINERD)


GATE_ON, GATE_OFF = (
    {"featureGates": {"KubeletCgroupDriverFromCRI": True}},
    {"featureGates": {"KubeletCgroupDriverFromCRI": False}},
)


@pytest.mark.parametrize(
    ("argv", "config", "version", "said", "driver"),
    [
        ((), {}, "v1.34.0", "", "cgroupfs"),
        ((), {"cgroupDriver": "systemd"}, "v1.34.0", "", "systemd"),
        (("--cgroup-driver=cgroupfs",), {"cgroupDriver": "systemd"}, "v1.30.0", "systemd", "cgroupfs"),
        ((), {"cgroupDriver": "systemd"}, "v1.32.0", "cgroupfs", "cgroupfs"),
        ((), {"cgroupDriver": "systemd", **GATE_OFF}, "v1.32.0", "cgroupfs", "systemd"),
        ((), {"cgroupDriver": "systemd", **GATE_OFF}, "v1.34.0", "cgroupfs", "cgroupfs"),
        ((), {**GATE_ON}, "v1.28.0", "systemd", "systemd"),
        (("--feature-gates=A=true,KubeletCgroupDriverFromCRI=false",), {**GATE_ON}, "v1.32.0", "systemd", "cgroupfs"),
        ((), {**GATE_ON}, "v1.20.0", "systemd", "cgroupfs"),
    ],
)
def test_the_cgroup_driver_is_the_runtime_s_where_the_kubelet_asks_it(
    argv: tuple[str, ...], config: dict[str, object], version: str, said: str, driver: str
) -> None:
    assert kubelet_config.cgroup_driver(argv, config, version, said) == driver


def test_a_runtime_s_own_word_on_its_cgroup_driver_is_heard(host: FakeHost) -> None:
    found = kubelet.gather(host, {"containerd": "cgroupfs", "crio": "systemd"})
    assert found is not None
    assert found.cgroup_driver == "cgroupfs"


@pytest.mark.parametrize(
    ("argv", "config", "address"),
    [
        ((), {}, "127.0.0.1:10248"),
        ((), {"healthzPort": 0}, ""),
        (("--healthz-port=0",), {"healthzPort": 1}, ""),
        (("--healthz-port=1234", "--healthz-bind-address", "::"), {}, "[::1]:1234"),
        ((), {"healthzBindAddress": "0.0.0.0", "healthzPort": 9}, "127.0.0.1:9"),
        ((), {"healthzBindAddress": "10.0.0.7"}, "10.0.0.7:10248"),
    ],
)
def test_health_is_asked_where_it_is_served(argv: tuple[str, ...], config: dict[str, object], address: str) -> None:
    assert kubelet_config.healthz(argv, config) == address


def test_drop_ins_of_the_configuration_are_merged_in_the_order_of_their_names(host: FakeHost) -> None:
    host.put("/etc/default/kubelet", 'KUBELET_EXTRA_ARGS="--config-dir=/etc/kubelet.conf.d"\n')
    host.put("/var/lib/kubelet/kubeadm-flags.env", "")
    host.put("/etc/kubelet.conf.d/20-b.conf", f"containerRuntimeEndpoint: {CRIO}\nhealthzPort: 1\nlogging: {{a: 1}}\n")
    host.put("/etc/kubelet.conf.d/10-a.conf", "containerRuntimeEndpoint: unix:///other\nlogging: {b: 2}\n")
    host.put("/etc/kubelet.conf.d/30-more/x.conf", "healthzPort: null\ncgroupDriver: cgroupfs\n")
    host.put("/etc/kubelet.conf.d/40-no.yaml", "containerRuntimeEndpoint: unix:///not\n")
    found = kubelet.gather(host)
    assert found is not None
    assert found.endpoint == CRIO
    assert found.healthz == "127.0.0.1:10248"
    assert found.cgroup_driver == "cgroupfs"
    assert found.config["logging"] == {"a": 1, "b": 2}


def test_kubeadm_s_instance_configuration_counts_only_once_it_is_in_the_configuration(host: FakeHost) -> None:
    host.put("/var/lib/kubelet/kubeadm-flags.env", 'KUBELET_KUBEADM_ARGS=""\n')
    host.put("/var/lib/kubelet/instance-config.yaml", f'containerRuntimeEndpoint: "{CRIO}"\n')
    found = kubelet.gather(host)
    assert found is not None
    assert found.endpoint == CONTAINERD


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ("a: 1\nb: [\nc: }\n", "/var/lib/kubelet/config.yaml, line 3"),
        ("- a\n", "/var/lib/kubelet/config.yaml, line 1"),
        ("just text", "/var/lib/kubelet/config.yaml, line 1"),
        ("a: 2026-99-99\n", "/var/lib/kubelet/config.yaml"),
        (b"a: \xff\n", "/var/lib/kubelet/config.yaml"),
        (b"\0", "/var/lib/kubelet/config.yaml"),
    ],
)
def test_a_configuration_that_is_no_yaml_is_refused_with_its_place(
    host: FakeHost, content: str | bytes, where: str
) -> None:
    host.put("/var/lib/kubelet/config.yaml", content)
    with pytest.raises(RefusedError, match="configuration is not") as refused:
        kubelet.gather(host)
    assert refused.value.where == where
    assert refused.value.found
    assert refused.value.remedy


def test_a_missing_configuration_is_refused(host: FakeHost) -> None:
    (host.root / "var/lib/kubelet/config.yaml").unlink()
    with pytest.raises(RefusedError, match="missing"):
        kubelet.gather(host)


def test_an_empty_configuration_is_all_defaults(host: FakeHost) -> None:
    host.put("/var/lib/kubelet/config.yaml", "# nothing\n")
    found = kubelet.gather(host)
    assert found is not None
    assert found.config == {}


def test_the_endpoint_with_a_file_changed_or_gone(host: FakeHost) -> None:
    found = kubelet.gather(host)
    assert found is not None
    extra = f"KUBELET_EXTRA_ARGS=--container-runtime-endpoint={CRIO}\n".encode()
    own = "/etc/systemd/system/kubelet.service.d/99-own.conf"
    drop_in = f"[Service]\nExecStart=\nExecStart=/usr/bin/kubelet --container-runtime-endpoint={CRIO}\n".encode()
    assert kubelet.endpoint_with(found, "/etc/default/kubelet", extra) == CRIO
    assert kubelet.endpoint_with(found, "/etc/default/kubelet", None) == CONTAINERD
    assert kubelet.endpoint_with(found, "/var/lib/kubelet/kubeadm-flags.env", None) == ""
    assert kubelet.endpoint_with(found, own, drop_in) == CRIO
    assert kubelet.endpoint_with(found, own, None) == CONTAINERD
