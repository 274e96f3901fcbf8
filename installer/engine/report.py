"""What the cluster is told: claim, failure, success, absence. Without a NODE_NAME, nobody is told."""

from typing import TYPE_CHECKING

from installer import log
from installer.cluster import names, taints, view
from installer.cluster.names import State
from installer.errors import DeployError
from installer.settings import Settings

if TYPE_CHECKING:
    from installer.cluster.node import Node
    from installer.cluster.view import NodeView

_NODE_SECONDS = 300
CRI_SOCKET = "kubeadm.alpha.kubernetes.io/cri-socket"


class Reporter:
    """The node's labels, taint, condition and Events for one profile."""

    def __init__(self, settings: Settings, profile: str) -> None:
        self._profile = profile
        self._taint = taints.parse(settings.sysbox_taint) if settings.sysbox_taint and profile == "sysbox" else None
        self._node: Node | None = None
        if settings.node_name:
            # 10 MiB that a run on the host alone does without.
            from installer.cluster import api, node

            self._node = node.Node(settings.node_name, patience=api.Patience(total=settings.kubernetes_timeout))

    @property
    def node(self) -> "Node | None":
        """The node's object; None where we work on the host alone."""
        return self._node

    @property
    def requests(self) -> int:
        """How many API requests were sent."""
        return self._node.requests if self._node else 0

    def look(self) -> "NodeView | None":
        """The node now; None where we work on the host alone."""
        return self._node.get() if self._node else None

    def installing(self, others: set[str], message: str, *, moves: bool) -> None:
        """The claim, before the first change; the node is cordoned in the same breath where its pods will restart."""
        labels, cordon = self._labels(others, State.INSTALLING), True if moves else None
        self._tell(labels, "False", "Installing", message, taint=True, cordon=cordon, is_known=True)

    def running(self, others: set[str], message: str, endpoint: str) -> None:
        """The advertisement, after the proof."""
        labels = self._labels(others, State.RUNNING)
        self._tell(labels, "True", "Running", message, taint=False, cordon=False, endpoint=endpoint)

    def removing(self, others: set[str], message: str, *, moves: bool) -> None:
        """The label goes off running first; the node is cordoned as for an install."""
        labels, cordon = self._labels(others, State.REMOVING), True if moves else None
        self._tell(labels, "False", "Removing", message, cordon=cordon)

    def socket(self, endpoint: str | None) -> None:
        """kubeadm's annotation names the runtime; it goes where `endpoint` is empty, and stays where it is None."""
        if self._node and endpoint is not None:
            self._node.report({}, annotations=_socket(endpoint))

    def gone(self, others: set[str]) -> None:
        """The labels leave last of all."""
        if self._node is None:
            return
        if not others:
            self._node.clear_condition()
        left = f"what profile {', '.join(sorted(others))} needs stays" if others else "the node is as it was before"
        self._node.event("SysboxDeployRemoved", f"profile {self._profile}: {left}")
        labels = dict.fromkeys(self._labels(others, State.REMOVING))
        self._node.report(labels, remove_taint=self._taint, cordon=False)

    def failed(self, others: set[str], error: DeployError) -> None:
        """The failure and its remedy; if the API is what fails, the log has it already."""
        if self._node is None:
            return
        try:
            message = " ".join(part for part in (error.what, error.found, error.remedy) if part)
            self._tell(
                self._labels(others, State.FAILED),
                "False",
                type(error).__name__,
                message,
                cordon=False,  # whatever failed, the node serves as it is
                severity="Warning",
            )
        except DeployError as unreachable:
            log.get().warning("the failure could not be reported to the cluster", cause=unreachable.what)

    def wait_until_serving(self, runtime: str, handler: str = "") -> None:
        """Waits until the node is Ready under a runtime, and lists the handler where it lists any."""
        if self._node:
            self._node.wait_until(view.serving(runtime, handler), timeout=_NODE_SECONDS)

    def _labels(self, others: set[str], state: State) -> dict[str, str | None]:
        """Sysbox brings CRI-O along; its label is ours to set unless profile crio has it."""
        profiles = {self._profile} | ({"crio"} if self._profile == "sysbox" and "crio" not in others else set())
        if self._profile == "crio" and "sysbox" in others and state in (State.REMOVING,):
            return {}  # CRI-O stays, for Sysbox
        return {names.RUNTIME_LABELS[profile]: str(state) for profile in sorted(profiles)}

    def _tell(
        self,
        labels: dict[str, str | None],
        status: str,
        reason: str,
        message: str,
        *,
        taint: bool | None = None,
        cordon: bool | None = None,
        endpoint: str | None = None,
        severity: str = "Normal",
        is_known: bool = False,
    ) -> None:
        """`is_known`: where the node has these labels already, an earlier pod of ours has said the rest."""
        if self._node is None:
            return
        before = self._node.requests
        self._node.report(
            labels,
            annotations=_socket(endpoint),
            add_taint=self._taint if taint else None,
            remove_taint=self._taint if taint is False else None,
            cordon=cordon,
        )
        if is_known and self._node.requests == before:
            return
        if self._profile == "sysbox":
            self._node.condition("True" if status == "True" else "False", reason, message[:1000])
        self._node.event(f"SysboxDeploy{reason}", message, "Warning" if severity == "Warning" else "Normal")


def _socket(endpoint: str | None) -> dict[str, str | None]:
    return {} if endpoint is None else {CRI_SOCKET: endpoint or None}
