"""containerd's configuration, in each of its layouts."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from installer.errors import RefusedError
from installer.facts import containerd
from installer.facts.model import Containerd
from tests.fake_host import FakeHost

VERSION_2 = """
version = 2
root = "/data/containerd"
imports = ["/etc/containerd/conf.d/*.toml"]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.k8s.io/pause:3.9"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/other.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "mine"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.mine.options]
      SystemdCgroup = true
"""
VERSION_3 = """
version = 3
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = 'registry.k8s.io/pause:3.10'
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dir = ''
  bin_dirs = ['/opt/cni/bin', '/usr/lib/cni']
  conf_dir = '/etc/cni/net.d'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  SystemdCgroup = false
"""
VERSION_1 = '[plugins.cri]\nsandbox_image = "k8s.gcr.io/pause:3.2"\n[plugins.cri.cni]\nbin_dir = "/cni"\n'
DEFAULTS = Containerd(cni_bin="/opt/cni/bin", cni_bins=("/opt/cni/bin",), cni_conf="/etc/cni/net.d")


def test_the_layout_of_version_2_is_read() -> None:
    assert containerd.parse(VERSION_2) == Containerd(
        root="/data/containerd",
        pause_image="registry.k8s.io/pause:3.9",
        cni_bin="/usr/lib/cni",
        cni_bins=("/usr/lib/cni",),
        cni_conf="/etc/cni/other.d",
        cgroup_driver="systemd",
        imports=("/etc/containerd/conf.d/*.toml",),
    )


def test_the_layout_of_version_3_is_read() -> None:
    assert containerd.parse(VERSION_3, "2.1.4") == Containerd(
        version="2.1.4",
        pause_image="registry.k8s.io/pause:3.10",
        cni_bin="/opt/cni/bin",
        cni_bins=("/opt/cni/bin", "/usr/lib/cni"),
        cni_conf="/etc/cni/net.d",
        cgroup_driver="cgroupfs",
    )


def test_the_layout_of_version_1_is_read() -> None:
    found = containerd.parse(VERSION_1)
    assert (found.pause_image, found.cni_bin) == ("k8s.gcr.io/pause:3.2", "/cni")


@pytest.mark.parametrize("text", ["", "version = 2\n", "plugins = 3\n", "[plugins]\ncri = 1\n", "root = 7\n"])
def test_what_is_not_said_is_containerd_s_default(text: str) -> None:
    assert containerd.parse(text) == DEFAULTS


def test_what_is_no_toml_is_refused_with_its_line() -> None:
    with pytest.raises(RefusedError, match="not TOML") as refused:
        containerd.parse('version = 2\n[plugins\nroot = "/x"\n')
    assert refused.value.where == "/etc/containerd/config.toml"
    assert "line 2" in refused.value.found


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u1\n", "1.6.20~ds1"),
        ("containerd containerd.io v2.1.4 75cb2b7193e4e490e9fbdc236c0e811ccaba3376", "2.1.4"),
        ("", ""),
        ("bash: containerd: not found", ""),
    ],
)
def test_the_version_is_read_from_the_command_s_answer(text: str, version: str) -> None:
    assert containerd.parse_version(text) == version


def test_only_containerd_2_tells_the_kubelet_its_cgroup_driver() -> None:
    assert containerd.reported_driver(containerd.parse(VERSION_2, "2.0.0")) == "systemd"
    assert containerd.reported_driver(containerd.parse(VERSION_2, "1.7.27")) == ""
    assert containerd.reported_driver(containerd.parse("", "2.0.0")) == ""
    assert containerd.reported_driver(containerd.parse(VERSION_2)) == ""


def test_a_host_s_containerd_is_gathered_by_one_command(tmp_path: Path) -> None:
    host = FakeHost(tmp_path, {"containerd --version": "containerd github.com/containerd/containerd v1.7.27 0504"})
    host.put("/etc/containerd/config.toml", VERSION_2)
    host.put("/run/containerd/io.containerd.runtime.v2.task/k8s.io/a/pid", "1")
    host.put("/run/containerd/io.containerd.runtime.v2.task/moby/b/pid", "2")
    (tmp_path / "run/containerd/io.containerd.runtime.v2.task/default").mkdir()
    found = containerd.gather(host)
    assert (found.version, found.root, found.others) == ("1.7.27", "/data/containerd", ("moby",))
    assert host.asked == ["containerd --version"]


def test_a_host_without_containerd_has_its_defaults_and_no_version(tmp_path: Path) -> None:
    assert containerd.gather(FakeHost(tmp_path)) == DEFAULTS


@given(st.text(max_size=60) | st.text(st.sampled_from("[]{}=\"'.\\ \n#pluginsr12"), max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        assert containerd.parse(text).cni_bins
    except RefusedError as refused:
        assert refused.found
