"""What `kubectl apply -k` sends is what the job needs, and no more."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from installer import __version__
from tests.components import recipes

MANIFESTS = Path(__file__).parent.parent / "k8s-manifests"
JOBS = [(profile, job) for profile in ("crio", "sysbox") for job in ("install", "cleanup")]
NAMES = {"install": "deploy", "cleanup": "cleanup"}
CHANGED_BY_THE_JOB = {"crio-runtime", "sysbox-runtime"}
ALLOWED = {
    ("", "nodes"): {"get", "patch"},
    ("", "nodes/status"): {"patch"},
    ("", "pods"): {"get", "list"},
    ("", "pods/eviction"): {"create"},
    ("", "events"): {"create"},
}

Object = dict[str, Any]


def load(file: str) -> list[Object]:
    return list(yaml.safe_load_all((MANIFESTS / file).read_text()))


def daemonset(profile: str, job: str) -> Object:
    return load(f"daemonset/{profile}-{NAMES[job]}-k8s.yaml")[0]


def rbac(profile: str) -> dict[str, Object]:
    file = {"crio": "rbac/crio-deploy-rbac.yaml", "sysbox": "rbac/sysbox-rbac.yaml"}[profile]
    return {document["kind"]: document for document in load(file)}


def test_every_file_is_yaml_and_says_its_kind() -> None:
    for file in MANIFESTS.rglob("*.yaml"):
        assert all({"apiVersion", "kind"} <= document.keys() for document in load(str(file))), file


@pytest.mark.parametrize(("profile", "job"), JOBS)
def test_a_daemonset_has_the_seeds_name_and_runs_its_job(profile: str, job: str) -> None:
    made = daemonset(profile, job)
    name = f"{profile}-{NAMES[job]}-k8s"
    pod = made["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert made["metadata"]["name"] == name
    assert made["metadata"]["namespace"] == "kube-system"
    assert made["spec"]["selector"]["matchLabels"] == {"app.kubernetes.io/name": name}
    assert pod["metadata"]["labels"]["app.kubernetes.io/name"] == name
    assert pod["spec"]["serviceAccountName"] == f"{profile}-deploy"
    assert container["command"] == ["sysbox-deploy", job, "--profile", profile]
    assert container["envFrom"] == [{"configMapRef": {"name": f"{profile}-deploy", "optional": True}}]


@pytest.mark.parametrize(("profile", "job"), JOBS)
def test_no_label_that_the_job_changes_selects_its_pods(profile: str, job: str) -> None:
    selector = daemonset(profile, job)["spec"]["template"]["spec"]["nodeSelector"]
    assert selector == {f"{profile}-install": "yes"}
    assert not selector.keys() & CHANGED_BY_THE_JOB


def test_the_pods_of_all_jobs_differ_in_nothing_else() -> None:
    def same(profile: str, job: str) -> Object:
        pod: Object = daemonset(profile, job)["spec"]["template"]["spec"]
        del pod["nodeSelector"], pod["serviceAccountName"]
        del pod["containers"][0]["command"], pod["containers"][0]["envFrom"]
        return pod

    assert all(same(*job) == same(*JOBS[0]) for job in JOBS)


def test_the_pod_reaches_the_host_and_tells_when_it_is_ready() -> None:
    pod = daemonset("sysbox", "install")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["hostPID"] and pod["hostNetwork"]
    assert container["securityContext"] == {"privileged": True}
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert "volumes" not in pod
    (node_name,) = container["env"]
    assert node_name == {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    assert container["startupProbe"]["exec"]["command"] == ["test", "-f", "/run/sysbox-deploy/ready"]
    assert container["startupProbe"]["failureThreshold"] * container["startupProbe"]["periodSeconds"] > 24 * 3600
    assert "readinessProbe" not in container  # it would be asked for ever, on every node
    assert "limits" not in container["resources"]


@pytest.mark.parametrize("profile", ["crio", "sysbox"])
def test_the_service_account_may_only_what_is_listed(profile: str) -> None:
    documents = rbac(profile)
    granted = {
        (group, resource): set(rule["verbs"])
        for rule in documents["ClusterRole"]["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert granted == ALLOWED
    binding = documents["ClusterRoleBinding"]
    assert binding["roleRef"]["kind"] == "ClusterRole"
    assert binding["roleRef"]["name"] == documents["ClusterRole"]["metadata"]["name"]
    account = {"kind": "ServiceAccount", "name": f"{profile}-deploy", "namespace": "kube-system"}
    assert binding["subjects"] == [account]


def test_sysbox_pods_go_only_where_sysbox_runs() -> None:
    (made,) = load("runtime-class/sysbox-runtimeclass.yaml")
    assert made["metadata"]["name"] == made["handler"] == "sysbox-runc"
    assert made["scheduling"]["nodeSelector"] == {"sysbox-runtime": "running"}


@pytest.mark.machine
@pytest.mark.parametrize(("profile", "job"), JOBS)
def test_a_kustomization_holds_one_job_and_what_it_needs(profile: str, job: str, kubectl: Path) -> None:
    built = {
        (document["kind"], document["metadata"]["name"]): document
        for document in yaml.safe_load_all(kustomize(kubectl, MANIFESTS / profile / job))
    }
    made = f"{profile}-{NAMES[job]}-k8s"
    account = f"{profile}-deploy"
    kinds = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "ConfigMap")
    wanted = {("DaemonSet", made), *((kind, account) for kind in kinds)}
    if (profile, job) == ("sysbox", "install"):
        wanted.add(("RuntimeClass", "sysbox-runc"))
    assert built.keys() == wanted
    (container,) = built["DaemonSet", made]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"localhost/sysbox-deploy:{__version__}"


@pytest.fixture(scope="session")
def kubectl() -> Path:
    recipe = recipes.find("kubectl", recipes.MINOR)
    if not recipe.home.is_dir():
        pytest.skip("kubectl is not built yet: make components")
    return recipe.home / "kubectl"


def kustomize(kubectl: Path, folder: Path) -> str:
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return done.stdout
