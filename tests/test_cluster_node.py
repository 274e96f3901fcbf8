import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kmock
import pytest
import structlog.testing

from installer.cluster import names, taints, view
from installer.cluster.api import Patience
from installer.cluster.connect import connect
from installer.cluster.node import Node
from installer.cluster.view import NodeView, Pod
from installer.errors import TemporaryError
from tests import mock_api
from tests.mock_api import EVENTS, NAME, NODE, PODS, STATUS, MockApi

pytestmark = pytest.mark.machine

QUICK = Patience(total=0.5, first=0.01, longest=0.05, answer=0.3)
NOT_RUNNING = taints.parse(taints.DEFAULT)
FOREIGN = {"key": "pool", "value": "gpu", "effect": "NoExecute", "timeAdded": "2026-11-22T07:26:18Z"}


@pytest.fixture
def mock() -> Iterator[MockApi]:
    with mock_api.serving() as made:
        yield made


@pytest.fixture
def node(mock: MockApi, tmp_path: Path) -> Iterator[Node]:
    file = mock_api.kubeconfig(tmp_path, str(mock.url))
    with Node(NAME, patience=QUICK, connection=connect({"KUBECONFIG": str(file)})) as made:
        yield made


def test_the_view_holds_what_the_api_shows(mock: MockApi, node: Node) -> None:
    seen = node.get()
    assert (seen.name, seen.version, seen.kubelet_version) == (NAME, "1000", "v1.34.9")
    assert seen.runtime_version == "containerd://1.6.20"
    assert seen.runtime_handlers is None
    assert seen.ready
    assert not seen.control_plane
    assert not seen.unschedulable
    assert seen.pod_cidrs == ("10.244.1.0/24", "fd00:1::/64")


def test_handlers_are_listed_where_the_node_reports_them(mock: MockApi, node: Node) -> None:
    mock.change({"status": {"runtimeHandlers": [{"name": ""}, {"name": "sysbox-runc", "features": {}}]}})
    assert node.get().runtime_handlers == ("", "sysbox-runc")


