import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kmock
import pytest
import structlog.testing
from urllib3.connection import HTTPConnection
from urllib3.exceptions import NameResolutionError

from installer.cluster.answers import Again, Call, unreachable
from installer.cluster.api import Patience
from installer.cluster.connect import Connection, connect
from installer.cluster.node import Node
from installer.errors import DeployError, PermanentError, SettingsError, TemporaryError
from tests import mock_api
from tests.mock_api import EVENTS, NAME, NODE, TOKEN, MockApi

pytestmark = pytest.mark.machine

QUICK = Patience(total=0.5, first=0.01, longest=0.05, answer=0.3, denied=3)
FORBIDDEN = 'nodes "worker-1" is forbidden: User "system:serviceaccount:x:y" cannot get resource "nodes"'


@pytest.fixture
def mock() -> Iterator[MockApi]:
    with mock_api.serving() as made:
        yield made


@pytest.fixture
def node(mock: MockApi, tmp_path: Path) -> Iterator[Node]:
    with a_node(tmp_path, str(mock.url)) as made:
        yield made


def a_node(folder: Path, url: str, patience: Patience = QUICK) -> Node:
    connection = connect({"KUBECONFIG": str(mock_api.kubeconfig(folder, url))})
    return Node(NAME, patience=patience, connection=connection)


def status(code: int, message: str = "") -> kmock.KubernetesError:
    return kmock.KubernetesError(code, "Because", message)


def attempts(logs: list[Any]) -> list[int]:
    return [line["attempt"] for line in logs if "attempt" in line]


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_a_temporary_status_is_tried_again_with_a_line_each(mock: MockApi, node: Node, code: int) -> None:
    mock["get", NODE][:2] << status(code, "later")
    with structlog.testing.capture_logs() as logs:
        assert node.get().kubelet_version == "v1.34.9"
    assert attempts(logs) == [1, 2]
    assert all(f"{code}: later" in line["found"] and line["log_level"] == "warning" for line in logs)


def test_an_api_that_stays_down_is_a_temporary_error_with_a_remedy(mock: MockApi, node: Node) -> None:
    mock["get", NODE] << status(503, "etcd is gone")
    with pytest.raises(TemporaryError) as caught:
        node.get()
    assert caught.value.exit_status == 1
    assert re.fullmatch(r"503: etcd is gone \(attempt \d+, after \d s\)", caught.value.found)
    assert "/readyz" in caught.value.remedy


def test_retry_after_is_honoured(mock: MockApi, node: Node) -> None:
    mock["get", NODE][:1] << 429 << {"Retry-After": "0.3"} << b"slow down"
    start = time.monotonic()
    node.get()
    assert 0.3 <= time.monotonic() - start < 1


def test_a_retry_after_beyond_our_patience_is_not_waited_for(mock: MockApi, node: Node) -> None:
    mock["get", NODE] << 429 << {"Retry-After": "3600"} << b"come back later"
    with pytest.raises(TemporaryError, match="429: come back later"):
        node.get()
    assert len(mock.asked) == 1


def test_an_answer_cut_in_mid_body_is_asked_for_again(mock: MockApi, node: Node) -> None:
    mock["get", NODE][:1] << (b'{"kind": "Node", "metadata"', mock_api.cut)
    with structlog.testing.capture_logs() as logs:
        assert node.get().name == NAME
    assert attempts(logs) == [1]


def test_a_patch_whose_answer_was_cut_is_not_sent_twice_over_itself(mock: MockApi, node: Node) -> None:
    def applied_then_cut(request: kmock.Request) -> Any:
        mock.change({"metadata": {"labels": {"crio-runtime": "installing"}}})
        mock_api.cut(request)
        return b""

    mock["patch", NODE][:1] << applied_then_cut
    node.report({"crio-runtime": "installing"}, cordon=True)
    # the second attempt meets a newer version, reads it, and cordons only
    assert [line.split()[0] for line in mock.asked] == ["GET", "PATCH", "PATCH", "GET", "PATCH"]
    assert mock.last.data["metadata"].keys() == {"annotations", "resourceVersion"}
    assert mock.node["spec"]["unschedulable"] is True


def test_nobody_listening_is_a_temporary_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with a_node(tmp_path, f"http://127.0.0.1:{port}") as node, pytest.raises(TemporaryError, match="refused"):
        node.get()


def test_a_name_that_does_not_resolve_is_temporary() -> None:
    # made by hand: a query to a name server may take long, or leave the machine
    cause = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    error = NameResolutionError("api.example", HTTPConnection("api.example"), cause)
    found = unreachable(Call("get", "nodes", NODE, "Node"), "https://api.example", error)
    assert isinstance(found, Again)
    assert isinstance(found.error, TemporaryError)
    assert "Temporary failure in name resolution" in found.error.found


def test_a_server_that_never_answers_is_a_temporary_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with a_node(tmp_path, url) as node, pytest.raises(TemporaryError, match="timed out"):
            node.get()


@pytest.mark.parametrize(
    ("code", "body"),
    [
        (200, b"<html>Sign in to this network</html>"),
        (200, b'{"kind": "Status", "status": "Success"}'),
        (200, b"[]"),
        (200, b'{"kind": "Node", "metadata"'),
        (200, b""),
        (404, b"default backend - 404"),
        (302, b""),
    ],
)
def test_whatever_else_answers_is_an_api_out_of_reach(mock: MockApi, node: Node, code: int, body: bytes) -> None:
    mock["get", NODE] << code << body
    with pytest.raises(TemporaryError, match="does not serve us"):
        node.get()


