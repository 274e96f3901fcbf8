"""Nodes and a cluster for people: `python -m tests.node up NAME`, `exec NAME CMD...`, `down NAME`, ..."""

import argparse
import os
import sys
import time

from tests import components
from tests.node import kubernetes_files, network, prepare, state, warden
from tests.node.control_plane import ControlPlane
from tests.node.node import Node


def _up(options: argparse.Namespace) -> None:
    prepare.machine()
    if not options.bare:
        ControlPlane().up(kept=True)
    started = time.monotonic()
    node = Node.create(options.name, kubernetes=not options.bare, layout=options.layout, minor=options.minor, kept=True)
    node.boot()
    booted = time.monotonic()
    if node.kubernetes:
        node.wait_ready()
    ready = f", Ready after {time.monotonic() - started:.1f} s" if node.kubernetes else ""
    print(f"node {node.name} {node.ip} pid {node.init_pid}: booted in {booted - started:.1f} s{ready}")


def _exec(options: argparse.Namespace) -> None:
    if not options.rest:
        raise SystemExit("exec: which node?")
    name, *command = options.rest
    argv = Node.find(name).enter(*(command or ["bash"]))
    os.execvp(argv[0], argv)


def _down(options: argparse.Namespace) -> None:
    Node.find(options.name).destroy()


def _boot(options: argparse.Namespace) -> None:
    node = Node.find(options.name)
    node.boot()
    if node.kubernetes:
        node.wait_ready()


def _halt(options: argparse.Namespace) -> None:
    node = Node.find(options.name)
    node.kill() if options.power_cut else node.poweroff()


def _cluster_up(_: argparse.Namespace) -> None:
    prepare.machine()
    started = time.monotonic()
    cluster = ControlPlane()
    cluster.up(kept=True)
    print(f"cluster up in {time.monotonic() - started:.1f} s; export KUBECONFIG={cluster.kubeconfig}")


def _cluster_down(_: argparse.Namespace) -> None:
    ControlPlane().down(kept=True)
    warden.reap()


def _list(_: argparse.Namespace) -> None:
    cluster = ControlPlane()
    api = f"127.0.0.1:{network.api_port()}, {cluster.kubeconfig}" if cluster.running else "down"
    print(f"cluster  {api}")
    for folder in warden.nodes():
        node = Node(folder)
        owned = "" if state.owned(folder) else "  (its owner is dead)"
        print(f"{node.name}  {node.ip}  {f'pid {node.init_pid}' if node.running else 'off'}{owned}")


def _reap(options: argparse.Namespace) -> None:
    for name in warden.reap(everything=options.all):
        print(f"reaped {name}")


def _kubectl(options: argparse.Namespace) -> None:
    os.environ["KUBECONFIG"] = str(ControlPlane().kubeconfig)
    program = str(components.path("kubectl"))
    os.execv(program, [program, *options.rest])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.node", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: object, help: str, *, node: bool = False) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help)
        made.set_defaults(function=function)
        if node:
            made.add_argument("name")
        return made

    up = command("up", _up, "make and boot a node (and the cluster, if there is none)", node=True)
    up.add_argument("--bare", action="store_true", help="the kubelet is not enabled, no cluster needed")
    up.add_argument("--layout", choices=kubernetes_files.LAYOUTS, default="kubeadm")
    up.add_argument("--minor", choices=[components.MINOR, components.OLDER_MINOR], default=components.MINOR)
    command("exec", _exec, "NAME [COMMAND ...]: run a command on the node")
    command("down", _down, "destroy the node", node=True)
    command("boot", _boot, "boot the node again", node=True)
    halt = command("halt", _halt, "power the node off; its disk stays", node=True)
    halt.add_argument("--power-cut", action="store_true")
    command("cluster-up", _cluster_up, "start the control plane")
    command("cluster-down", _cluster_down, "end it, unless tests use it")
    command("list", _list, "what there is")
    reap = command("reap", _reap, "destroy what belongs to dead processes")
    reap.add_argument("--all", action="store_true", help="destroy everything, whoever wants it")
    command("kubectl", _kubectl, "ARGUMENT ...: kubectl, as the cluster's administrator")
    return parser


def main() -> int:
    words = sys.argv[1:]
    # what follows these two is another program's to understand, its options too
    split = 1 if words[:1] in (["exec"], ["kubectl"]) else len(words)
    options = _parser().parse_args(words[:split])
    options.rest = words[split:]
    options.function(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