@pytest.mark.parametrize("key", ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"])
def test_a_control_plane_is_known_by_label_or_taint(mock: MockApi, node: Node, key: str) -> None:
    mock.change({"metadata": {"labels": {key: ""}}})
    assert node.get().control_plane
    mock.change({"metadata": {"labels": {key: None}}, "spec": {"taints": [{"key": key, "effect": "NoSchedule"}]}})
    assert node.get().control_plane


def test_a_report_is_one_patch(mock: MockApi, node: Node) -> None:
    mock.change({"metadata": {"labels": {"old": "x"}}})
    node.get()
    labels = {"crio-runtime": names.State.INSTALLING, "old": None}
    seen = node.report(labels, annotations={"a": "b"}, add_taint=NOT_RUNNING, cordon=True)
    assert mock.asked == [f"GET {NODE}", f"PATCH {NODE}"]
    assert mock.last.headers["Content-Type"] == "application/merge-patch+json"
    assert seen.labels["crio-runtime"] == "installing"
    assert "old" not in seen.labels
    assert seen.annotations["a"] == "b"
    assert seen.unschedulable
    assert seen.taints == ({"key": "sysbox-runtime", "value": "not-running", "effect": "NoSchedule"},)


def test_a_report_of_nothing_new_sends_nothing(mock: MockApi, node: Node) -> None:
    for _ in range(2):
        node.report({"crio-runtime": "installing", "gone": None}, add_taint=NOT_RUNNING, cordon=True)
    assert node.requests == len(mock.asked) == 2


def test_what_was_there_comes_back(mock: MockApi, node: Node) -> None:
    mock.change({"spec": {"taints": [FOREIGN]}})
    before = json.loads(json.dumps(mock.node))
    node.report({"crio-runtime": "installing"}, add_taint=NOT_RUNNING, cordon=True)
    node.condition("False", "Installing", "CRI-O is being installed")
    node.report({"crio-runtime": None}, remove_taint=NOT_RUNNING, cordon=False)
    node.clear_condition()
    mock.node["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"]
    assert mock.node == before


def test_a_taint_that_came_in_between_is_kept(mock: MockApi, node: Node) -> None:
    node.get()
    mock.change({"spec": {"taints": [FOREIGN]}})
    seen = node.report(add_taint=NOT_RUNNING)
    assert mock.asked == [f"GET {NODE}", f"PATCH {NODE}", f"GET {NODE}", f"PATCH {NODE}"]
    assert [one["key"] for one in seen.taints] == ["pool", "sysbox-runtime"]
    assert seen.taints[0] == FOREIGN


def test_labels_alone_need_no_version(mock: MockApi, node: Node) -> None:
    node.get()
    mock.change({"spec": {"taints": [FOREIGN]}})
    node.report({"crio-runtime": "failed"})
    assert mock.asked == [f"GET {NODE}", f"PATCH {NODE}"]


def test_a_node_that_never_stops_changing_is_given_up(mock: MockApi, node: Node) -> None:
    mock["patch", NODE] << kmock.KubernetesError(409, "Conflict", "modified")
    with pytest.raises(TemporaryError, match="somebody else changed it while we wrote: patch nodes"):
        node.report(add_taint=NOT_RUNNING)


def test_an_administrators_cordon_is_not_lifted(mock: MockApi, node: Node) -> None:
    mock.change({"spec": {"unschedulable": True}})
    node.report({"crio-runtime": "installing"}, cordon=True)
    node.report({"crio-runtime": "running"}, cordon=False)
    assert mock.node["spec"]["unschedulable"] is True


def test_a_condition_is_merged_and_keeps_the_time_of_its_change(mock: MockApi, node: Node) -> None:
    old = "2026-01-01T00:00:00Z"
    first = node.condition("False", "Installing", "packages").conditions[names.CONDITION]
    assert (first.status, first.reason, first.message) == ("False", "Installing", "packages")
    assert first.changed == first.heartbeat
    mock.node["status"]["conditions"][1]["lastTransitionTime"] = old
    assert node.condition("False", "Switching", "the kubelet").conditions[names.CONDITION].changed == old
    assert node.condition("True", "Running", "done").conditions[names.CONDITION].changed != old
    assert [one["type"] for one in mock.node["status"]["conditions"]] == ["Ready", names.CONDITION]
    assert mock.last.headers["Content-Type"] == "application/strategic-merge-patch+json"


def test_a_condition_that_says_the_same_sends_nothing(mock: MockApi, node: Node) -> None:
    for _ in range(2):
        node.condition("True", "Running", "done")
    for _ in range(2):
        node.clear_condition()
    assert mock.asked == [f"GET {NODE}", f"PATCH {STATUS}", f"PATCH {STATUS}"]
    assert names.CONDITION not in node.get().conditions


def test_an_event_is_one_request_and_is_about_the_node(mock: MockApi, node: Node) -> None:
    uid = node.get().uid
    node.event("Installing", "x" * 2000, "Warning")
    (event,) = mock.events
    about = {"apiVersion": "v1", "kind": "Node", "name": NAME, "uid": uid}
    assert event["involvedObject"] == about
    assert (event["reason"], event["type"], event["metadata"]["namespace"]) == (
        "Installing",
        "Warning",
        "default",
    )
    assert len(event["message"]) == 1024
    assert mock.asked == [f"GET {NODE}", f"POST {EVENTS}"]


def test_an_event_before_anything_is_known_needs_no_other_request(mock: MockApi, node: Node) -> None:
    node.event("Installing", "x")
    assert mock.events[0]["involvedObject"]["uid"] == NAME
    assert mock.asked == [f"POST {EVENTS}"]


def test_an_event_whose_answer_was_cut_is_not_told_twice(mock: MockApi, node: Node) -> None:
    def stored_then_cut(request: kmock.Request) -> Any:
        mock.events.append(request.data)
        mock_api.cut(request)
        return b""

    mock["post", EVENTS][:1] << stored_then_cut
    with structlog.testing.capture_logs() as logs:
        node.event("Installing", "x")
    assert len(mock.events) == 1
    assert not [line for line in logs if "lost" in line["event"]]


@pytest.mark.parametrize("code", [403, 404, 422, 500])
def test_an_event_that_can_not_be_sent_is_only_logged(mock: MockApi, node: Node, code: int) -> None:
    mock["post", EVENTS] << kmock.KubernetesError(code, "Because", "no")
    with structlog.testing.capture_logs() as logs:
        node.event("Installing", "the packages")
    assert logs[-1]["event"] == "an Event was lost: Installing: the packages"


def test_pods_are_told_by_what_a_switch_does_to_them(mock: MockApi, node: Node) -> None:
    web = {
        "metadata": {
            "namespace": "shop",
            "name": "web-1",
            "ownerReferences": [{"kind": "Other"}, {"kind": "ReplicaSet", "controller": True}],
        },
        "spec": {
            "runtimeClassName": "sysbox-runc",
            "initContainers": [{"image": "init:1"}],
            "containers": [{"image": "web:2"}, {"image": "init:1"}],
        },
        "status": {"phase": "Running"},
    }
    static = {
        "metadata": {
            "namespace": "kube-system",
            "name": "proxy-worker-1",
            "annotations": {"kubernetes.io/config.mirror": "abc"},
            "ownerReferences": [{"kind": "Node", "controller": True}],
        },
        "spec": {"containers": [{"image": "proxy:3"}]},
    }
    done = {
        "metadata": {"namespace": "d", "name": "job"},
        "spec": {"containers": []},
        "status": {"phase": "Succeeded"},
    }
    mock.pods = [web, static, done]
    assert node.pods() == [
        Pod("shop", "web-1", "ReplicaSet", ("init:1", "web:2"), "sysbox-runc", False, False),
        Pod("kube-system", "proxy-worker-1", "Node", ("proxy:3",), "", True, False),
        Pod("d", "job", "", (), "", False, True),
    ]
    assert mock.asked == [f"GET {PODS}"]
    assert mock.last.params == {"fieldSelector": f"spec.nodeName={NAME}"}


def test_waiting_ends_with_the_first_look_that_satisfies(mock: MockApi, node: Node) -> None:
    looks = iter(("containerd://1.6.20", "cri-o://1.34.0", "cri-o://1.34.0"))

    def missing(seen: NodeView) -> str:
        mock.change({"status": {"nodeInfo": {"containerRuntimeVersion": next(looks)}}})
        return view.serving("cri-o")(seen)

    with structlog.testing.capture_logs() as logs:
        assert node.wait_until(missing, timeout=5, interval=0.01).runtime_version == "cri-o://1.34.0"
    assert len(mock.asked) == 3
    assert len(logs) == 1, "the same reason is told once"


def test_waiting_in_vain_says_what_is_missing(mock: MockApi, node: Node) -> None:
    start = time.monotonic()
    with pytest.raises(TemporaryError) as caught:
        node.wait_until(view.serving("cri-o"), timeout=0.2, interval=0.05)
    assert time.monotonic() - start < 1
    assert caught.value.found == "its container runtime is containerd://1.6.20, not cri-o"
    assert len(mock.asked) <= 4


def test_waiting_for_an_api_that_is_down_ends_in_time_too(mock: MockApi, node: Node) -> None:
    mock["get", NODE] << kmock.KubernetesError(503, "Because", "down")
    start = time.monotonic()
    with pytest.raises(TemporaryError, match="does not serve us"):
        node.wait_until(view.serving("cri-o"), timeout=0.2, interval=0.05)
    assert time.monotonic() - start < 1


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ({}, "its container runtime is containerd://1.6.20, not cri-o"),
        ({"nodeInfo": {}}, "its container runtime is not reported, not cri-o"),
        ({"nodeInfo": {"containerRuntimeVersion": "cri-o://1.34.0"}}, ""),
        ({"nodeInfo": {"containerRuntimeVersion": "cri-o://1.34.0"}, "conditions": []}, "it is not Ready"),
        (
            {
                "nodeInfo": {"containerRuntimeVersion": "cri-o://1.34.0"},
                "runtimeHandlers": [{"name": "crun"}],
            },
            "its runtime has no handler sysbox-runc; it has: crun",
        ),
    ],
)
def test_serving_names_what_is_missing(change: dict[str, Any], missing: str) -> None:
    content = mock_api.ready_node()
    content["status"] |= change
    assert view.serving("cri-o", "sysbox-runc")(view.node(content)).startswith(missing)


