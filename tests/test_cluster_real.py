"""Our requests against a real Kubernetes API server, with no more rights than they need."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from installer.cluster import names, taints
from installer.cluster.api import Patience
from installer.cluster.connect import Connection, connect
from installer.cluster.node import Node
from installer.cluster.view import Pod
from installer.errors import PermanentError
from tests.node import network
from tests.node.control_plane import ControlPlane

pytestmark = pytest.mark.node

QUICK = Patience(total=10, first=0.05, longest=0.5, answer=10, denied=2)
NOT_RUNNING = taints.parse(taints.DEFAULT)
_REPOSITORY = Path(__file__).parents[1]
RIGHTS = [
    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "patch"]},
    {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
    {"apiGroups": [""], "resources": ["pods/eviction"], "verbs": ["create"]},
]


@pytest.fixture
def name(cluster: ControlPlane) -> Iterator[str]:
    """A node that no kubelet serves, with taints of others'."""
    name = f"cluster-test-{uuid.uuid4().hex[:8]}"
    foreign = [
        {"key": "pool", "value": "gpu", "effect": "NoSchedule"},
        {"key": "pool", "value": "gpu", "effect": "NoExecute", "timeAdded": "2026-11-22T07:26:18Z"},
    ]
    apply(cluster, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"taints": foreign}})
    yield name
    cluster.kubectl("delete", "node", name)


@pytest.fixture
def account(cluster: ControlPlane, name: str, tmp_path: Path) -> Iterator[Path]:
    """A pod's service account folder, of an account without rights."""
    cluster.kubectl("create", "serviceaccount", name)
    (tmp_path / "token").write_text(cluster.kubectl("create", "token", name).stdout)
    (tmp_path / "ca.crt").write_bytes((cluster.pki.folder / "ca.crt").read_bytes())
    yield tmp_path
    cluster.kubectl("delete", "serviceaccount", name)


@pytest.fixture
def rights(cluster: ControlPlane, name: str, account: Path) -> Iterator[None]:
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole"}
    apply(cluster, {**role, "metadata": {"name": name}, "rules": RIGHTS})
    cluster.kubectl("create", "clusterrolebinding", name, f"--clusterrole={name}", f"--serviceaccount=default:{name}")
    yield
    cluster.kubectl("delete", "clusterrole,clusterrolebinding", name)


@pytest.fixture
def node(name: str, account: Path, rights: None) -> Iterator[Node]:
    with Node(name, patience=QUICK, connection=as_pod(account)) as made:
        yield made


def as_pod(account: Path) -> Connection:
    where = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(network.api_port())}
    return connect(where, account)


def apply(cluster: ControlPlane, what: dict[str, Any]) -> None:
    cluster.kubectl("create", "-f", "-", input=json.dumps(what))


def ours_and_theirs(cluster: ControlPlane, name: str) -> list[str]:
    # the node controller's own taints come and go while we look
    found = cluster.get("node", name)["spec"].get("taints", [])
    return [f"{one['key']}:{one['effect']}" for one in found if not one["key"].startswith("node.kubernetes.io/")]


@pytest.mark.parametrize("file", ["crio-deploy-rbac.yaml", "sysbox-rbac.yaml"])
def test_the_manifest_that_a_denial_names_grants_what_we_use(file: str) -> None:
    objects = yaml.safe_load_all((_REPOSITORY / "k8s-manifests" / "rbac" / file).read_text())
    (role,) = [one for one in objects if one["kind"] == "ClusterRole"]
    granted = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    used = {(rule["resources"][0], verb) for rule in RIGHTS for verb in rule["verbs"]}
    assert used <= granted


def test_kubernetes_replaces_all_taints_even_by_a_strategic_patch(cluster: ControlPlane, name: str) -> None:
    patch = json.dumps({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}})
    cluster.kubectl("patch", "node", name, "--type=strategic", f"--patch={patch}")
    assert ours_and_theirs(cluster, name) == ["a:NoSchedule"]


def test_a_taint_comes_and_goes_beside_those_of_others(cluster: ControlPlane, name: str, node: Node) -> None:
    before = cluster.get("node", name)["spec"]["taints"]
    node.report(add_taint=NOT_RUNNING)
    theirs = ["pool:NoSchedule", "pool:NoExecute"]
    assert ours_and_theirs(cluster, name) == [*theirs, "sysbox-runtime:NoSchedule"]
    node.report(remove_taint=NOT_RUNNING)
    after = cluster.get("node", name)["spec"]["taints"]
    assert [one for one in after if one["key"] == "pool"] == [one for one in before if one["key"] == "pool"]
    assert ours_and_theirs(cluster, name) == theirs


