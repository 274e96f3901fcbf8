"""The nodes' network: a namespace with a bridge, where the control plane lives too, and a relay out of it."""

import re
import socket
import subprocess
import sys
from pathlib import Path

from tests.node import process, relay, state

GATEWAY = "10.77.0.1"
_REPOSITORY = Path(__file__).parents[2]


def namespace() -> str:
    return state.tag()


def folder() -> Path:
    return state.run_dir() / "network"


def ip(*argv: str, check: bool = True) -> None:
    """iproute2's ip, on the machine."""
    done = subprocess.run(["ip", *argv], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"`ip {' '.join(argv)}` failed: {done.stderr.strip()}")


def address(index: int) -> str:
    return f"10.77.0.{10 + index}"


def pods(index: int) -> str:
    """The subnet of that node's pods."""
    return f"10.244.{index}.0/24"


def up(apt_hosts: set[str]) -> None:
    """Make it if it is not there. The caller holds the lock."""
    folder().mkdir(exist_ok=True)
    if not Path(f"/run/netns/{namespace()}").exists():
        ip("netns", "add", namespace())
        inside = ("-n", namespace())
        ip(*inside, "link", "set", "lo", "up")
        # else it would have its lowest port's, and nodes would lose their gateway for a minute when others come and go
        ip(*inside, "link", "add", "nodes", "address", "02:00:0a:4d:00:01", "type", "bridge")
        ip(*inside, "addr", "add", f"{GATEWAY}/24", "dev", "nodes")
        ip(*inside, "link", "set", "nodes", "up")
        # pods of one node reach those of another by way of the gateway
        execute("sysctl", "-qw", "net.ipv4.ip_forward=1")
    if process.find("relay", folder()):
        return
    _port_file().unlink(missing_ok=True)
    relayed = [
        sys.executable,
        "-m",
        "tests.node.relay",
        namespace(),
        GATEWAY,
        str(_port_file()),
        *sorted(apt_hosts),
    ]
    process.start("relay", ["env", "-C", str(_REPOSITORY), *relayed], folder())
    if not state.poll(_port_file().exists, 20, every=0.02):
        raise TimeoutError(f"the relay does not listen; {process.tail(folder(), 'relay')}")


def down() -> None:
    """Unmake it. The caller holds the lock, and knows that nobody is left in it."""
    process.stop("relay", folder())
    ip("netns", "del", namespace(), check=False)


def execute(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the machine inside the network."""
    return subprocess.run(
        ["ip", "netns", "exec", namespace(), *argv],
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )


def listen(port: int = 0) -> socket.socket:
    """A listening socket of ours that nodes reach at GATEWAY:port, to serve them a repository or the like."""
    made = relay.socket_in(namespace())
    made.bind((GATEWAY, port))
    made.listen()
    return made


def api_port() -> int:
    """The port on 127.0.0.1 that leads to the API server."""
    return int(_port_file().read_text())


def _port_file() -> Path:
    return folder() / "api-port"


def attach(index: int, node_namespace: str) -> None:
    """A fresh namespace for the node, wired to the bridge. At boot, a machine's network is empty too."""
    detach(index, node_namespace)
    ip("netns", "add", node_namespace)
    there = ("-n", node_namespace)
    ip(
        "-n",
        namespace(),
        "link",
        "add",
        f"v{index}",
        "type",
        "veth",
        "peer",
        "name",
        "eth0",
        "netns",
        node_namespace,
    )
    ip("-n", namespace(), "link", "set", f"v{index}", "master", "nodes", "up")
    ip(*there, "link", "set", "lo", "up")
    ip(*there, "addr", "add", f"{address(index)}/24", "dev", "eth0")
    ip(*there, "link", "set", "eth0", "up")
    ip(*there, "route", "add", "default", "via", GATEWAY)
    ip("-n", namespace(), "route", "replace", pods(index), "via", address(index))


def detach(index: int, node_namespace: str) -> None:
    ip("-n", namespace(), "link", "del", f"v{index}", check=False)
    ip("netns", "del", node_namespace, check=False)


def service_address_to_api(node_namespace: str) -> None:
    """Stands for kube-proxy: the one service that every cluster has."""
    for chain in ("OUTPUT", "PREROUTING"):
        rule = [
            "-d",
            "10.96.0.1",
            "-p",
            "tcp",
            "--dport",
            "443",
            "-j",
            "DNAT",
            "--to-destination",
            f"{GATEWAY}:6443",
        ]
        argv = ["ip", "netns", "exec", node_namespace, "iptables", "-w", "-t", "nat", "-A", chain, *rule]
        subprocess.run(argv, capture_output=True, text=True, check=True)


def hosts_in(sources: str) -> set[str]:
    """The hosts that apt source lists name."""
    return set(re.findall(r"http://([^/\s]+)", sources))
