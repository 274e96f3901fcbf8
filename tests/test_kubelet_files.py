"""The change of the kubelet's files: the smallest one, in one file, proven, and none the second time."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from installer.errors import RefusedError
from installer.facts import kubelet as facts
from installer.facts.environment import occurrences
from installer.facts.kubelet import flag
from installer.facts.model import Kubelet
from installer.host import decode
from installer.steps.kubelet_files import Edit, point_at
from tests.test_kubelet import CONTAINERD, CRIO, DROP_IN, FRAGMENT, KUBEADM, UNIT

CGROUPS = "/system.slice/crio.service"
ENDPOINT = "container-runtime-endpoint"
DEFAULT, SYSCONFIG, KUBEADM_FLAGS = (
    "/etc/default/kubelet",
    "/etc/sysconfig/kubelet",
    "/var/lib/kubelet/kubeadm-flags.env",
)
OWN = "/etc/systemd/system/kubelet.service.d/99-sysbox-deploy.conf"
ON_CONTAINERD = f"--{ENDPOINT}={CONTAINERD}"
ON_CRIO = f"--{ENDPOINT}={CRIO}"


def laid_out(
    *drop_ins: tuple[str, str],
    config: dict[str, object] | None = None,
    version: str = "v1.32.13",
    **environment: str | bytes | None,
) -> Kubelet:
    """A kubelet with these drop-ins; files by short names: default, sysconfig, kubeadm."""
    paths = {"default": DEFAULT, "sysconfig": SYSCONFIG, "kubeadm": KUBEADM_FLAGS}
    contents = {paths[k]: v.encode() if isinstance(v, str) else v for k, v in environment.items()}
    units = ((FRAGMENT, UNIT), *drop_ins)
    argv = facts.effective(units, contents)
    settings = config or {}
    return Kubelet(
        version=version, unit_files=units, environment_files=contents, arguments=argv, config=settings,
        endpoint=facts.endpoint(argv, settings, version),
    )  # fmt: skip


def kubeadm(flags: str = ON_CONTAINERD, *, default: str | bytes | None = None, **config: object) -> Kubelet:
    return laid_out((DROP_IN, KUBEADM), config=config, kubeadm=f'KUBELET_KUBEADM_ARGS="{flags}"\n', default=default)


def seed(options: str, *, extra: str = "") -> Kubelet:
    """The seed's layout: /etc/default/kubelet with KUBELET_OPTS."""
    text = f"[Service]\nEnvironmentFile={DEFAULT}\nExecStart=\nExecStart=/usr/bin/kubelet $KUBELET_OPTS{extra}\n"
    return laid_out(("/etc/systemd/system/kubelet.service.d/10-opts.conf", text), default=options)


def moved(kubelet: Kubelet) -> tuple[Kubelet, Edit]:
    """The kubelet after the change, which must hold what every change promises."""
    edit = point_at(kubelet, CRIO, CGROUPS)
    assert edit is not None
    after = with_edit(kubelet, edit)
    assert flag(after.arguments, ENDPOINT) == CRIO
    assert others(after) == others(kubelet)
    assert not edit.path.startswith("/var/lib/kubelet/")
    assert edit.old == {**dict(kubelet.environment_files), **coded(kubelet)}.get(edit.path)
    assert point_at(after, CRIO, CGROUPS) is None
    return after, edit


def with_edit(kubelet: Kubelet, edit: Edit) -> Kubelet:
    units, environment = dict(kubelet.unit_files), dict(kubelet.environment_files)
    if edit.path.endswith(".conf"):
        units[edit.path] = decode(edit.new)
    else:
        environment[edit.path] = edit.new
    fragment, *drop_ins = units.items()
    ordered = (fragment, *sorted(drop_ins, key=lambda item: item[0].rpartition("/")[2]))
    argv = facts.effective(ordered, environment)
    return dataclasses.replace(kubelet, unit_files=ordered, environment_files=environment, arguments=argv)


def coded(kubelet: Kubelet) -> dict[str, bytes | None]:
    return {path: text.encode() for path, text in kubelet.unit_files}


def others(kubelet: Kubelet) -> list[str]:
    """The arguments but for those about the runtime."""
    names = (ENDPOINT, "runtime-cgroups", "image-service-endpoint")
    found = [each for name in names for each in occurrences(kubelet.arguments, name)]
    gone = {i for each in found for i in range(each.first, each.last + 1)}
    return [word for i, word in enumerate(kubelet.arguments) if i not in gone]


