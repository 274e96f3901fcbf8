"""The whole job on a real node, by the DaemonSets and the built image: there, again, and back without a trace."""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import unified_diff
from pathlib import Path

import pytest

from installer import __version__
from tests import supply, whole
from tests.node import snapshot, state
from tests.node.control_plane import ControlPlane
from tests.node.node import Node
from tests.whole import Operator

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]

# From Kubernetes 1.33 on, CRI-O's annotation has no effect otherwise (`preflight` says so).
ANNOTATED = "featureGates:\n  UserNamespacesSupport: false\n"
IMAGE = f"localhost/sysbox-deploy:{__version__}"
LATER_IMAGE = "localhost/sysbox-deploy:later"
CRIO = "unix:///run/crio/crio.sock"
CONTAINERD = "unix:///run/containerd/containerd.sock"
# Pods, and their images, as CRI-O keeps them.
PODS = ("/var/lib/containers/storage/", "/var/lib/containers/cache")
GRACE_SECONDS = 60
IDLE_KIB = 2048
# The kubelet is watched for a shorter while than by default, where the switch is not what is tested.
QUICK = {"SYSBOX_DEPLOY_SETTLE": "5"}


@pytest.fixture(scope="session")
def image(machine: None) -> Path:
    return whole.build_image()


@pytest.fixture(scope="session")
def things(machine: None) -> supply.Supply:
    return supply.prepare()


@pytest.fixture
def node(new_node: Callable[..., Node]) -> Node:
    return new_node(kubelet_config=ANNOTATED)


@pytest.fixture
def bystanders(cluster: ControlPlane, node: Node) -> Iterator[str]:
    """A Deployment of pods whose image only containerd has."""
    name = f"bystanders-{node.name}"
    cluster.kubectl("apply", "-f", "-", input=whole.bystanders(node, name))
    cluster.kubectl("rollout", "status", f"deployment/{name}", "--timeout=90s")
    yield name
    cluster.kubectl("delete", "deployment", name, "--wait=false")


@pytest.fixture
def operator(
    request: pytest.FixtureRequest, cluster: ControlPlane, node: Node, tmp_path: Path, bystanders: str
) -> Iterator[Operator]:
    with whole.operator(cluster, node, request.param, tmp_path) as made:
        yield made


@pytest.mark.parametrize("operator", ["sysbox"], indirect=True)
def test_the_daemonsets_prepare_a_node_for_sysbox_and_take_every_trace_back(
    operator: Operator, image: Path, things: supply.Supply, bystanders: str, tmp_path: Path
) -> None:
    node = operator.node
    node.load_image(image)
    operator.configure(things.give(node))
    operator.label()
    planned = plan(operator, things)
    before, about_before = snapshot.take(node), about(operator)

    operator.do("install")
    the_kubelet_runs_on(operator, CRIO)
    the_node_says_that_it_runs(operator, {"crio-runtime": "running", "sysbox-runtime": "running"})
    the_cluster_was_told_of_every_phase(operator, ["SysboxDeployInstalling", "SysboxDeployRunning"])
    the_pods_run_again(operator, bystanders)
    nothing_of_the_switch_is_left(node)
    assert planned == made(node)
    the_switch_alone_restarted_our_pod(operator, "install")
    the_waiting_pod_is_small(operator)
    a_sysbox_pod_has_a_user_namespace(operator)

    with nothing_changes(operator):
        ends_at_once(operator, "install")
    why_not_is_said_for_every_change(operator, planned)
    node.load_image_for_crio(whole.renamed(image, LATER_IMAGE, tmp_path))
    operator.use(LATER_IMAGE)
    with nothing_changes(operator):
        operator.do("install")
    assert operator.container("install")["image"] == LATER_IMAGE
    why_not_is_said_for_every_change(operator, planned)

    operator.use(IMAGE)
    operator.delete("install")
    the_kubelet_runs_on(operator, CRIO)
    operator.do("cleanup")
    the_kubelet_runs_on(operator, CONTAINERD)
    the_cluster_was_told_of_every_phase(operator, ["SysboxDeployRemoving", "SysboxDeployRemoved"])
    the_switch_alone_restarted_our_pod(operator, "cleanup")
    ends_at_once(operator, "cleanup")
    operator.delete("cleanup")
    the_pods_run_again(operator, bystanders)
    assert about(operator) == about_before
    assert differences(node, before) == []


