"""What is supported, as data: consistent in itself, and judged into findings that name the remedy."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from installer import preflight, support
from installer.errors import RefusedError
from installer.facts.model import Containerd, Crio, Facts, Kernel, Kubelet, Os, Unit
from installer.preflight import Finding, judge

KUBELET = Kubelet(
    version="v1.32.13",
    arguments=("/usr/bin/kubelet",),
    endpoint="unix:///run/containerd/containerd.sock",
    cgroup_driver="systemd",
)
NODE = Facts(
    os=Os("debian", "12"),
    kernel=Kernel("6.1.0-40-amd64", "amd64"),
    units={"kubelet.service": Unit(load="loaded")},
    kubelet=KUBELET,
    containerd=Containerd(version="1.6.20~ds1"),
)


def node(**changes: Any) -> Facts:
    return dataclasses.replace(NODE, **changes)


def kubelet(**changes: Any) -> Facts:
    return node(kubelet=dataclasses.replace(KUBELET, **changes))


def found(facts: Facts, name: str, *allow: str, control_plane: bool = False, profile: str = "sysbox") -> Finding:
    findings = judge(facts, frozenset(allow), control_plane, profile)
    (one,) = [f for f in findings if f.name == name]
    if one.level != "fine":
        assert one.remedy
    assert one.what
    assert one.found
    return one


def test_an_ordinary_node_has_nothing_but_fine_findings() -> None:
    findings = judge(NODE, frozenset(), False, "sysbox")
    assert {f.level for f in findings} == {"fine"}
    assert {f.name for f in findings} == preflight.NAMES
    assert preflight.refused(findings) is None


@pytest.mark.parametrize("version", ["v1.20.2", "v1.28.15", "v1.31.0-rc.1", "v1.36.1", "v1.30.5-gke.1200", "1.29.3+x"])
def test_supported_kubernetes_versions_are_fine(version: str) -> None:
    argv = ("/usr/bin/kubelet", "--container-runtime=remote")
    assert found(kubelet(version=version, arguments=argv), "kubernetes-version").level == "fine"


@pytest.mark.parametrize("version", ["v1.19.16", "v1.21.14", "v1.27.16", "v1.37.0", "v2.28.0", "v1.280.0"])
def test_other_kubernetes_versions_are_refused(version: str) -> None:
    finding = found(kubelet(version=version), "kubernetes-version")
    assert (finding.level, finding.found) == ("refuse", version)
    assert "1.36" in finding.remedy


@pytest.mark.parametrize("version", ["", "Kubernetes v1.32.13", "v1", "v1.x.2", "v1.32.13\n", "v01.32.1", "v1.٣٢.1"])
def test_a_version_that_can_not_be_told_is_refused_not_guessed(version: str) -> None:
    assert "can't be told" in found(kubelet(version=version), "kubernetes-version").what
    assert found(node(crio=Crio(version, "crio")), "crio-version").level == "refuse"
    assert "can't be told" in found(node(containerd=Containerd(version=version)), "containerd-version").what


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("1.19.4", "no rootless pods"),
        ("1.21.3", "breaks isolation"),
        ("1.31.9", "not the kubelet's, 1.32"),
        ("1.33.0", "not the kubelet's, 1.32"),
    ],
)
def test_an_installed_crio_that_does_not_fit_is_refused_with_the_reason(version: str, why: str) -> None:
    finding = found(node(crio=Crio(version, "crio")), "crio-version")
    assert finding.level == "refuse"
    assert why in finding.what
    assert "1.32" in finding.remedy


def test_an_installed_crio_of_the_kubelets_minor_is_fine() -> None:
    assert found(node(crio=Crio("1.32.1", "crio")), "crio-version").level == "fine"
    old = kubelet(version="v1.20.2")
    assert found(dataclasses.replace(old, crio=Crio("1.20.9", "crio")), "crio-version").level == "fine"


@pytest.mark.parametrize(
    "distro",
    [("ubuntu", v) for v in ("18.04", "20.04", "22.04", "24.04")] + [("debian", v) for v in ("11", "12", "13")],
)
def test_supported_distributions_are_fine(distro: tuple[str, str]) -> None:
    assert found(node(os=Os(*distro)), "distro").level == "fine"


@pytest.mark.parametrize(
    "distro", [("", ""), ("debian", ""), ("debian", "10"), ("ubuntu", "25.04"), ("flatcar", "4230")]
)
def test_other_distributions_are_refused(distro: tuple[str, str]) -> None:
    finding = found(node(os=Os(*distro)), "distro")
    assert finding.level == "refuse"
    assert "ubuntu 24.04" in finding.remedy


@pytest.mark.parametrize("release", ["5.0.0-23-generic", "5.15.0-91-generic", "6.8.0-1008-aws", "10.0.0"])
def test_kernels_from_5_0_on_are_fine(release: str) -> None:
    assert found(node(kernel=Kernel(release, "amd64")), "kernel-version").level == "fine"


@pytest.mark.parametrize("release", ["4.15.0-213-generic", "4.19.0-27-amd64", "", "generic"])
def test_other_kernels_are_refused(release: str) -> None:
    assert found(node(kernel=Kernel(release, "amd64")), "kernel-version").level == "refuse"


def test_bionics_old_kernel_has_the_seeds_command_as_remedy() -> None:
    facts = node(os=Os("ubuntu", "18.04"), kernel=Kernel("4.15.0-213-generic", "amd64"))
    wanted = "apt-get update && apt install --install-recommends linux-generic-hwe-18.04 -y"
    assert found(facts, "kernel-version").remedy.startswith(wanted)


def test_an_unknown_architecture_is_refused() -> None:
    assert found(node(kernel=Kernel("6.1.0", "arm64")), "architecture").level == "fine"
    assert found(node(kernel=Kernel("6.1.0", "riscv64")), "architecture").level == "refuse"


def test_a_control_plane_node_is_refused_unless_allowed_in_either_way() -> None:
    facts = node(control_plane=True)
    assert found(facts, "control-plane").level == "refuse"
    assert found(facts, "control-plane", control_plane=True).level == "warn"
    assert found(facts, "control-plane", "control-plane").level == "warn"


@pytest.mark.parametrize("unit", preflight.FLAVOUR_UNITS)
def test_another_flavour_of_kubernetes_is_refused_by_name(unit: str) -> None:
    facts = node(kubelet=None, units={unit: Unit(load="loaded")})
    finding = found(facts, "kubelet-flavour")
    assert finding.level == "refuse"
    assert finding.found == support.data()["kubernetes"]["other_flavours"][unit]


def test_a_node_whose_kubelet_can_not_be_moved_is_refused_without_guesses_about_it() -> None:
    for facts in (node(kubelet=None), kubelet(flavour="kubelet.service starts hyperkube", version="")):
        names = {f.name for f in judge(facts, frozenset(), False, "sysbox")}
        assert found(facts, "kubelet-flavour").level == "refuse"
        assert not names & {"kubernetes-version", "container-runtime", "cgroup-driver", "containerd-version"}
    assert found(kubelet(unit="snap.kubelet-eks.daemon.service"), "kubelet-flavour").level == "refuse"


@pytest.mark.parametrize(
    ("changes", "runtime"),
    [
        ({"version": "v1.20.2"}, "dockershim"),
        ({"endpoint": "unix:///var/run/cri-dockerd.sock"}, "cri-dockerd"),
        ({"endpoint": "unix:///run/other.sock"}, "unix:///run/other.sock"),
    ],
)
def test_another_runtime_is_refused_by_name(changes: dict[str, str], runtime: str) -> None:
    finding = found(kubelet(**changes), "container-runtime")
    assert finding.level == "refuse"
    assert runtime in finding.what


def test_a_kubelet_on_crio_is_fine_and_containerd_is_not_judged() -> None:
    facts = kubelet(endpoint="unix:///var/run/crio/crio.sock")
    assert found(facts, "container-runtime").level == "fine"
    assert "containerd-version" not in {f.name for f in judge(facts, frozenset(), False, "crio")}


@pytest.mark.parametrize(
    ("version", "level"),
    [("1.2.14", "refuse"), ("1.3.0", "fine"), ("1.7.27", "fine"), ("2.2.0-rc.1", "fine"), ("2.99.0", "warn")],
)
def test_containerd_is_judged_by_its_version(version: str, level: str) -> None:
    assert found(node(containerd=Containerd(version=version)), "containerd-version").level == level


def test_the_cgroup_driver_must_be_known_whichever_it_is() -> None:
    assert found(kubelet(cgroup_driver="cgroupfs"), "cgroup-driver").level == "fine"
    assert found(kubelet(cgroup_driver=""), "cgroup-driver").level == "refuse"


def test_swap_is_only_warned_about() -> None:
    finding = found(node(swap=("/dev/sda2", "/swapfile")), "swap")
    assert (finding.level, finding.found) == ("warn", "/dev/sda2, /swapfile")


def test_a_host_without_systemd_is_refused() -> None:
    assert found(node(units={}), "systemd").level == "refuse"
    assert found(node(units={}, commands=frozenset({"systemctl"})), "systemd").level == "fine"


KERNELS = [
    ("5.3.0-76-generic", "ubuntu", False, "warn"),
    ("5.4.0-71-generic", "ubuntu", False, "fine"),
    ("5.4.0-71-generic", "ubuntu", True, "fine"),
    ("5.10.0-32-amd64", "debian", False, "warn"),
    ("5.15.0-48-generic", "ubuntu", True, "warn"),
    ("5.15.0-480-generic", "ubuntu", True, "fine"),
    ("5.19.0-50-generic", "ubuntu", False, "fine"),
    ("6.8.0-40-generic", "ubuntu", False, "fine"),
]


@pytest.mark.parametrize(("release", "distro", "there", "level"), KERNELS)
def test_shiftfs_is_judged_by_kernel_and_distribution(release: str, distro: str, there: bool, level: str) -> None:
    facts = node(os=Os(distro, "20.04"), kernel=Kernel(release, "amd64", has_shiftfs=there))
    assert found(facts, "shiftfs").level == level


@pytest.mark.parametrize(
    ("release", "there", "level"),
    [
        ("5.4.0-71-generic", False, "refuse"),
        ("5.15.0-91-generic", False, "warn"),
        ("5.4.0-71-generic", True, "fine"),
        ("6.8.0-40-generic", False, "fine"),
    ],
)
def test_secure_boot_matters_where_a_module_must_be_built(release: str, there: bool, level: str) -> None:
    kernel = Kernel(release, "amd64", has_shiftfs=there, secure_boot=True)
    assert found(node(kernel=kernel), "secure-boot").level == level


def test_profile_crio_does_not_ask_for_what_only_sysbox_needs() -> None:
    names = {f.name for f in judge(NODE, frozenset(), False, "crio")}
    assert preflight.NAMES - names == {"shiftfs", "secure-boot", "user-namespaces"}


def test_an_allowed_finding_warns_and_says_so_and_the_others_still_refuse() -> None:
    facts = node(os=Os("debian", "10"), kernel=Kernel("4.19.0", "amd64"))
    assert found(facts, "distro", "distro").level == "warn"
    assert "allowed" in found(facts, "distro", "distro").what
    error = preflight.refused(judge(facts, frozenset({"distro"}), False, "crio"))
    assert error
    assert "kernel-version" in error.what
    assert "distro" not in error.what
    assert "SYSBOX_DEPLOY_ALLOW=kernel-version" in error.remedy


def test_a_name_that_nothing_has_is_reported() -> None:
    assert found(NODE, "allow", "kernal-version").found == "kernal-version"


versions = st.text(max_size=8) | st.from_regex(r"v?[0-9]{0,3}\.[0-9]{0,3}.{0,4}", fullmatch=True)


@given(versions, versions, versions, versions)
def test_no_version_gives_a_traceback(kube: str, crio: str, containerd: str, kernel: str) -> None:
    facts = node(
        kernel=Kernel(kernel, "amd64"),
        kubelet=dataclasses.replace(KUBELET, version=kube),
        crio=Crio(crio, "crio"),
        containerd=Containerd(version=containerd),
    )
    assert judge(facts, frozenset(), False, "sysbox")


def test_every_supported_kubernetes_has_a_repository_whose_key_is_known() -> None:
    for minor in support.data()["kubernetes"]["minors"]:
        for repository in support.crio_repositories(minor, Os("ubuntu", "20.04")):
            assert repository.uri.startswith("https://")
            assert repository.key_uri == repository.uri + "Release.key"
            assert "{" not in repository.uri + repository.name
            assert repository.fingerprints
            assert all(len(f) == 40 and f == f.upper() and int(f, 16) for f in repository.fingerprints)


def test_crio_comes_from_where_it_is() -> None:
    debian = Os("debian", "12")
    (old,) = support.crio_repositories("1.28", debian)
    assert old.uri == "https://pkgs.k8s.io/addons:/cri-o:/stable:/v1.28/deb/"
    (new,) = support.crio_repositories("1.34", debian)
    assert new.uri == "https://download.opensuse.org/repositories/isv:/cri-o:/stable:/v1.34/deb/"
    seed = support.crio_repositories("1.20", Os("ubuntu", "20.04"))
    assert [r.uri for r in seed] == [
        "https://download.opensuse.org/repositories/devel:/kubic:/libcontainers:/stable/xUbuntu_20.04/",
        "https://download.opensuse.org/repositories/devel:/kubic:/libcontainers:/stable:/cri-o:/1.20/xUbuntu_20.04/",
    ]
    assert {p for r in seed for p in r.packages} == {"cri-o", "cri-o-runc"}


def test_where_no_repository_is_known_the_settings_are_named() -> None:
    for minor, os in (("1.20", Os("ubuntu", "24.04")), ("1.21", Os("ubuntu", "20.04")), ("", Os())):
        with pytest.raises(RefusedError) as caught:
            support.crio_repositories(minor, os)
        assert "SYSBOX_DEPLOY_CRIO_REPOSITORY" in caught.value.remedy


@pytest.mark.parametrize(
    ("kernel", "need", "branch"),
    [
        ((5, 0), "needed", ""),
        ((5, 4), "needed", "k5.4"),
        ((5, 10), "needed", "k5.10"),
        ((5, 11), "needed", "k5.11"),
        ((5, 12), "recommended", ""),
        ((5, 15), "recommended", "k5.16"),
        ((5, 18), "recommended", "k5.18"),
        ((5, 19), "none", "k5.18"),
        ((6, 2), "none", "k6.1"),
        ((6, 3), "none", ""),
        ((6, 12), "none", ""),
    ],
)
def test_each_kernel_has_the_shiftfs_that_builds_for_it(kernel: support.Version, need: str, branch: str) -> None:
    shiftfs = support.for_kernel(kernel)
    assert (shiftfs.need, shiftfs.branch) == (need, branch)
    assert bool(shiftfs.commit) == bool(shiftfs.repository) == bool(branch)


def test_no_kernel_has_two_sources_of_shiftfs_and_none_is_above_the_newest() -> None:
    table = support.data()["shiftfs"]
    kernels = [kernel for source in table["source"] for kernel in source["kernels"]]
    assert len(kernels) == len(set(kernels))
    assert max(map(support.known, kernels)) == support.known(table["newest"])


def test_the_fuse_package_has_the_helper_that_sysbox_starts() -> None:
    focal, noble = Os("ubuntu", "20.04"), Os("ubuntu", "24.04")
    assert (support.fuse_package(focal), support.fuse_package(noble)) == ("fuse", "fuse3")
    assert (support.fuse_package(focal, "0.6.7.linux"), support.fuse_commands("0.6.7.linux")) == (
        "fuse",
        ("fusermount",),
    )
    assert (support.fuse_package(focal, "0.7.0.linux"), support.fuse_commands("0.7.0")) == ("fuse3", ("fusermount3",))
    assert support.fuse_package(Os("debian", "13"), "0.7.0.linux") == "fuse3"


def test_a_kubelet_that_decides_on_user_namespaces_itself_warns() -> None:
    finding = found(kubelet(version="v1.33.1"), "user-namespaces")
    assert finding.level == "warn"
    assert "hostUsers" in finding.remedy
    off = kubelet(version="v1.34.0", config={"featureGates": {"UserNamespacesSupport": False}})
    assert found(off, "user-namespaces").level == "fine"


def test_packages_that_somebody_left_half_installed_are_refused_but_not_ours() -> None:
    left = node(troubled=("vim (half-configured)",))
    assert found(left, "dpkg").level == "refuse"
    assert found(dataclasses.replace(left, ours={"package:rsync": {}}), "dpkg").level == "fine"
