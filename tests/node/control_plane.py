"""A real control plane: etcd, kube-apiserver, controller-manager, scheduler, in the nodes' network namespace.

One for all who want one: test workers share it, whoever leaves last takes it down.
"""

import json
import os
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests import components
from tests.node import debian, network, process, state, warden
from tests.node.pki import Pki

_SERVICES = "10.96.0.1"
_API = f"https://{network.GATEWAY}:6443"
_PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")


class ControlPlane:
    """The cluster without its nodes."""

    def __init__(self) -> None:
        self.folder = state.run_dir() / "cluster"
        self.pki = Pki(self.folder / "pki")

    @property
    def kubeconfig(self) -> Path:
        """The administrator's, for use on this machine."""
        return self.folder / "admin.kubeconfig"

    @property
    def server(self) -> str:
        """The API server's address as nodes and pods see it."""
        return _API

    @property
    def running(self) -> bool:
        return process.find("kube-scheduler", self.folder) is not None

    def up(self, kept: bool = False) -> None:
        """Start it, or join those who use it. Whoever calls this calls `down` when done, or is dead then."""
        programs = {name: str(components.path(name)) for name in _PROGRAMS[1:]}
        components.path("kubectl")
        warden.reap()
        with state.lock():
            network.up(debian.apt_hosts())
            state.claim(self.folder, kept)
            warden.watch()
            if not self.pki.folder.exists():
                self._certify()
            self._kubeconfig(self.kubeconfig, "admin", f"https://127.0.0.1:{network.api_port()}", 0o600)
            self._start(programs)
        self._wait_for_service_accounts()

    def down(self, kept: bool = False) -> None:
        """No longer wanted by this caller; it ends when nobody else wants it."""
        with state.lock():
            state.release(self.folder, kept)
            if not state.owned(self.folder):
                self.dismantle()

    def dismantle(self) -> None:
        """End it and forget it. The caller holds the lock."""
        for name in reversed(_PROGRAMS):
            # nothing of it is worth a grace: its disk goes too
            process.stop(name, self.folder, grace=0)
        shutil.rmtree(self.folder, ignore_errors=True)

    def kubectl(
        self, *argv: str, check: bool = True, input: str | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """kubectl as administrator."""
        done = subprocess.run(
            [str(components.path("kubectl")), *argv],
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
            stdin=subprocess.DEVNULL if input is None else None,
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise RuntimeError(f"`kubectl {' '.join(argv)}` failed ({done.returncode}): {done.stderr.strip()}")
        return done

    def get(self, *what: str) -> Any:
        """`kubectl get -o json`, parsed."""
        return json.loads(self.kubectl("get", "-o", "json", *what).stdout)

    def _certify(self) -> None:
        pki = self.pki
        temporary = Pki(pki.folder.with_name(".pki"))
        shutil.rmtree(temporary.folder, ignore_errors=True)
        temporary.create()
        dns = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ]
        names = [f"DNS:{name}" for name in (*dns, "localhost")]
        temporary.server("apiserver", "kube-apiserver", [*names, *(f"IP:{ip}" for ip in _ADDRESSES)])
        temporary.client("admin", "kubernetes-admin", "system:masters")
        temporary.client("apiserver-kubelet-client", "kube-apiserver-kubelet-client", "system:masters")
        for name in ("controller-manager", "scheduler"):
            temporary.client(name, f"system:kube-{name}", "test")
        temporary.folder.rename(pki.folder)

    def _kubeconfig(self, file: Path, user: str, server: str, mode: int) -> None:
        file.write_text(self.pki.kubeconfig(user, server))
        file.chmod(mode)

    def _start(self, programs: dict[str, str]) -> None:
        for user in ("controller-manager", "scheduler"):
            self._kubeconfig(self.folder / f"{user}.kubeconfig", user, _API, 0o600)
        arguments = {
            "etcd": ["etcd", *_etcd(self.folder)],
            "kube-apiserver": [programs["kube-apiserver"], *_apiserver(self.pki.folder)],
            "kube-controller-manager": [programs["kube-controller-manager"], *_controllers(self.folder)],
            "kube-scheduler": [programs["kube-scheduler"], *_scheduler(self.folder)],
        }
        for name, argv in arguments.items():
            if process.find(name, self.folder):
                continue
            process.start(name, ["ip", "netns", "exec", network.namespace(), "nice", "-n", "2", *argv], self.folder)
            if name == "kube-apiserver":
                # the others would only fail and try again later
                self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        def dead() -> bool:
            return process.find("kube-apiserver", self.folder) is None

        if not state.poll(lambda: self._ready() or dead(), 90) or dead():
            raise RuntimeError(f"kube-apiserver is not ready; {process.tail(self.folder, 'kube-apiserver')}")

    def _ready(self) -> bool:
        context = ssl.create_default_context(cafile=str(self.pki.folder / "ca.crt"))
        url = f"https://127.0.0.1:{network.api_port()}/readyz"
        try:
            with urllib.request.urlopen(url, context=context, timeout=5) as answer:
                return bool(answer.read() == b"ok")
        except (OSError, urllib.error.URLError):
            return False

    def _wait_for_service_accounts(self) -> None:
        """Pods can be created only once the controller-manager has made the default account."""

        def there() -> bool:
            return self.kubectl("get", "serviceaccount", "default", check=False).returncode == 0

        if not state.poll(there, 60):
            raise RuntimeError(f"no service accounts; {process.tail(self.folder, 'kube-controller-manager')}")


_ADDRESSES = ("127.0.0.1", network.GATEWAY, _SERVICES)


def _etcd(folder: Path) -> list[str]:
    client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
    urls = [
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
    ]
    # a lost cluster is a new cluster: no reason to wait for the disk
    return [f"--data-dir={folder}/etcd", *urls, "--unsafe-no-fsync", "--logger=zap"]


def _apiserver(pki: Path) -> list[str]:
    return [
        "--etcd-servers=http://127.0.0.1:2379",
        "--bind-address=0.0.0.0",
        "--secure-port=6443",
        f"--advertise-address={network.GATEWAY}",
        "--service-cluster-ip-range=10.96.0.0/12",
        "--allow-privileged=true",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--client-ca-file={pki}/ca.crt",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        f"--kubelet-client-certificate={pki}/apiserver-kubelet-client.crt",
        f"--kubelet-client-key={pki}/apiserver-kubelet-client.key",
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={pki}/sa.pub",
        f"--service-account-signing-key-file={pki}/sa.key",
    ]


def _as_client(kubeconfig: Path) -> list[str]:
    flags = ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")
    return [*(f"--{flag}={kubeconfig}" for flag in flags), "--bind-address=127.0.0.1", "--leader-elect=false"]


def _controllers(folder: Path) -> list[str]:
    pki = folder / "pki"
    return [
        *_as_client(folder / "controller-manager.kubeconfig"),
        f"--cluster-signing-cert-file={pki}/ca.crt",
        f"--cluster-signing-key-file={pki}/ca.key",
        f"--root-ca-file={pki}/ca.crt",
        f"--service-account-private-key-file={pki}/sa.key",
        "--use-service-account-credentials=true",
    ]


def _scheduler(folder: Path) -> list[str]:
    return _as_client(folder / "scheduler.kubeconfig")