@pytest.mark.parametrize("operator", ["crio"], indirect=True)
def test_the_daemonsets_put_crio_under_a_node_and_take_every_trace_back(
    operator: Operator, image: Path, things: supply.Supply, bystanders: str
) -> None:
    node = operator.node
    node.load_image(image)
    operator.configure(things.give(node) | QUICK)
    operator.label()
    planned = plan(operator, things)
    before, about_before = snapshot.take(node), about(operator)

    operator.do("install")
    the_kubelet_runs_on(operator, CRIO)
    assert labels(operator) == {"crio-install": "yes", "crio-runtime": "running"}
    the_pods_run_again(operator, bystanders)
    nothing_of_the_switch_is_left(node)
    assert planned == made(node)
    assert "sysbox" not in node.run("systemctl", "list-unit-files").stdout

    with nothing_changes(operator):
        ends_at_once(operator, "install")
    why_not_is_said_for_every_change(operator, planned)

    operator.delete("install")
    operator.do("cleanup")
    the_kubelet_runs_on(operator, CONTAINERD)
    operator.delete("cleanup")
    the_pods_run_again(operator, bystanders)
    assert about(operator) == about_before
    assert differences(node, before) == []


@pytest.mark.parametrize(
    ("installed", "cleaned"),
    [(("crio", "sysbox"), ("crio", "sysbox")), (("sysbox", "crio"), ("sysbox", "crio"))],
    ids=["crio-first", "sysbox-first"],
)
def test_crio_stays_until_the_last_of_two_profiles_is_cleaned_up(
    cluster: ControlPlane, node: Node, things: supply.Supply, installed: tuple[str, str], cleaned: tuple[str, str]
) -> None:
    run = by_hand(cluster, node, things.give(node))
    before = snapshot.take(node)
    for profile in installed:
        run("install", "--once", f"--profile={profile}")
    assert runtime_labels(cluster, node) == {"crio-runtime": "running", "sysbox-runtime": "running"}

    run("cleanup", "--once", f"--profile={cleaned[0]}")
    assert f"--container-runtime-endpoint={CRIO}" in whole.kubelet_arguments(node)
    sysbox = node.run("systemctl", "is-active", "sysbox", check=False).stdout.strip()
    handlers = [one["name"] for one in cluster.get("node", node.name)["status"]["runtimeHandlers"]]
    if cleaned[1] == "sysbox":
        assert runtime_labels(cluster, node) == {"crio-runtime": "running", "sysbox-runtime": "running"}
        assert sysbox == "active"
        assert "sysbox-runc" in handlers
    else:
        assert runtime_labels(cluster, node) == {"crio-runtime": "running"}
        assert sysbox == "inactive"
        assert "sysbox-runc" not in node.run("crictl", "info").stdout

    run("cleanup", "--once", f"--profile={cleaned[1]}")
    assert runtime_labels(cluster, node) == {}
    assert whole.kubelet_arguments(node)[-1] != f"--container-runtime-endpoint={CRIO}"
    assert differences(node, before) == []


def test_the_seeds_layout_of_the_kubelet_is_moved_and_moved_back(
    cluster: ControlPlane, new_node: Callable[..., Node], things: supply.Supply
) -> None:
    node = new_node(layout="seed")
    run = by_hand(cluster, node, things.give(node))
    before = snapshot.take(node)
    run("install", "--once")
    arguments = whole.kubelet_arguments(node)
    assert last(arguments, "--container-runtime-endpoint") == CRIO
    assert last(arguments, "--runtime-cgroups") == "/system.slice/crio.service"
    assert cluster.get("node", node.name)["status"]["nodeInfo"]["containerRuntimeVersion"].startswith("cri-o://")
    run("cleanup", "--once")
    assert differences(node, before) == []


def test_a_crio_that_was_there_before_us_is_adopted_and_survives(
    cluster: ControlPlane, node: Node, things: supply.Supply
) -> None:
    settings = things.give(node)
    theirs = "/etc/crio/crio.conf.d/20-theirs.conf"
    node.write(theirs, '[crio.runtime]\nlog_level = "debug"\n')
    source = f"deb [signed-by={supply.ON_NODE}/repository/Release.key] file:{supply.ON_NODE}/repository /"
    node.write("/etc/apt/sources.list.d/theirs.list", source + "\n")
    node.run("apt-get", "update", "-q", timeout=300)
    node.run("apt-get", "install", "-yq", "cri-o", timeout=300)
    node.run("systemctl", "enable", "--now", "crio")
    installed_at = package_history(node)
    before = snapshot.take(node)

    run = by_hand(cluster, node, settings)
    run("install", "--once")
    assert last(whole.kubelet_arguments(node), "--container-runtime-endpoint") == CRIO
    assert package_history(node) == installed_at
    assert 'log_level = "debug"' in node.run("crio", "status", "config").stdout

    run("cleanup", "--once")
    # Its store keeps the images that were carried into it.
    assert differences(node, before, but=PODS) == []
    assert node.run("systemctl", "is-active", "crio").stdout == "active\n"
    assert 'log_level = "debug"' in node.run("crio", "status", "config").stdout
    assert package_history(node) == installed_at


