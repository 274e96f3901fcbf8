"""Our own control group, on a host that still has cgroup v1."""

from installer.host.tree import Tree


def rejoin_devices(tree: Tree, groups: str) -> None:
    """Puts this process back into its container's devices group; `groups` is what its /proc/self/cgroup says.

    At a daemon-reload, systemd may move a privileged container's process to a group further up, as it wants no
    devices group for it, and remove the one that the runtime made. Then nothing can be executed in the container,
    not even a probe: the pod would never be ready.
    """
    at = {controllers: path for _, controllers, path in (line.split(":", 2) for line in groups.splitlines())}
    own = at.get("name=systemd", "")
    if "kubepods" in own and at.get("devices", own) != own:
        folder = tree.real(f"/sys/fs/cgroup/devices{own}")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup.procs").write_text("0")
