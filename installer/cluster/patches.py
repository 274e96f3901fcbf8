"""What to send so that a node becomes what is wanted: pure, and empty where it is so already."""

from collections.abc import Mapping
from typing import Any

from installer.cluster import names
from installer.cluster.taints import Taint
from installer.cluster.view import NodeView
from installer.errors import RefusedError

Json = dict[str, Any]


def of_node(
    view: NodeView,
    *,
    labels: Mapping[str, str | None],
    annotations: Mapping[str, str | None],
    add_taint: Taint | None,
    remove_taint: Taint | None,
    cordon: bool | None,
) -> Json:
    """The JSON merge patch of a Node; None as a label's or annotation's value removes it.

    `cordon` True cordons, unless somebody did before us; False lifts our cordon only. Raises RefusedError
    where a taint of another's stands in the way.
    """
    spec, notes = _cordoned(view, cordon)
    taints = _tainted(view, add_taint, remove_taint)
    if taints != list(view.taints):
        spec["taints"] = taints or None
    meta: Json = {}
    if changed := _changed(view.labels, labels):
        meta["labels"] = changed
    if changed := _changed(view.annotations, {**annotations, **notes}):
        meta["annotations"] = changed
    if spec:
        # Kubernetes replaces the list of taints as a whole, whatever the kind of patch: only the version that
        # we read may be written over, so that another's taint is never lost.
        meta["resourceVersion"] = view.version
    return {key: part for key, part in (("metadata", meta), ("spec", spec)) if part}


def of_condition(view: NodeView, status: str, reason: str, message: str, now: str) -> Json:
    """The strategic merge patch of a node's status, by condition type. `now` is RFC 3339 in UTC."""
    before = view.conditions.get(names.CONDITION)
    if before and (before.status, before.reason, before.message) == (status, reason, message):
        return {}
    content = {"type": names.CONDITION, "status": status, "reason": reason, "message": message}
    content["lastHeartbeatTime"] = now
    if not before or before.status != status:
        content["lastTransitionTime"] = now
    return {"status": {"conditions": [content]}}


def of_no_condition(view: NodeView) -> Json:
    """The strategic merge patch that takes our condition away."""
    if names.CONDITION not in view.conditions:
        return {}
    return {"status": {"conditions": [{"$patch": "delete", "type": names.CONDITION}]}}


def _changed(before: Mapping[str, str], wanted: Mapping[str, str | None]) -> dict[str, str | None]:
    return {key: value for key, value in wanted.items() if before.get(key) != value}


def _cordoned(view: NodeView, cordon: bool | None) -> tuple[Json, dict[str, str | None]]:
    ours = names.CORDONED in view.annotations
    if cordon and not view.unschedulable:
        return {"unschedulable": True}, {names.CORDONED: "true"}
    if cordon is False and ours:
        return {"unschedulable": None} if view.unschedulable else {}, {names.CORDONED: None}
    return {}, {}


def _tainted(view: NodeView, add: Taint | None, remove: Taint | None) -> list[Mapping[str, str]]:
    kept = [one for one in view.taints if not (remove and _read(one) == str(remove))]
    if not add or str(add) in map(_read, kept):
        return kept
    for one in kept:
        if (one["key"], one["effect"]) == (add.key, add.effect):
            raise RefusedError(
                f"another taint is where {add} would go: Kubernetes allows one value for a key and effect",
                where=f"node {view.name}",
                found=_read(one),
                remedy=f"set another SYSBOX_TAINT, or kubectl taint node {view.name} {add.key}:{add.effect}-",
            )
    return [*kept, {"key": add.key, "effect": str(add.effect), **({"value": add.value} if add.value else {})}]


def _read(taint: Mapping[str, str]) -> str:
    value = taint.get("value", "")
    return f"{taint['key']}={value}:{taint['effect']}" if value else f"{taint['key']}:{taint['effect']}"