def plan(operator: Operator, things: supply.Supply) -> list[tuple[str, object]]:
    """The changes that `plan --json` lists."""
    where = {"NODE_NAME": operator.node.name, "KUBECONFIG": str(operator.cluster.kubeconfig)}
    argv = ("plan", "--json", f"--profile={operator.profile}")
    said = whole.installer(operator.node, things.settings | where, *argv)
    assert said.returncode == 0, said.stderr
    return [(one["step"], one["change"]) for one in json.loads(said.stdout)["changes"]]


def made(node: Node) -> list[tuple[str, object]]:
    """The changes that the journal holds, each finished."""
    records = whole.journal(node)
    begun = [one for one in records if one["op"] == "begin"]
    assert len(begun) == len([one for one in records if one["op"] == "done"])
    assert not [one for one in records if one["op"] in ("undoing", "undone")]
    return [(one["step"], one["change"]) for one in begun]


def labels(operator: Operator) -> dict[str, str]:
    """The node's labels that are ours."""
    found = operator.cluster.get("node", operator.node.name)["metadata"]["labels"]
    return {key: value for key, value in found.items() if key.startswith(("crio-", "sysbox-"))}


def runtime_labels(cluster: ControlPlane, node: Node) -> dict[str, str]:
    found = cluster.get("node", node.name)["metadata"]["labels"]
    return {key: value for key, value in found.items() if key in ("crio-runtime", "sysbox-runtime")}


def about(operator: Operator) -> dict[str, object]:
    """All that somebody may have set at the node's object."""
    node = operator.cluster.get("node", operator.node.name)
    meta, spec = node["metadata"], node["spec"]
    return {
        "labels": meta["labels"],
        "annotations": meta["annotations"],
        "taints": spec.get("taints"),
        "cordoned": spec.get("unschedulable"),
        "conditions": sorted(one["type"] for one in node["status"]["conditions"]),
    }


def the_kubelet_runs_on(operator: Operator, endpoint: str) -> None:
    node = operator.cluster.get("node", operator.node.name)
    assert last(whole.kubelet_arguments(operator.node), "--container-runtime-endpoint") == endpoint
    scheme = "cri-o://" if endpoint == CRIO else "containerd://"
    assert node["status"]["nodeInfo"]["containerRuntimeVersion"].startswith(scheme)


def the_node_says_that_it_runs(operator: Operator, wanted: dict[str, str]) -> None:
    said = about(operator)
    assert labels(operator) == {f"{operator.profile}-install": "yes", **wanted}
    assert said["taints"] is None
    assert said["cordoned"] is None
    node = operator.cluster.get("node", operator.node.name)
    assert node["metadata"]["annotations"]["kubeadm.alpha.kubernetes.io/cri-socket"] == CRIO
    (ready,) = [one for one in node["status"]["conditions"] if one["type"] == "SysboxReady"]
    assert (ready["status"], ready["reason"]) == ("True", "Running")


def the_cluster_was_told_of_every_phase(operator: Operator, reasons: list[str]) -> None:
    selector = f"--field-selector=involvedObject.name={operator.node.name},source=sysbox-deploy"
    events = operator.cluster.get("events", "-n", "default", selector)["items"]
    said = {one["reason"]: one["message"] for one in sorted(events, key=lambda one: str(one["lastTimestamp"]))}
    assert set(reasons) <= said.keys()
    assert not [said[one] for one in said if one.endswith("Error")]


def the_pods_run_again(operator: Operator, deployment: str) -> None:
    """The same pods as before, their images carried: no registry has them."""

    def run() -> bool:
        found = operator.cluster.get("pods", "-l", f"app={deployment}")["items"]
        states = [one["status"]["containerStatuses"][0] for one in found]
        scheme = operator.cluster.get("node", operator.node.name)["status"]["nodeInfo"]["containerRuntimeVersion"]
        runtime = scheme.split(":")[0]
        return len(found) == 3 and all(
            one["ready"] and one["restartCount"] >= 1 and one["containerID"].startswith(runtime) for one in states
        )

    assert state.poll(run, 60, every=0.5), operator.cluster.kubectl(
        "describe", "pods", "-l", f"app={deployment}"
    ).stdout


