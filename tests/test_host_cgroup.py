"""A waiting pod stays where the runtime has put it."""

from pathlib import Path

import pytest

from installer.host import Tree, rejoin_devices

SCOPE = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podx.slice/crio-y.scope"
PROCS = f"sys/fs/cgroup/devices{SCOPE}/cgroup.procs"


def test_a_container_that_systemd_moved_goes_back_to_its_devices_group(tmp_path: Path) -> None:
    rejoin_devices(Tree(tmp_path), f"9:name=systemd:{SCOPE}\n5:devices:/kubepods.slice\n0::{SCOPE}\n")
    assert (tmp_path / PROCS).read_text() == "0"


@pytest.mark.parametrize(
    "groups",
    [
        f"9:name=systemd:{SCOPE}\n5:devices:{SCOPE}\n0::/\n",
        f"9:name=systemd:{SCOPE}\n4:memory:{SCOPE}\n",
        f"0::{SCOPE}\n",
        "9:name=systemd:/user.slice/user-0.slice/session-1.scope\n5:devices:/user.slice\n",
    ],
    ids=["it is there", "no devices hierarchy", "cgroup v2", "no pod"],
)
def test_else_nothing_is_touched(tmp_path: Path, groups: str) -> None:
    rejoin_devices(Tree(tmp_path), groups)
    assert not list(tmp_path.iterdir())
