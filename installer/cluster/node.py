"""Our node in the cluster: what it is, and what we report about it, in as few requests as that takes."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote

from installer import log
from installer.cluster import names, patches, view
from installer.cluster.answers import MERGE_PATCH, STRATEGIC_PATCH, Again, Call, NotThereError
from installer.cluster.api import Api, Patience
from installer.cluster.connect import Connection, connect
from installer.cluster.taints import Taint
from installer.cluster.view import NodeView, Pod
from installer.errors import DeployError, TemporaryError

_EVENT_SECONDS = 10
_POLL_GROWS = 1.5
_POLL_AT_MOST_SECONDS = 15
_MESSAGE_CHARACTERS = 1024
_PATIENCE = Patience()
_NO_CHANGE: Mapping[str, str | None] = {}


class Node:
    """The node `name`, by `connection` (by default as the environment says) and with `patience`.

    Every method may raise TemporaryError (the API could not be reached within the patience's total) and
    PermanentError (no such node, no permission). What the last answer showed is remembered, so that a report
    of nothing new sends nothing.
    """

    def __init__(self, name: str, *, patience: Patience = _PATIENCE, connection: Connection | None = None) -> None:
        self.name = name
        self._patience = patience
        self.connection = connection or connect()
        self._api = Api(self.connection, self._patience)
        self._path = f"/api/v1/nodes/{quote(name, safe='')}"
        self._seen: NodeView | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._api.close()

    @property
    def requests(self) -> int:
        """How many requests were sent so far, repeated attempts included."""
        return self._api.requests

    def get(self) -> NodeView:
        """The node as it is now. One request."""
        return self._api.persist(self._get)

    def report(
        self,
        labels: Mapping[str, str | None] = _NO_CHANGE,
        *,
        annotations: Mapping[str, str | None] = _NO_CHANGE,
        add_taint: Taint | None = None,
        remove_taint: Taint | None = None,
        cordon: bool | None = None,
    ) -> NodeView:
        """Makes the node say so, in one PATCH, or in no request where it says so already.

        None as a value removes a label or annotation. `cordon` False lifts our own cordon only. Raises
        RefusedError where another's taint has the key and effect of `add_taint`.
        """
        return self._patch(
            lambda seen: patches.of_node(
                seen,
                labels=labels,
                annotations=annotations,
                add_taint=add_taint,
                remove_taint=remove_taint,
                cordon=cordon,
            ),
            Call("patch", "nodes", self._path, "Node", media=MERGE_PATCH),
        )

    def condition(self, status: Literal["True", "False", "Unknown"], reason: str, message: str) -> NodeView:
        """Sets the condition SysboxReady. `reason` is one CamelCase word, `message` a sentence for people."""
        return self._patch(
            lambda seen: patches.of_condition(seen, status, reason, message, _now()), self._status_patch()
        )

    def clear_condition(self) -> NodeView:
        """Takes the condition SysboxReady away."""
        return self._patch(patches.of_no_condition, self._status_patch())

    def event(self, reason: str, message: str, severity: Literal["Normal", "Warning"] = "Normal") -> None:
        """Adds an Event to the node, for `kubectl describe node`. One that can't be sent is only logged."""
        body = self._event(reason, message[:_MESSAGE_CHARACTERS], severity)
        call = Call("create", "events", "/api/v1/namespaces/default/events", "Event", body)

        def attempt() -> None:
            try:
                self._api.once(call)
            except Again as again:
                if again.status != 409:  # its name is taken: an earlier attempt arrived, its answer did not
                    raise

        seconds = min(_EVENT_SECONDS, self._patience.total)
        try:
            self._api.persist(attempt, dataclasses.replace(self._patience, total=seconds))
        except DeployError as error:
            log.get().warning(f"an Event was lost: {reason}: {message}", cause=error.what, found=error.found)

    def pods(self) -> list[Pod]:
        """The pods that the cluster has on this node, finished ones included. One request."""
        path = f"/api/v1/pods?fieldSelector={quote(f'spec.nodeName={self.name}', safe='')}"
        content = self._api.persist(lambda: self._api.once(Call("list", "pods", path, "PodList"), view.slim))
        return [view.pod(item) for item in content["items"]]

    def evict(self, pod: Pod, *, pretend: bool = False) -> str:
        """Has the API end a pod, or only say whether it would; returns what holds it back, "" where nothing does."""
        body = {
            "apiVersion": "policy/v1" if self._speaks_policy_v1() else "policy/v1beta1",
            "kind": "Eviction",
            "metadata": {"namespace": pod.namespace, "name": pod.name},
            "deleteOptions": {"preconditions": {"uid": pod.uid}, **({"dryRun": ["All"]} if pretend else {})},
        }
        path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}/eviction"
        call = Call("create", "pods/eviction", path, "Status", body)

        def attempt() -> str:
            try:
                self._api.once(call)
            except Again as again:
                # 409 where another pod has its name by now, 429 by a disruption budget, 500 by two of them
                if again.status not in (409, 429, 500):
                    raise
                return again.error.found
            except NotThereError:
                return ""
            return ""

        return self._api.persist(attempt)

    def wait_until(self, missing: Callable[[NodeView], str], *, timeout: float, interval: float = 2.0) -> NodeView:
        """Looks at the node, after pauses that grow from `interval`, until `missing` says "" (see `serving`).

        Times are in seconds. Raises TemporaryError with what is still missing after `timeout`.
        """
        deadline = time.monotonic() + timeout
        said = ""
        while True:
            left = max(0.0, deadline - time.monotonic())
            patience = dataclasses.replace(self._patience, total=min(left, self._patience.total))
            seen = self._api.persist(self._get, patience)
            lacks = missing(seen)
            if not lacks:
                return seen
            if lacks != said:
                log.get().info(f"waiting for node {self.name}: {lacks}")
                said = lacks
            if time.monotonic() + interval > deadline:
                raise _late(self.name, timeout, lacks)
            time.sleep(interval)
            interval = min(interval * _POLL_GROWS, _POLL_AT_MOST_SECONDS)

    def _get(self) -> NodeView:
        self._seen = view.node(self._api.once(Call("get", "nodes", self._path, "Node")))
        return self._seen

    def _patch(self, needed: Callable[[NodeView], patches.Json], call: Call) -> NodeView:
        def attempt() -> NodeView:
            seen = self._seen or self._get()
            body = needed(seen)
            if not body:
                return seen
            try:
                self._seen = view.node(self._api.once(dataclasses.replace(call, body=body)))
            except Again as again:
                if again.status == 409:
                    self._seen = None  # someone wrote in between: read what is there, and think again
                raise
            return self._seen

        return self._api.persist(attempt)

    def _speaks_policy_v1(self) -> bool:
        """Since 1.22; the node may be a little older than its API, never newer."""
        minor = (self._seen.kubelet_version if self._seen else "").removeprefix("v").split(".")[1:2]
        return not minor or not minor[0].isdigit() or int(minor[0]) >= 22

    def _status_patch(self) -> Call:
        return Call("patch", "nodes/status", f"{self._path}/status", "Node", media=STRATEGIC_PATCH)

    def _event(self, reason: str, message: str, severity: str) -> dict[str, Any]:
        now = _now()
        return {
            "apiVersion": "v1",
            "kind": "Event",
            # A name of our own choice, so that a repeated attempt can't add a second one.
            "metadata": {"name": f"{self.name[:230]}.{time.time_ns():x}", "namespace": "default"},
            # `kubectl describe node` finds Events by either: the node's uid, or its name in the uid's place.
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Node",
                "name": self.name,
                "uid": self._seen.uid if self._seen else self.name,
            },
            "reason": reason,
            "message": message,
            "type": severity,
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": names.COMPONENT, "host": self.name},
            "reportingComponent": names.COMPONENT,
            "reportingInstance": self.name,
        }


def _late(name: str, seconds: float, lacks: str) -> TemporaryError:
    return TemporaryError(
        f"the node did not get there in {seconds:.0f} s",
        where=f"node {name}",
        found=lacks,
        remedy=f"kubectl describe node {name} ; on the node: journalctl -u kubelet -u crio",
    )


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
