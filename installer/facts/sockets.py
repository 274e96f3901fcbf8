"""Who is connected to a unix socket, by what `ss` shows of both ends; best effort, and of this moment only."""

import re
from dataclasses import dataclass

from installer.host import Host

_USER = re.compile(r'\("([^"]+)",pid=(\d+)')
_OWN = re.compile(r"kubelet|containerd|containerd-shim.*|crio|conmon.*|crictl|ctr")


@dataclass(frozen=True)
class _End:
    path: str
    inode: str
    peer: str
    users: tuple[str, ...]


def clients(host: Host, path: str) -> tuple[str, ...]:
    """Processes other than the kubelet and the runtimes' own that hold a connection to the socket."""
    return parse(host.run("ss", "-xpnH", check=False).out, path)


def parse(text: str, path: str) -> tuple[str, ...]:
    """The same from the output of `ss -xpnH`, as `dockerd (pid 12)`. A socket may be bound by /run or /var/run, and
    has a neighbour for ttrpc."""
    ends = [end for line in text.splitlines() if (end := _end(line))]
    wanted = {one for name in (path, path.replace("/var/run/", "/run/", 1)) for one in (name, f"{name}.ttrpc")}
    served = {end.peer for end in ends if end.path.replace("/var/run/", "/run/", 1) in wanted}
    users = [user for end in ends if end.inode in served for user in end.users]
    return tuple(dict.fromkeys(user for user in users if not _OWN.fullmatch(user.split(" (")[0])))


def _end(line: str) -> _End | None:
    """Kind, state, two queues, local path and inode, peer's path and inode, users. A path may hold blanks."""
    head, _, users = line.partition("users:(")
    found = re.fullmatch(r"\S+\s+\S+\s+\d+\s+\d+\s+(.+?)\s+(\d+)\s+\S+\s+(\d+)\s*", head)
    if found is None:
        return None
    names = tuple(f"{name} (pid {pid})" for name, pid in _USER.findall(users))
    return _End(found[1], found[2], found[3], names)