def test_a_denial_is_believed_after_a_few_times_and_names_verb_resource_and_manifest(mock: MockApi, node: Node) -> None:
    mock["get", NODE] << status(403, FORBIDDEN)
    with pytest.raises(PermanentError) as caught:
        node.get()
    assert len(mock.asked) == QUICK.denied
    assert caught.value.what.endswith("get nodes")
    assert FORBIDDEN in caught.value.found
    assert "allow get on nodes" in caught.value.remedy
    assert "k8s-manifests/rbac/" in caught.value.remedy


def test_an_unknown_account_is_permanent_after_a_few_times(mock: MockApi, node: Node) -> None:
    mock["get", NODE] << status(401, "Unauthorized")
    with pytest.raises(PermanentError, match="does not know us: get nodes"):
        node.get()
    assert len(mock.asked) == QUICK.denied


def test_a_denial_while_the_api_starts_passes(mock: MockApi, node: Node) -> None:
    for first, code in enumerate((503, 403, 503, 403, 403)):
        mock["get", NODE][first : first + 1] << status(code)
    assert node.get().name == NAME


def test_an_unknown_node_is_permanent_and_names_the_setting(mock: MockApi, node: Node) -> None:
    mock["get", NODE] << status(404, 'nodes "worker-1" not found')
    with pytest.raises(PermanentError) as caught:
        node.get()
    assert caught.value.where == "NODE_NAME=worker-1"
    assert len(mock.asked) == 1


def test_a_refused_patch_is_permanent_and_says_why(mock: MockApi, node: Node) -> None:
    mock["patch", NODE] << status(422, 'metadata.labels: Invalid value: "a b"')
    with pytest.raises(PermanentError, match="Invalid value") as caught:
        node.report({"crio-runtime": "a b"})
    assert "patch nodes" in caught.value.what


def test_the_token_is_never_told(mock: MockApi, node: Node) -> None:
    mock["get", NODE] << status(401, "Unauthorized")
    mock["post", EVENTS] << status(403, "no Events")
    with structlog.testing.capture_logs() as logs, pytest.raises(DeployError) as caught:
        node.event("Installing", "x")
        node.get()
    assert mock.last.headers["Authorization"] == f"Bearer {TOKEN}"
    assert TOKEN not in f"{logs} {caught.value} {caught.value.to_dict()} {caught.value.__cause__!r}"


def test_no_way_to_the_api_is_a_wrong_setting() -> None:
    with pytest.raises(SettingsError, match="KUBECONFIG"):
        connect({})


@pytest.mark.parametrize("content", [None, "", "{", "kind: Config\n", "[1, 2]"])
def test_a_bad_kubeconfig_is_a_wrong_setting(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "kubeconfig"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingsError) as caught:
        connect({"KUBECONFIG": str(file)})
    assert caught.value.where == str(file)


def test_a_server_without_a_scheme_is_a_wrong_setting(tmp_path: Path) -> None:
    with a_node(tmp_path, "ftp://127.0.0.1") as node, pytest.raises(SettingsError, match="not a URL"):
        node.get()


def test_only_a_kubeconfig_costs_the_kubernetes_package() -> None:
    program = "import sys, installer.cluster.%s; print(*sorted({'kubernetes', 'urllib3', 'tenacity'} & {*sys.modules}))"
    loaded = {}
    for module in ("names", "taints", "view", "patches", "node"):
        done = subprocess.run([sys.executable, "-c", program % module], check=True, capture_output=True, text=True)
        loaded[module] = done.stdout.split()
    assert loaded.pop("node") == ["tenacity", "urllib3"]
    assert not any(loaded.values())


class TestInThePod:
    """The service account's way, over TLS."""

    @pytest.fixture
    def account(self, tmp_path: Path) -> Path:
        certificate(tmp_path / "tls.key", tmp_path / "ca.crt")
        (tmp_path / "token").write_text("first\n")
        return tmp_path

    @pytest.fixture
    def mock(self, account: Path) -> Iterator[MockApi]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(account / "ca.crt", account / "tls.key")
        with mock_api.serving(context) as made:
            yield made

    def connection(self, mock: MockApi, account: Path) -> Connection:
        host, port = mock.servers[0].host, mock.servers[0].port
        return connect({"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": str(port)}, account)

    def test_a_rotated_token_is_used_at_once(self, mock: MockApi, account: Path) -> None:
        def only_the_second(request: kmock.Request) -> Any:
            if request.headers["Authorization"] == "Bearer second":
                return mock.node
            (account / "token").write_text("second")
            raise status(401, "Unauthorized")

        mock["get", NODE] << only_the_second
        with Node(NAME, patience=QUICK, connection=self.connection(mock, account)) as node:
            assert node.get().name == NAME
        assert [request.headers["Authorization"] for request in mock] == ["Bearer first", "Bearer second"]

    def test_a_foreign_certificate_is_permanent(self, mock: MockApi, account: Path) -> None:
        certificate(account / "other.key", account / "ca.crt")
        node = Node(NAME, patience=QUICK, connection=self.connection(mock, account))
        with node, pytest.raises(PermanentError, match="certificate is not trusted"):
            node.get()
        assert mock.asked == []

    def test_a_token_that_is_gone_is_temporary(self, mock: MockApi, account: Path) -> None:
        with Node(NAME, patience=QUICK, connection=self.connection(mock, account)) as node:
            (account / "token").unlink()
            with pytest.raises(TemporaryError, match="token can't be read"):
                node.get()

    def test_a_pod_without_an_account_is_a_wrong_setting(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="automountServiceAccountToken"):
            connect({"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}, tmp_path / "none")

    def test_an_ipv6_service_is_reached(self, account: Path) -> None:
        environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
        assert connect(environ, account).url == "https://[fd00::1]:443"


def certificate(key: Path, file: Path) -> None:
    """A certificate for 127.0.0.1 that signs itself."""
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    about = ["-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(file)]
    subprocess.run([*new, *about, *files], check=True, capture_output=True)
