"""Pods evicted by the API: which, with what patience, and what happens when it ends."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kmock
import pytest
import structlog.testing

from installer.cluster import drain
from installer.cluster.api import Patience
from installer.cluster.connect import connect
from installer.cluster.node import Node
from installer.cluster.view import Pod
from installer.errors import PermanentError, TemporaryError
from tests import mock_api
from tests.mock_api import NAME, PODS, MockApi

pytestmark = pytest.mark.machine

QUICK = Patience(total=0.5, first=0.01, longest=0.05, answer=0.3)
UID = "4d1f3f0e-6f0a-4f0b-9d3b-0123456789ab"
Json = dict[str, Any]


@pytest.fixture
def mock() -> Iterator[MockApi]:
    with mock_api.serving() as made:
        yield made


@pytest.fixture
def node(mock: MockApi, tmp_path: Path) -> Iterator[Node]:
    file = mock_api.kubeconfig(tmp_path, str(mock.url))
    with Node(NAME, patience=QUICK, connection=connect({"KUBECONFIG": str(file)})) as made:
        yield made


def pod(name: str, owner: str = "ReplicaSet", **more: Any) -> Json:
    owners = [{"kind": owner, "controller": True}] if owner else []
    annotations = {"kubernetes.io/config.mirror": "x"} if owner == "Node" else {}
    return {
        "metadata": {
            "namespace": "shop",
            "name": name,
            "uid": f"uid-{name}",
            "ownerReferences": owners,
            "annotations": annotations,
        },
        "spec": {"containers": [{"image": "web:1"}]},
        "status": {"phase": "Running"},
        **more,
    }


def eviction(name: str) -> str:
    return f"/api/v1/namespaces/shop/pods/{name}/eviction"


def evicts(mock: MockApi, *names: str, after: int = 0) -> None:
    """The API ends these pods, once it has said no `after` times because of a budget."""

    def answer(name: str) -> Callable[[kmock.Request], Json]:
        left = after

        def once(request: kmock.Request) -> Json:
            nonlocal left
            if left:
                left -= 1
                raise kmock.KubernetesError(429, "TooManyRequests", "Cannot evict pod")
            if not request.data["deleteOptions"].get("dryRun"):
                mock.pods = [one for one in mock.pods if one["metadata"]["name"] != name]
            return {"kind": "Status", "status": "Success"}

        return once

    for name in names:
        mock.fallback["post", eviction(name)] << answer(name)


def posts(mock: MockApi) -> list[str]:
    return [one.removeprefix("POST ") for one in mock.asked if one.startswith("POST")]


def test_what_belongs_to_the_node_stays(mock: MockApi, node: Node) -> None:
    mock.pods = [
        pod("web"),
        pod("job", "Job"),
        pod("agent", "DaemonSet"),
        pod("static", "Node"),
        pod("bare", ""),
        pod("done", status={"phase": "Succeeded"}),
        pod("ours"),
    ]
    assert [one.name for one in drain.movable(node.pods(), "uid-ours")] == ["web", "job"]
    assert [one.name for one in drain.movable(node.pods(), "")] == ["web", "job", "ours"]


def test_our_own_pod_is_known_by_what_the_kubelet_mounts(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 0:1 / / rw - overlay overlay rw\n"
        f"2 1 8:1 /var/lib/kubelet/pods/{UID}/etc-hosts /etc/hosts rw - ext4 /dev/sda1 rw\n"
    )
    assert drain.own_uid(mounts) == UID
    mounts.write_text("1 0 0:1 / / rw - ext4 /dev/sda1 rw\n")
    assert drain.own_uid(mounts) == ""


def test_pods_are_evicted_once_and_waited_for(mock: MockApi, node: Node) -> None:
    mock.pods = [pod("a"), pod("b"), pod("agent", "DaemonSet")]
    evicts(mock, "a", "b")
    drain.drain(node, drain.movable(node.pods(), ""), timeout=5, carry_on=False, pause=0.01)
    assert posts(mock) == [eviction("a"), eviction("b")]
    body = next(request.data for request in mock if request.method.value == "POST")
    assert body["apiVersion"] == "policy/v1"
    assert body["deleteOptions"] == {"preconditions": {"uid": "uid-a"}}
    assert [one["metadata"]["name"] for one in mock.pods] == ["agent"]


def test_a_budget_is_asked_again_until_it_allows(mock: MockApi, node: Node) -> None:
    mock.pods = [pod("a")]
    evicts(mock, "a", after=3)
    with structlog.testing.capture_logs() as logs:
        drain.drain(node, drain.movable(node.pods(), ""), timeout=5, carry_on=False, pause=0.01)
    assert posts(mock) == [eviction("a")] * 4
    assert mock.pods == []
    # The same refusal is told once.
    assert len([log for log in logs if "may not go yet" in log["event"]]) == 1


def test_at_the_deadline_it_fails_and_says_who_stays_and_why(mock: MockApi, node: Node) -> None:
    mock.pods = [pod("a"), pod("slow")]
    evicts(mock, "a", after=10**6)
    mock.fallback["post", eviction("slow")] << {"kind": "Status", "status": "Success"}
    start = time.monotonic()
    with pytest.raises(TemporaryError) as caught:
        drain.drain(node, drain.movable(node.pods(), ""), timeout=0.3, carry_on=False, pause=0.05)
    assert time.monotonic() - start < 2
    assert caught.value.found == "shop/a: 429: Cannot evict pod; shop/slow: it does not end"
    assert posts(mock).count(eviction("slow")) == 1


def test_at_the_deadline_it_carries_on_if_that_is_wished(mock: MockApi, node: Node) -> None:
    mock.pods = [pod("a")]
    evicts(mock, "a", after=10**6)
    with structlog.testing.capture_logs() as logs:
        drain.drain(node, drain.movable(node.pods(), ""), timeout=0.2, carry_on=True, pause=0.05)
    assert logs[-1]["log_level"] == "warning"
    assert "restart with it" in logs[-1]["event"]


def test_the_budget_is_named_that_holds_a_pod_back(mock: MockApi, node: Node) -> None:
    mock.pods = [pod("a")]
    details = {"causes": [{"reason": "DisruptionBudget", "message": "The disruption budget web needs 2 healthy pods"}]}
    status = {"kind": "Status", "code": 429, "message": "Cannot evict pod", "details": details}
    mock["post", eviction("a")] << 429 << status
    (one,) = node.pods()
    assert "The disruption budget web needs 2" in node.evict(one, pretend=True)


@pytest.mark.parametrize("status", [404, 409])
def test_a_pod_that_went_by_itself_is_no_failure(mock: MockApi, node: Node, status: int) -> None:
    mock.pods = [pod("a")]
    (one,) = node.pods()

    def gone(_: kmock.Request) -> None:
        mock.pods = []
        raise kmock.KubernetesError(status, "Gone", "it is not that pod any more")

    mock.fallback["post", eviction("a")] << gone
    drain.drain(node, [one], timeout=1, carry_on=False, pause=0.01)


def test_to_pretend_is_said_to_the_api(mock: MockApi, node: Node) -> None:
    mock.pods = [pod("a")]
    evicts(mock, "a")
    assert node.evict(node.pods()[0], pretend=True) == ""
    assert mock.last.data["deleteOptions"]["dryRun"] == ["All"]
    assert len(mock.pods) == 1


@pytest.mark.parametrize(("version", "spoken"), [("v1.20.15", "policy/v1beta1"), ("v1.22.0", "policy/v1")])
def test_an_old_cluster_is_spoken_to_in_its_own_way(mock: MockApi, node: Node, version: str, spoken: str) -> None:
    mock.change({"status": {"nodeInfo": {"kubeletVersion": version}}})
    mock.pods = [pod("a")]
    evicts(mock, "a")
    node.get()
    node.evict(node.pods()[0])
    assert mock.last.data["apiVersion"] == spoken


def test_a_missing_right_is_named(mock: MockApi, node: Node) -> None:
    mock.pods = [pod("a")]
    mock["post", eviction("a")] << kmock.KubernetesError(403, "Forbidden", "no")
    with pytest.raises(PermanentError, match="allow create on pods/eviction"):
        node.evict(node.pods()[0])


def test_pods_keep_their_pull_secrets_and_what_is_always_pulled(mock: MockApi, node: Node) -> None:
    spec = {
        "imagePullSecrets": [{"name": "hub"}, {}],
        "initContainers": [{"image": "init:1", "imagePullPolicy": "Always"}],
        "containers": [{"image": "web:1", "imagePullPolicy": "IfNotPresent"}],
    }
    mock.pods = [pod("a", spec=spec)]
    (one,) = node.pods()
    assert one == Pod("shop", "a", "ReplicaSet", ("init:1", "web:1"), "", False, False, "", ("hub",), ("init:1",))
    assert one.uid == "uid-a"
    assert PODS in mock.asked[-1]