def nothing_of_the_switch_is_left(node: Node) -> None:
    assert "sysbox-deploy" not in node.run("systemctl", "list-units", "--all", "--type=service,timer").stdout
    assert "sysbox-deploy" not in node.run("systemctl", "list-unit-files").stdout
    assert "switch" not in node.run("ls", whole.STATE).stdout.split()
    # a staged file's name is .NAME.sysbox-deploy
    assert node.run("find", "/etc", "/var/lib/kubelet", "-xdev", "-name", ".*sysbox-deploy*").stdout == ""
    assert not node.run("find", "/etc", "-name", "*carry*").stdout


def the_switch_alone_restarted_our_pod(operator: Operator, job: str) -> None:
    assert operator.container(job)["restartCount"] == 1


def the_waiting_pod_is_small(operator: Operator) -> None:
    container = operator.container("install")["containerID"].rpartition("/")[2]
    resident = whole.memory_kib(operator.node, container)
    assert resident
    assert sum(resident.values()) < IDLE_KIB, resident


def a_sysbox_pod_has_a_user_namespace(operator: Operator) -> None:
    name = f"sysbox-{operator.node.name}"
    kubectl = operator.cluster.kubectl
    kubectl("apply", "-f", "-", input=whole.sysbox_pod(operator.node, name))
    try:
        kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")
        inside, outside, count = map(int, kubectl("exec", name, "--", "cat", "/proc/self/uid_map").stdout.split())
    finally:
        kubectl("delete", "pod", name)
    ranges = re.search(r"^containers:(\d+):(\d+)$", operator.node.run("cat", "/etc/subuid").stdout, re.MULTILINE)
    assert ranges
    first, length = map(int, ranges.groups())
    assert (inside, count) == (0, 65536)
    assert first <= outside and outside + count <= first + length


@contextmanager
def nothing_changes(operator: Operator) -> Iterator[None]:
    """No path, package or unit of the node but for the pods' own, no process of its services, nothing at its object."""
    node = operator.node
    before = snapshot.take(node), whole.services(node), about(operator)
    yield
    operator.wait("install")
    assert differences(node, before[0], but=PODS) == []
    assert list(unified_diff(before[1].splitlines(), whole.services(node).splitlines(), n=1)) == []
    assert about(operator) == before[2]


def ends_at_once(operator: Operator, job: str) -> None:
    """A waiting pod does not use up its grace."""
    start = time.monotonic()
    operator.cluster.kubectl("delete", "pod", "-n", "kube-system", operator.pod(job)["metadata"]["name"])
    assert time.monotonic() - start < GRACE_SECONDS / 3


def why_not_is_said_for_every_change(operator: Operator, planned: list[tuple[str, object]]) -> None:
    said = operator.log("install")
    reasons = [line for line in said.splitlines() if "nothing to do: " in line]
    assert "nothing was changed" in said
    for step in {step for step, _ in planned}:
        wanted = len([1 for one, _ in planned if one == step])
        assert len([line for line in reasons if f"nothing to do: {step}: " in line]) >= wanted, (step, said)


def differences(node: Node, before: snapshot.Snapshot, but: tuple[str, ...] = ()) -> list[str]:
    """What is not as it was, `but` for paths that begin so; printed too, for people."""
    found = snapshot.compare(before, snapshot.take(node))
    print("\n".join(found))
    return [one for one in found if not one.partition(" ")[2].startswith(but)]


def last(arguments: list[str], flag: str) -> str:
    """The value that wins."""
    return [one for one in arguments if one.startswith(f"{flag}=")][-1].partition("=")[2]


def by_hand(cluster: ControlPlane, node: Node, settings: dict[str, str]) -> Callable[..., None]:
    """Runs the program from the checkout as a person would on the node."""

    def run(*argv: str) -> None:
        where = {"NODE_NAME": node.name, "KUBECONFIG": str(cluster.kubeconfig)}
        done = whole.installer(node, settings | where | QUICK, *argv)
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"

    return run


def package_history(node: Node) -> str:
    """What dpkg did with cri-o, and when."""
    return node.run("grep", "-E", " (install|upgrade|remove|configure) cri-o:", "/var/log/dpkg.log").stdout
