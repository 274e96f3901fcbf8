"""pytest fixtures: a cluster for the session, and nodes that are thrown away after the test."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.components import MINOR
from tests.node import node as nodes
from tests.node import prepare
from tests.node.control_plane import ControlPlane
from tests.node.node import Node


@pytest.fixture(scope="session")
def machine() -> None:
    """This machine has what nodes need."""
    prepare.machine()


@pytest.fixture(scope="session")
def cluster(machine: None) -> Iterator[ControlPlane]:
    """A control plane, shared by all workers of the session."""
    control_plane = ControlPlane()
    control_plane.up()
    yield control_plane
    control_plane.down()


@pytest.fixture
def new_node(machine: None, request: pytest.FixtureRequest) -> Iterator[Callable[..., Node]]:
    """Makes nodes, with the options of `Node.create`; booted, and Ready if they are Kubernetes nodes."""
    with ExitStack() as stack:

        def make(
            *, kubernetes: bool = True, layout: str = "kubeadm", minor: str = MINOR, kubelet_config: str = ""
        ) -> Node:
            if kubernetes:
                request.getfixturevalue("cluster")
            made = nodes.disposable(kubernetes=kubernetes, layout=layout, minor=minor, kubelet_config=kubelet_config)
            return stack.enter_context(made)

        yield make


@pytest.fixture
def node(cluster: ControlPlane, new_node: Callable[..., Node]) -> Node:
    """A fresh node of the cluster, Ready, its kubelet on containerd as kubeadm lays it."""
    return new_node()


@pytest.fixture
def bare_node(new_node: Callable[..., Node]) -> Node:
    """A Debian machine with containerd, the kubelet's files, and no kubelet running. Needs no cluster."""
    return new_node(kubernetes=False)