def test_kubeadm_s_layout_gets_the_operator_s_file_that_its_unit_names() -> None:
    _, edit = moved(kubeadm())
    assert edit == Edit(DEFAULT, f'KUBELET_EXTRA_ARGS="{ON_CRIO}"\n'.encode(), None)


def test_flags_of_the_operator_stay_in_front() -> None:
    old = b"# mine\nKUBELET_EXTRA_ARGS='--node-ip=10.0.0.7'\nOTHER=1"
    _, edit = moved(kubeadm(default=old))
    assert edit == Edit(DEFAULT, f"# mine\nKUBELET_EXTRA_ARGS='--node-ip=10.0.0.7 {ON_CRIO}'\nOTHER=1".encode(), old)


def test_the_seed_s_layout_is_changed_in_place() -> None:
    cgroups = "--runtime-cgroups=/system.slice/containerd.service"
    old = f'KUBELET_OPTS="--v=2 --container-runtime=remote {cgroups} {ON_CONTAINERD} --x"\n'
    _, edit = moved(seed(old))
    new = old.replace(CONTAINERD, CRIO).replace("containerd.service", "crio.service")
    assert edit == Edit(DEFAULT, new.encode(), old.encode())


def test_runtime_cgroups_that_name_no_runtime_s_unit_stay() -> None:
    old = f'KUBELET_OPTS="--runtime-cgroups=/podruntime.slice {ON_CONTAINERD}"\n'
    after, _ = moved(seed(old))
    assert flag(after.arguments, "runtime-cgroups") == "/podruntime.slice"


def test_runtime_cgroups_of_another_file_are_overridden_in_the_one_that_changes() -> None:
    after, edit = moved(kubeadm(f"{ON_CONTAINERD} --runtime-cgroups=/system.slice/containerd.service"))
    assert edit.new == f'KUBELET_EXTRA_ARGS="{ON_CRIO} --runtime-cgroups={CGROUPS}"\n'.encode()
    assert flag(after.arguments, "runtime-cgroups") == CGROUPS


def test_a_service_of_images_of_its_own_moves_too() -> None:
    after, _ = moved(kubeadm(imageServiceEndpoint=CONTAINERD))
    assert flag(after.arguments, "image-service-endpoint") == CRIO
    after, _ = moved(kubeadm(f"{ON_CONTAINERD} --image-service-endpoint={CONTAINERD}"))
    assert flag(after.arguments, "image-service-endpoint") == CRIO


@pytest.mark.parametrize("named", [CRIO, "unix:///var/run/crio/crio.sock", "/run/crio/crio.sock"])
def test_nothing_is_to_do_where_flag_or_configuration_name_the_endpoint(named: str) -> None:
    assert point_at(kubeadm(f"--{ENDPOINT}={named}"), CRIO, CGROUPS) is None
    assert point_at(kubeadm("", containerRuntimeEndpoint=named), CRIO, CGROUPS) is None


def test_an_endpoint_in_the_configuration_is_overridden_by_the_flag() -> None:
    _, edit = moved(kubeadm("", containerRuntimeEndpoint=CONTAINERD))
    assert edit.path == DEFAULT


def test_a_variable_before_the_flag_would_lose_so_a_drop_in_of_ours_is_written() -> None:
    text = KUBEADM.replace("$KUBELET_EXTRA_ARGS", "").replace(
        "kubelet $KUBELET_K", "kubelet $KUBELET_EXTRA_ARGS $KUBELET_K", 1
    )
    assert "kubelet $KUBELET_EXTRA_ARGS $KUBELET_KUBECONFIG_ARGS" in text
    kubelet = laid_out(
        (DROP_IN, text), kubeadm=f"KUBELET_KUBEADM_ARGS={ON_CONTAINERD}\n", default="KUBELET_EXTRA_ARGS=--x\n"
    )
    after, edit = moved(kubelet)
    assert edit.path == OWN
    assert edit.old is None
    assert after.arguments[-1] == ON_CRIO


def test_extra_arguments_in_the_unit_s_environment_are_not_lost_to_a_file() -> None:
    extra = "[Service]\nEnvironment=KUBELET_EXTRA_ARGS=--node-ip=10.0.0.7\n"
    kubelet = laid_out((DROP_IN, KUBEADM), ("/etc/systemd/system/kubelet.service.d/20-ip.conf", extra), default=None)
    after, edit = moved(kubelet)
    assert edit.path == OWN
    assert "--node-ip=10.0.0.7" in after.arguments


