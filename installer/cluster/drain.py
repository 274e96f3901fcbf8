"""The node's pods sent elsewhere before the move, by the API's eviction, which heeds disruption budgets."""

import re
import time
from collections.abc import Sequence
from pathlib import Path

from installer import log
from installer.cluster.node import Node
from installer.cluster.view import Pod
from installer.errors import TemporaryError

_PAUSE_SECONDS = 2.0
_OURS = re.compile(r"/pods/([0-9a-f-]{36})/")


def own_uid(mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The uid of the pod that we are, by what the kubelet mounts into every container; empty where we are none."""
    found = _OURS.search(mounts.read_text())
    return found[1] if found else ""


def movable(pods: Sequence[Pod], ours: str) -> list[Pod]:
    """Those that another node would take over. DaemonSets' and static pods belong to this node, and nobody would make
    a bare pod again."""
    stay = ("", "DaemonSet", "Node")
    return [p for p in pods if not (p.finished or p.static or p.owner in stay or (ours and p.uid == ours))]


def drain(node: Node, pods: Sequence[Pod], *, timeout: float, carry_on: bool, pause: float = _PAUSE_SECONDS) -> None:
    """Evicts these pods and waits until they are gone. What a disruption budget holds back is asked for again until
    `timeout` seconds have passed; then they stay if `carry_on` is set, else it raises TemporaryError."""
    deadline = time.monotonic() + timeout
    left = {pod.uid: pod for pod in pods}
    asked: set[str] = set()
    why: dict[str, str] = {}
    while left:
        for uid, pod in left.items():
            if uid not in asked:
                _ask(node, pod, asked, why)
        there = {pod.uid for pod in node.pods() if not pod.finished}
        left = {uid: pod for uid, pod in left.items() if uid in there}
        if left and time.monotonic() + pause > deadline:
            _give_up(node, left, why, timeout, carry_on)
            return
        if left:
            time.sleep(pause)
    log.get().info(f"{len(pods)} pods went to other nodes")


def _ask(node: Node, pod: Pod, asked: set[str], why: dict[str, str]) -> None:
    refusal = node.evict(pod)
    if not refusal:
        asked.add(pod.uid)
    elif refusal != why.get(pod.uid):
        log.get().info(f"pod {pod.namespace}/{pod.name} may not go yet: {refusal}")
    why[pod.uid] = refusal


def _give_up(node: Node, left: dict[str, Pod], why: dict[str, str], timeout: float, carry_on: bool) -> None:
    told = "; ".join(f"{p.namespace}/{p.name}: {why.get(uid) or 'it does not end'}" for uid, p in left.items())
    if not carry_on:
        raise TemporaryError(
            f"{len(left)} pods did not leave the node in {timeout:.0f} s",
            where=f"node {node.name}",
            found=told,
            remedy="see their disruption budgets: kubectl get pdb -A ; or set SYSBOX_DEPLOY_DRAIN_DEADLINE=continue",
        )
    log.get().warning(f"{len(left)} pods did not leave the node in {timeout:.0f} s, and restart with it", found=told)
