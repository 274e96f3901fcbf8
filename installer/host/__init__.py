"""The only door to the host: its files, its commands, its sockets.

The host is the machine whose PID 1 is given: the node itself for a pod with hostPID, another init for a
disposable node. Files are reached below /proc/PID/root, commands run in the namespaces of that PID.
"""

from installer.host.cgroup import rejoin_devices
from installer.host.door import Host, Result, fetched
from installer.host.tree import FileState, Tree, decode, encode, sha256

__all__ = ["FileState", "Host", "Result", "Tree", "decode", "encode", "fetched", "rejoin_devices", "sha256"]