@pytest.mark.parametrize(
    "command",
    [
        f"/usr/bin/kubelet {ON_CONTAINERD}",
        f"-/usr/bin/kubelet --x='a b' \\\n  # why\n  {ON_CONTAINERD}  --y=%% \"--z=$$\"",
        f"/usr/bin/kubelet {ON_CONTAINERD} ${{KUBELET_OPTS}}",
        f":/usr/bin/kubelet {ON_CONTAINERD} $KUBELET_OPTS",
        "/usr/bin/kubelet",
    ],
)
def test_a_command_without_a_variable_to_use_is_restated_in_a_drop_in(command: str) -> None:
    text = f"[Service]\nEnvironmentFile=-{DEFAULT}\nExecStart=\nExecStart={command}\n"
    after, edit = moved(laid_out((DROP_IN, text), default="KUBELET_OPTS=--v=1\n"))
    assert edit.path == OWN
    assert after.arguments[-1] == ON_CRIO
    assert after.arguments[0] == "/usr/bin/kubelet"


def test_our_drop_in_is_written_to_be_read() -> None:
    _, edit = moved(laid_out((DROP_IN, f"[Service]\nExecStart=\nExecStart=/usr/bin/kubelet $X {ON_CONTAINERD}\n")))
    assert decode(edit.new) == (
        "# By sysbox-deploy: the unit's own command line, and which runtime the kubelet uses.\n"
        "[Service]\n"
        "ExecStart=\n"
        f"ExecStart=/usr/bin/kubelet $X {ON_CONTAINERD} {ON_CRIO}\n"
    )


def test_our_drop_in_follows_when_an_upgrade_changes_the_unit() -> None:
    old = laid_out((DROP_IN, f"[Service]\nExecStart=\nExecStart=/usr/bin/kubelet {ON_CONTAINERD}\n"))
    after, edit = moved(old)
    new_drop_in = f"[Service]\nExecStart=\nExecStart=/usr/bin/kubelet --new {ON_CONTAINERD}\n"
    upgraded = with_edit(
        after, Edit("/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf", new_drop_in.encode(), None)
    )
    renewed = point_at(upgraded, CRIO, CGROUPS)
    assert renewed is not None
    assert (renewed.path, renewed.old) == (OWN, edit.new)
    assert with_edit(upgraded, renewed).arguments == ("/usr/bin/kubelet", "--new", ON_CONTAINERD, ON_CRIO)


def test_our_drop_in_is_kept_where_only_its_words_are_old() -> None:
    after, edit = moved(laid_out((DROP_IN, f"[Service]\nExecStart=\nExecStart=/usr/bin/kubelet {ON_CONTAINERD}\n")))
    older = Edit(OWN, edit.new.replace(b"# By", b"# Written by"), None)
    assert point_at(with_edit(after, older), CRIO, CGROUPS) is None


def test_our_drop_in_can_be_pointed_elsewhere() -> None:
    after, _ = moved(laid_out((DROP_IN, f"[Service]\nExecStart=\nExecStart=/usr/bin/kubelet {ON_CONTAINERD}\n")))
    edit = point_at(after, "unix:///run/other.sock", CGROUPS)
    assert edit is not None
    assert flag(with_edit(after, edit).arguments, ENDPOINT) == "unix:///run/other.sock"


def test_a_drop_in_that_sorts_after_ours_and_wins_is_refused_by_name() -> None:
    late = "/etc/systemd/system/kubelet.service.d/99-zz.conf"
    kubelet = laid_out((late, f"[Service]\nExecStart=\nExecStart=/usr/bin/kubelet {ON_CONTAINERD}\n"))
    with pytest.raises(RefusedError, match="no change of one file") as refused:
        point_at(kubelet, CRIO, CGROUPS)
    assert refused.value.where == late
    assert ON_CONTAINERD in refused.value.found
    assert "sorts before 99-sysbox-deploy.conf" in refused.value.remedy


def test_a_drop_in_that_sorts_after_ours_and_sets_other_things_is_no_harm() -> None:
    late = ("/etc/systemd/system/kubelet.service.d/99-zz.conf", "[Service]\nNice=1\n")
    _, edit = moved(laid_out((DROP_IN, "[Service]\nExecStart=\nExecStart=/usr/bin/kubelet --x\n"), late))
    assert edit.path == OWN


def test_flags_after_the_end_of_flags_are_refused() -> None:
    with pytest.raises(RefusedError, match="no change of one file"):
        point_at(laid_out((DROP_IN, "[Service]\nExecStart=\nExecStart=/usr/bin/kubelet -- x\n")), CRIO, CGROUPS)