def test_serving_takes_no_report_from_before_the_switch() -> None:
    seen = view.node(mock_api.ready_node())
    assert view.serving("containerd", since="2026-11-22T07:27:47Z")(seen) == ""
    assert "has not reported" in view.serving("containerd", since="2026-11-22T07:27:48Z")(seen)


def test_a_whole_install_takes_at_most_twelve_requests(mock: MockApi, node: Node, tmp_path: Path) -> None:
    node.get()
    node.report({"crio-runtime": "installing", "sysbox-runtime": "installing"}, add_taint=NOT_RUNNING)
    node.condition("False", "Installing", "…")
    node.event("Installing", "…")
    node.pods()
    node.report(cordon=True)
    mock.change({"status": {"nodeInfo": {"containerRuntimeVersion": "cri-o://1.34.0"}}})
    # the switch ends our pod: another process goes on
    file = tmp_path / "kubeconfig"
    with Node(NAME, patience=QUICK, connection=connect({"KUBECONFIG": str(file)})) as after:
        after.wait_until(view.serving("cri-o", "sysbox-runc"), timeout=1)
        after.report({"crio-runtime": "running", "sysbox-runtime": "running"}, remove_taint=NOT_RUNNING, cordon=False)
        after.condition("True", "Running", "…")
        after.event("Running", "…")
    assert len(mock.asked) == 10
