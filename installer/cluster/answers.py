"""What a bad answer of the Kubernetes API means, or none at all: try again, or give up and say why."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from urllib3.exceptions import HTTPError, LocationValueError

from installer.errors import DeployError, PermanentError, SettingsError, TemporaryError

MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
_URL = "write it into KUBECONFIG as https://host:port"


@dataclass(frozen=True)
class Call:
    """A request: `verb` and `resource` as RBAC names them, `kind` what must come back."""

    verb: str
    resource: str
    path: str
    kind: str
    body: Mapping[str, Any] | None = None
    media: str = "application/json"

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}"


@dataclass(frozen=True)
class Answer:
    """What came back instead of what was asked for.

    `said` is its message; `kubernetes` says whether a Kubernetes API wrote it; `pause` is how long in seconds
    it asks us to wait.
    """

    status: int
    said: str
    kubernetes: bool
    pause: float = 0


class Again(Exception):
    """An attempt failed, and another may not. `error` is what to raise when patience ends.

    `status` is the HTTP status, 0 without one; `pause` in seconds is the least to wait.
    """

    def __init__(self, error: DeployError, *, status: int = 0, pause: float = 0) -> None:
        super().__init__(error.what)
        self.error = error
        self.status = status
        self.pause = pause


class NotThereError(PermanentError):
    """What the call is about is not, or no more, there."""


def refused(call: Call, url: str, account: str, answer: Answer) -> Again | PermanentError:
    """The failure that an answer stands for. `account` says for people whose credentials were sent."""
    status, found = answer.status, f"{answer.status}: {answer.said}"
    if status in (401, 403):
        return Again(_denied(call, url, account, status, found), status=status)
    if status == 409:
        return Again(_changed(call, url, found), status=status)
    if status == 429 or status >= 500:
        return Again(_down(call, url, found), status=status, pause=answer.pause)
    if not answer.kubernetes:
        return Again(_down(call, url, f"{found} (which no Kubernetes API says)"), status=status)
    if status == 404 and call.resource.startswith("nodes"):
        return _no_node(call, found)
    if status == 404:
        return NotThereError(f"the Kubernetes API has no such object: {call}", where=url, found=found)
    return PermanentError(f"the Kubernetes API refused: {call}", where=url, found=found)


def unreachable(call: Call, url: str, error: HTTPError) -> Again | PermanentError | SettingsError:
    """The failure that no answer, or half of one, stands for."""
    if isinstance(error, LocationValueError):
        return SettingsError("the API server's address is not a URL", where=url, found=str(error), remedy=_URL)
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in error.args):
        return PermanentError(
            "the API server's certificate is not trusted",
            where=url,
            found=str(error),
            remedy="compare the clocks (date -u), and the authority that the pod or KUBECONFIG trusts",
        )
    return Again(_down(call, url, str(error)))


def _down(call: Call, url: str, found: str) -> TemporaryError:
    return TemporaryError(
        f"the Kubernetes API does not serve us: {call}",
        where=url,
        found=found,
        remedy="see from this node that it is up: kubectl get --raw /readyz ; the next start tries again",
    )


def _changed(call: Call, url: str, found: str) -> TemporaryError:
    return TemporaryError(
        f"somebody else changed it while we wrote: {call}",
        where=url,
        found=found,
        remedy="see who does: kubectl get nodes -o yaml --show-managed-fields ; the next start tries again",
    )


def _denied(call: Call, url: str, account: str, status: int, found: str) -> PermanentError:
    grant = f"allow {call.verb} on {call.resource}: kubectl apply -f k8s-manifests/rbac/"
    known = "see that the account still exists, and that its token or certificate has not expired"
    return PermanentError(
        f"the Kubernetes API {'does not know us' if status == 401 else 'does not let us'}: {call}",
        where=f"{url} as {account}",
        found=found,
        remedy=known if status == 401 else grant,
    )


def _no_node(call: Call, found: str) -> PermanentError:
    return PermanentError(
        "the cluster has no node of the name in NODE_NAME",
        where=f"NODE_NAME={call.path.split('/')[4]}",
        found=found,
        remedy="take the name that `kubectl get nodes` shows (in a pod: fieldRef spec.nodeName)",
    )