def test_a_kubelet_of_another_flavour_is_refused() -> None:
    with pytest.raises(RefusedError, match="starts /usr/bin/snap"):
        point_at(Kubelet(flavour="kubelet.service starts /usr/bin/snap, not a kubelet"), CRIO, CGROUPS)


@pytest.mark.parametrize(
    "content",
    ['KUBELET_EXTRA_ARGS="--v=2\n', b"KUBELET_EXTRA_ARGS=--v=2\nX=\xff\n", b"X=\0\n", "KUBELET_EXTRA_ARGS='--a=\"b'\n"],
)
def test_an_operator_s_file_that_cannot_be_changed_safely_is_left_alone(content: str | bytes) -> None:
    kubelet = kubeadm(default=content)
    after, edit = moved(kubelet)
    assert edit.path == OWN
    assert after.environment_files == kubelet.environment_files


def test_a_file_that_is_there_is_taken_before_one_that_is_not() -> None:
    text = KUBEADM.replace(f"EnvironmentFile=-{DEFAULT}", f"EnvironmentFile=-{DEFAULT}\nEnvironmentFile=-{SYSCONFIG}")
    _, edit = moved(laid_out((DROP_IN, text), kubeadm=None, default="# mine\n", sysconfig=None))
    assert edit.path == DEFAULT
    _, edit = moved(laid_out((DROP_IN, text), kubeadm=None, default="# mine\n", sysconfig="KUBELET_EXTRA_ARGS=--x\n"))
    assert edit.path == SYSCONFIG


def test_files_of_others_are_not_touched() -> None:
    text = KUBEADM.replace(DEFAULT, "/etc/kubernetes/kubelet.env")
    kubelet = laid_out((DROP_IN, text), kubeadm=f"KUBELET_KUBEADM_ARGS={ON_CONTAINERD}\n")
    _, edit = moved(kubelet)
    assert edit.path == OWN


OLD_CGROUPS = "--runtime-cgroups=/system.slice/containerd.service"
WORDS = (
    *(ON_CONTAINERD, f"--{ENDPOINT} {CONTAINERD}", ON_CRIO, f"--{ENDPOINT}", OLD_CGROUPS),
    *("--v=2", "--x='a b'", "--node-labels=a=b", "--", "'", "\\"),
)
VARIABLES = st.sampled_from(["KUBELET_KUBEADM_ARGS", "KUBELET_EXTRA_ARGS", "KUBELET_OPTS", "X"])
LINES = st.tuples(VARIABLES, st.sampled_from(['"', "'", ""]), st.lists(st.sampled_from(WORDS), max_size=4)).map(
    lambda each: f"{each[0]}={each[1]}{' '.join(each[2])}{each[1]}"
)
CONTENTS = st.none() | st.lists(LINES | st.sampled_from(["# comment \\", "", "junk", "Y=\udcff"]), max_size=4).map(
    "\n".join
)
COMMANDS = st.lists(
    st.sampled_from(
        [*WORDS, "$KUBELET_KUBEADM_ARGS", "$KUBELET_EXTRA_ARGS", "$KUBELET_OPTS", "${KUBELET_OPTS}", "$$", "%%"]
    ),
    max_size=5,
)


@given(COMMANDS, CONTENTS, CONTENTS, st.sampled_from([{}, {"containerRuntimeEndpoint": CRIO}]))
def test_whatever_the_files_hold_the_change_is_proven_or_refused(
    command: list[str], generated: str | None, operators: str | None, config: dict[str, object]
) -> None:
    text = f"[Service]\nEnvironmentFile=-{KUBEADM_FLAGS}\nEnvironmentFile=-{DEFAULT}\nExecStart=\n"
    text += f"ExecStart=/usr/bin/kubelet {' '.join(command)}\n"
    contents = [None if each is None else each.encode("utf-8", "surrogateescape") for each in (generated, operators)]
    try:
        kubelet = laid_out((DROP_IN, text), config=config, kubeadm=contents[0], default=contents[1])
        edit = point_at(kubelet, CRIO, CGROUPS)
    except RefusedError as refused:
        assert refused.remedy
        return
    if edit is None:
        assert facts.endpoint(kubelet.arguments, config, kubelet.version) == CRIO
    else:
        after = with_edit(kubelet, edit)
        assert facts.endpoint(after.arguments, config, kubelet.version) == CRIO
        assert others(after) == others(kubelet)
        assert edit.path in (DEFAULT, OWN)
        assert point_at(after, CRIO, CGROUPS) is None
