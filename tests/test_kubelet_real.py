"""What is said of systemd and of the kubelet's files, held against a real systemd, and a real kubelet."""

import contextlib

import pytest

from installer.facts import kubelet as facts
from installer.facts.kubelet import flag
from installer.host import Host
from installer.steps.kubelet_files import point_at
from tests.node.node import Node
from tests.test_kubelet import CONTAINERD, CRIO, KUBEADM

pytestmark = pytest.mark.node

SHOW = """#!/bin/sh
[ "$1" != --version ] || { echo Kubernetes v1.32.13; exit; }
[ $# -eq 0 ] || printf '%s\\0' "$@"
"""
ODD_UNITS = {
    "variables": ["$A ${A} x${A}y $B ${B} $$A $NONE ${NONE} a$A '$A' \"${A}\" ${A:-x} $A."],
    "quotes": ["'a b' \"c\\td\" e\\x20f \\q \"it's\" '' g\\ h \\u00e9 \\; %% %n %i[%i]"],
    "no expansion": [":$A ${A} $$"],
    "continued": ["one \\\n# not this\n  two \\\n ; nor this \\\nthree"],
    "reset": ["first", "ExecStart=\nEnvironment=\nExecStart=/usr/local/bin/kubelet $A ${E} $U ${F}"],
    "unset": ["$A ${F} $U", "UnsetEnvironment=F U=1"],
    "later drop-in": ["$A ${F} $U", "Environment=F=drop 'U=dr op'"],
}
ENVIRONMENT = (
    b"\xef\xbb\xbfBOM=1\n# comment \\\n\nA='one two' \"three\n four\" 'five'\r\nB=x\\\n  y \\ \n export U=no\n"
    b'B="--q=\'r s\' t\\"u \\$v"\nF=file # not a comment\n; A=no\n\xc3\xa9=1\nNOEND=1'
)


@pytest.fixture
def host(bare_node: Node) -> Host:
    """A node whose kubelet only says what it was started with."""
    bare_node.write("/usr/local/bin/kubelet", SHOW, 0o755)
    bare_node.run("rm", "-rf", "/usr/lib/systemd/system/kubelet.service.d", "/etc/systemd/system/kubelet.service.d")
    return Host(bare_node.init_pid)


def started(node: Node) -> list[str]:
    """Starts the kubelet and returns the arguments that it got."""
    node.run("systemctl", "daemon-reload")
    node.run("systemctl", "start", "kubelet.service")
    return (node.root / "run/arguments").read_bytes().decode().split("\0")[:-1]


def lay(node: Node, texts: dict[str, str]) -> None:
    for path in ("/etc/systemd/system/kubelet.service.d", "/usr/lib/systemd/system/kubelet.service.d"):
        node.run("rm", "-rf", path)
    for path, text in texts.items():
        node.write(path, text)


def unit(command: str) -> str:
    lines = "[Service]\nType=oneshot\nStandardOutput=truncate:/run/arguments\nEnvironmentFile=-/etc/default/kubelet\n"
    return f'{lines}Environment=E=unit F=unit "U=1"\n{command}\n'


def test_systemd_starts_what_was_computed(bare_node: Node, host: Host) -> None:
    (bare_node.root / "etc/default/kubelet").write_bytes(ENVIRONMENT)
    for name, (line, *drop_ins) in ODD_UNITS.items():
        prefix = line[: line.startswith(":")]
        command = f"ExecStart={prefix}/usr/local/bin/kubelet {line.removeprefix(prefix)}"
        texts = {"/etc/systemd/system/kubelet.service": unit(command)}
        for number, text in enumerate(drop_ins):
            texts[f"/etc/systemd/system/kubelet.service.d/{number}.conf"] = f"[Service]\n{text}\n"
        lay(bare_node, texts)
        now = started(bare_node)
        found = facts.gather(host)
        assert found is not None
        assert list(found.arguments[1:]) == now, name


@pytest.mark.parametrize("path", ["kubeadm", "seed", "drop-in"])
def test_the_kubelet_gets_the_endpoint_by_one_changed_file(bare_node: Node, host: Host, path: str) -> None:
    old = f"--container-runtime-endpoint={CONTAINERD}"
    kubeadm = KUBEADM.replace("/usr/bin/kubelet", "/usr/local/bin/kubelet").replace(
        "CONFIG_ARGS=--config", "CONFIG_ARGS=--x"
    )
    layouts = {
        "kubeadm": (kubeadm, "/var/lib/kubelet/kubeadm-flags.env", f'KUBELET_KUBEADM_ARGS="{old} --y"\n'),
        "seed": (
            "ExecStart=\nExecStart=/usr/local/bin/kubelet $KUBELET_OPTS",
            "/etc/default/kubelet",
            f"KUBELET_OPTS='--v=2 {old}'",
        ),
        "drop-in": (
            f"ExecStart=\nExecStart=/usr/local/bin/kubelet --y='a b' {old}",
            "/etc/default/kubelet",
            "# nothing\n",
        ),
    }
    drop_in, file, content = layouts[path]
    with contextlib.suppress(FileNotFoundError):
        (bare_node.root / "etc/default/kubelet").unlink()
    lay(
        bare_node,
        {
            "/etc/systemd/system/kubelet.service": unit("ExecStart=/usr/local/bin/kubelet"),
            "/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf": drop_in
            if path == "kubeadm"
            else f"[Service]\n{drop_in}\n",
            file: content,
        },
    )
    before = started(bare_node)
    found = facts.gather(host)
    assert found is not None
    edit = point_at(found, CRIO, "/system.slice/crio.service")
    assert edit is not None
    bare_node.write(edit.path, edit.new.decode())
    unread = facts.gather(host)  # systemd has not read the drop-in yet
    after = started(bare_node)
    assert flag(after, "container-runtime-endpoint") == CRIO
    assert [word for word in after if CRIO not in word] == [
        word for word in before if CONTAINERD not in word or path != "seed"
    ]
    assert unread is not None
    assert list(unread.arguments[1:]) == after
    assert point_at(unread, CRIO, "/system.slice/crio.service") is None


def test_a_real_kubelet_runs_with_what_was_computed(node: Node) -> None:
    found = facts.gather(Host(node.init_pid))
    assert found is not None
    assert found.process == found.arguments
    assert found.endpoint == CONTAINERD
    assert found.cgroup_driver in ("systemd", "cgroupfs")
    assert found.minor == node.minor