def test_a_taint_added_behind_our_back_survives(cluster: ControlPlane, name: str, node: Node) -> None:
    node.get()
    cluster.kubectl("taint", "node", name, "late=x:NoSchedule")
    node.report(add_taint=NOT_RUNNING)
    assert {"late:NoSchedule", "sysbox-runtime:NoSchedule"} <= set(ours_and_theirs(cluster, name))


def test_a_node_is_as_before_when_all_reports_are_taken_back(cluster: ControlPlane, name: str, node: Node) -> None:
    def remembered() -> tuple[Any, ...]:
        found = cluster.get("node", name)
        meta, conditions = found["metadata"], found["status"].get("conditions", [])
        mine = [one for one in conditions if one["type"] == names.CONDITION]
        return meta.get("labels"), meta.get("annotations"), found["spec"].get("unschedulable"), mine

    node.report(annotations={"example.com/kept": "yes"})
    before = remembered()
    node.report({"crio-runtime": names.State.INSTALLING}, annotations={"x": "y"}, cordon=True)
    node.condition("False", "Installing", "CRI-O is being installed")
    assert remembered() != before
    node.report({"crio-runtime": None}, annotations={"x": None}, cordon=False)
    node.clear_condition()
    assert remembered() == before


def test_a_condition_keeps_its_time_until_its_status_changes(node: Node) -> None:
    first = node.condition("False", "Installing", "a").conditions[names.CONDITION]
    second = node.condition("False", "Switching", "b").conditions[names.CONDITION]
    assert (second.reason, second.changed) == ("Switching", first.changed)
    sent = node.requests
    node.condition("False", "Switching", "b")
    assert node.requests == sent


@pytest.mark.parametrize("known", [True, False])
def test_kubectl_describe_shows_our_events_and_condition(
    cluster: ControlPlane, name: str, node: Node, known: bool
) -> None:
    if known:
        node.get()
    node.event("SwitchFailed", "the kubelet is back on containerd", "Warning")
    node.condition("False", "SwitchFailed", "rolled back")
    told = cluster.kubectl("describe", "node", name).stdout
    events = " ".join(told[told.index("Events:") :].split())
    assert "Warning SwitchFailed" in events
    assert "sysbox-deploy the kubelet is back on containerd" in events
    assert "SysboxReady" in told[told.index("Conditions:") : told.index("Addresses:")]


def test_only_this_nodes_pods_are_listed(cluster: ControlPlane, name: str, node: Node) -> None:
    containers = [{"name": "c", "image": "registry.invalid/a:1"}]
    for pod, spec in ((name, {"nodeName": name}), (f"{name}-elsewhere", {})):
        what = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod},
            "spec": {**spec, "containers": containers},
        }
        apply(cluster, what)
    try:
        assert node.pods() == [Pod("default", name, "", ("registry.invalid/a:1",), "", False, False)]
    finally:
        cluster.kubectl("delete", "pod", name, f"{name}-elsewhere", "--force", "--grace-period=0")


def test_missing_rights_are_named(name: str, account: Path) -> None:
    with (
        Node(name, patience=QUICK, connection=as_pod(account)) as node,
        pytest.raises(PermanentError) as caught,
    ):
        node.get()
    assert 'cannot get resource "nodes"' in caught.value.found
    assert "allow get on nodes" in caught.value.remedy


def test_a_wrong_token_is_named(name: str, account: Path) -> None:
    (account / "token").write_text("nonsense")
    with (
        Node(name, patience=QUICK, connection=as_pod(account)) as node,
        pytest.raises(PermanentError) as caught,
    ):
        node.get()
    assert caught.value.found.startswith("401")


def test_an_unknown_node_is_named(account: Path, rights: None) -> None:
    node = Node("no-such-node", patience=QUICK, connection=as_pod(account))
    with node, pytest.raises(PermanentError, match="NODE_NAME=no-such-node"):
        node.get()


def test_a_persons_kubeconfig_works_as_well(cluster: ControlPlane, name: str) -> None:
    connection = connect({"KUBECONFIG": str(cluster.kubeconfig)})
    with Node(name, patience=QUICK, connection=connection) as node:
        assert node.get().name == name
