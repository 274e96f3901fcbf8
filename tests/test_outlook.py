"""What `plan` tells of a move, and what it is read from."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from installer.errors import PermanentError, RefusedError
from installer.facts import sockets
from installer.facts.model import Containerd
from installer.switch import network, space
from installer.switch.outlook import Image, Outlook
from installer.switch.space import Space
from tests.fake_host import FakeHost

SOCKET = "/run/containerd/containerd.sock"
SS = f"""\
u_str ESTAB 0      0                                 {SOCKET} 101 * 100 users:(("containerd",pid=191,fd=13))
u_str ESTAB 0      0                                 * 100 * 101 users:(("kubelet",pid=255,fd=14))
u_str ESTAB 0      0                                 {SOCKET} 201 * 200 users:(("containerd",pid=191,fd=14))
u_str ESTAB 0      0                                 * 200 * 201 users:(("dockerd",pid=300,fd=6),("dockerd",pid=300))
u_str ESTAB 0      0                                 {SOCKET}.ttrpc 301 * 300 users:(("containerd",pid=191,fd=15))
u_str ESTAB 0      0                                 * 300 * 301 users:(("containerd-shim",pid=400,fd=6))
u_str ESTAB 0      0                                 {SOCKET} 401 * 400 users:(("containerd",pid=191,fd=15))
u_str ESTAB 0      0                                 * 400 * 401 users:(("falco",pid=500,fd=6))
u_str ESTAB 0      0                                 /run/other path.sock 501 * 500 users:(("other",pid=1,fd=6))
u_str ESTAB 0      0                                 * 500 * 501 users:(("stranger",pid=600,fd=6))
nonsense
"""
CLUSTER = '{"cniVersion": "0.4.0", "name": "cluster", "plugins": []}'
BRIDGE = '{"cniVersion": "1.0.0", "name": "crio", "plugins": []}'


@pytest.mark.parametrize("path", [SOCKET, f"/var{SOCKET}"])
def test_who_else_is_connected_to_the_socket_is_named(path: str) -> None:
    assert sockets.parse(SS, path) == ("dockerd (pid 300)", "falco (pid 500)")
    assert sockets.parse("", path) == ()


@given(st.text(max_size=80))
def test_any_answer_of_ss_is_read(text: str) -> None:
    assert isinstance(sockets.parse(text, SOCKET), tuple)


def node(root: Path, **files: str) -> FakeHost:
    host = FakeHost(root)
    for name, text in files.items():
        host.put(f"/etc/cni/net.d/{name.replace('__', '-').replace('_', '.')}", text)
    return host


def test_a_network_that_both_runtimes_take_is_the_clusters(tmp_path: Path) -> None:
    host = node(tmp_path, a10__crio__bridge_conflist_disabled=BRIDGE, b10__cluster_conflist=CLUSTER, c99_conf=BRIDGE)
    network.check(host, {}, Containerd())
    assert network.first(host, "/etc/cni/net.d") == "/etc/cni/net.d/b10-cluster.conflist"


def test_a_link_to_the_same_folder_is_the_same(tmp_path: Path) -> None:
    host = node(tmp_path, cluster_conflist=CLUSTER)
    (tmp_path / "cni").symlink_to("/etc/cni/net.d")
    network.check(host, {"crio": {"network": {"network_dir": "/cni"}}}, Containerd(cni_conf="/etc/cni/net.d"))


def test_cri_os_own_bridge_is_refused(tmp_path: Path) -> None:
    host = node(tmp_path, a__crio__bridge_conflist=BRIDGE, cluster_conflist=CLUSTER)
    with pytest.raises(PermanentError, match="network of its own") as caught:
        network.check(host, {}, Containerd())
    assert "move /etc/cni/net.d/a-crio-bridge.conflist away" in str(caught.value)


def test_another_network_than_containerds_is_refused(tmp_path: Path) -> None:
    host = node(tmp_path, cluster_conflist=CLUSTER)
    host.put("/opt/net.d/other.conflist", CLUSTER)
    with pytest.raises(PermanentError, match="another network"):
        network.check(host, {"crio": {"network": {"network_dir": "/opt/net.d"}}}, Containerd())


def test_a_network_chosen_by_name_is_somebodys_choice(tmp_path: Path) -> None:
    host = node(tmp_path, a__crio__bridge_conflist=BRIDGE)
    network.check(host, {"crio": {"network": {"cni_default_network": "crio"}}}, Containerd())


def test_too_little_room_is_refused_with_figures() -> None:
    space.check([Space("/data", 10, 10)])
    with pytest.raises(RefusedError) as caught:
        space.check([Space("/data", 3 << 30, 1 << 30), Space("/tmp", 1, 2)], RefusedError)
    assert caught.value.found == "3.0 GiB needed, 1.0 GiB free"
    assert caught.value.where == "/data"
    assert "crictl rmi --prune" in caught.value.remedy


def test_an_outlook_is_told_to_people_and_machines() -> None:
    seen = Outlook(
        pods=("shop/web",),
        images=(
            Image("r.test/web:1", "containerd", 2048),
            Image("r.test/x:1", "registry", None),
            Image("p", "there", 1),
        ),
        always=("r.test/x:1",),
        spaces=(Space("/data", 3072, 1024),),
        leaving=("shop/web",),
        held=(("shop/web", "budget"),),
        users=("dockerd (pid 3)",),
        outage=(3, 14),
    )
    text = "\n".join(seen.lines())
    for wanted in (
        *("restarts 1 pods: shop/web", "3 to 14 s", "an estimate", "2 of their 3 images", "r.test/web:1: 2.0 KiB"),
        *("r.test/x:1: size unknown", "NOT ENOUGH ROOM", "Always", "evicted first: shop/web", "IN THE WAY", "dockerd"),
    ):
        assert wanted in text
    said = json.loads(json.dumps(seen.to_dict()))
    assert said["outage"] == {"seconds": [3, 14], "estimate": True}
    assert said["held"] == [{"pod": "shop/web", "why": "budget"}]
    assert said["images"][0] == {"name": "r.test/web:1", "source": "containerd", "size": 2048}
