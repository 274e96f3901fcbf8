"""The way to the Kubernetes API: a pod's service account, or a person's KUBECONFIG."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import urllib3

from installer.errors import SettingsError, TemporaryError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True)
class Connection:
    """An API server's URL, the sockets to it, and what to say in the Authorization header of a request."""

    url: str
    pool: urllib3.PoolManager
    authorization: Callable[[], str | None]
    account: str
    """whose credentials these are, for people"""
    authority: str = ""
    """the file of the certificate authority that the server's own is checked by"""


def connect(environ: Mapping[str, str] = os.environ, account: Path = SERVICE_ACCOUNT) -> Connection:
    """By KUBECONFIG if set, else as a pod does. Sends nothing. Raises SettingsError where there is no way."""
    if path := environ.get("KUBECONFIG"):
        return _by_kubeconfig(path)
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise SettingsError(
            "NODE_NAME is set, but nothing says where the Kubernetes API is",
            where="KUBERNETES_SERVICE_HOST, KUBECONFIG",
            found="neither",
            remedy="run in a pod, or set KUBECONFIG; without NODE_NAME only the host is worked on",
        )
    return _in_cluster(f"https://{f'[{host}]' if ':' in host else host}:{port}", account)


def _in_cluster(url: str, account: Path) -> Connection:
    ca, token = account / "ca.crt", account / "token"
    if missing := [str(file) for file in (ca, token) if not file.is_file()]:
        raise SettingsError(
            "the pod has no service account to talk to the Kubernetes API with",
            where=", ".join(missing),
            found="no such file",
            remedy="let the pod mount it: serviceAccountName, and no automountServiceAccountToken: false",
        )
    pool = urllib3.PoolManager(ca_certs=str(ca), cert_reqs="CERT_REQUIRED")
    return Connection(url, pool, lambda: _bearer(token), f"the service account in {account}", str(ca))


def as_node(connection: Connection, certificate: Path) -> Connection:
    """The same API server, seen by a client certificate alone. `certificate` holds its key too."""
    pool = urllib3.PoolManager(
        ca_certs=connection.authority or None, cert_reqs="CERT_REQUIRED", cert_file=str(certificate)
    )
    return Connection(connection.url, pool, lambda: None, f"the certificate {certificate}", connection.authority)


def _bearer(file: Path) -> str:
    # Read for every request: the kubelet renews the token in place, and revokes the old one.
    try:
        return "Bearer " + file.read_text().strip()
    except OSError as error:
        raise TemporaryError(
            "the service account's token can't be read",
            where=str(file),
            found=str(error),
            remedy="is the service account still there? kubectl apply -f k8s-manifests/rbac/",
        ) from error


def _by_kubeconfig(path: str) -> Connection:
    # Imported for a person only: it costs 16 MiB and 0.1 s of CPU, which a pod on every node need not pay.
    import yaml
    from kubernetes import client, config
    from kubernetes.client.rest import RESTClientObject

    configuration = client.Configuration()
    try:
        config.load_kube_config(config_file=path, client_configuration=configuration)  # type: ignore[no-untyped-call]
        pool = RESTClientObject(configuration).pool_manager
    except (config.ConfigException, yaml.YAMLError, OSError, ValueError, TypeError, LookupError) as error:
        raise SettingsError(
            "KUBECONFIG can't be used",
            where=path,
            found=str(error),
            remedy=f"see that this works: KUBECONFIG={path} kubectl get nodes",
        ) from error

    def authorization() -> str | None:
        try:  # it may have to ask a login plugin for a new token
            setting = configuration.auth_settings().get("BearerToken")
        except config.ConfigException as error:
            raise TemporaryError("KUBECONFIG gives no token", where=path, found=str(error)) from error
        return setting["value"] if setting else None

    authority = configuration.ssl_ca_cert or ""
    return Connection(configuration.host, pool, authorization, f"KUBECONFIG {path}", authority)
