"""A service's data goes with the service; what was there before, or is mounted there, does not."""

import os

import pytest

from installer.changes import DataDirectory
from installer.errors import DeployError
from tests.making import begin, holds, make, take_back
from tests.tree_host import TreeHost, a_host

DATA = DataDirectory("/var/lib/containers")


def fill(host: TreeHost) -> None:
    host.put("/var/lib/containers/storage/overlay/l/x", b"layer", 0o600)
    host.put("/var/lib/containers/cache", b"")
    os.symlink("/etc", host.real("/var/lib/containers/link", follow=False))


@pytest.mark.parametrize("there", [False, True], ids=["absent", "empty"])
def test_what_a_service_kept_goes_and_the_folder_is_as_before(there: bool) -> None:
    with a_host() as host:
        if there:
            host.make_directory(DATA.path, 0o711)
        was = host.snapshot()
        assert not holds(host, DATA)
        make(host, DATA)
        fill(host)
        make(host, DATA)
        for _ in range(2):
            assert take_back(host, DATA.key) == []
            assert host.snapshot() == was
            begin(host, DATA)
        assert host.exists("/etc")


def test_parents_that_we_made_go_too() -> None:
    with a_host() as host:
        was = host.snapshot()
        change = DataDirectory("/var/lib/one/two/three")
        make(host, change)
        assert take_back(host, change.key) == []
        assert host.snapshot() == was


def test_a_parent_that_others_use_by_now_stays_and_is_named() -> None:
    with a_host() as host:
        change = DataDirectory("/var/lib/one/two")
        make(host, change)
        host.put("/var/lib/one/theirs", b"x")
        assert take_back(host, change.key) == ["/var/lib/one is not empty; it stays"]
        assert host.read("/var/lib/one/theirs") == b"x"
        assert not host.exists("/var/lib/one/two")


def test_data_that_was_there_before_us_is_not_ours() -> None:
    with a_host() as host:
        fill(host)
        assert "it stays" in holds(host, DATA)


def test_data_that_came_after_the_plan_and_before_the_deed_is_not_ours_either() -> None:
    with a_host() as host:
        assert not holds(host, DATA)
        fill(host)
        was = host.snapshot()
        make(host, DATA)
        take_back(host, DATA.key)
        assert host.snapshot() == was


@pytest.mark.parametrize("there", [False, True], ids=["dangling", "to a folder"])
def test_a_link_to_another_disk_stays_and_the_data_there_goes(there: bool) -> None:
    with a_host() as host:
        host.make_directory("/srv/disk/containers" if there else "/srv/disk")
        os.symlink("/srv/disk/containers", host.real(DATA.path, follow=False))
        was = host.snapshot()
        make(host, DATA)
        fill(host)
        assert host.exists("/srv/disk/containers/storage")
        assert take_back(host, DATA.key) == []
        assert host.snapshot() == was


def test_what_is_mounted_below_is_unmounted_innermost_first_and_not_emptied() -> None:
    mounts = ["/", "/var/lib/containers/storage", "/var/lib/containers/storage/overlay", "/var/lib/containers-too"]
    table = "".join(f"1 2 0:1 / {at} rw - tmpfs tmpfs rw\n" for at in mounts)
    with a_host({"cat": lambda *_: table, "umount": lambda *_: ""}) as host:
        make(host, DATA)
        take_back(host, DATA.key)
        assert [argv for argv in host.asked if argv[0] == "umount"] == [("umount", at) for at in mounts[2:0:-1]]


@pytest.mark.parametrize("path", [DATA.path, "/var/lib"])
def test_a_file_where_the_folder_is_expected_is_refused_by_path(path: str) -> None:
    with a_host() as host:
        host.remove_directory("/var/lib")
        change = DataDirectory("/srv/lib/containers" if path == "/var/lib" else "/srv/containers")
        blocked = "/srv/lib" if path == "/var/lib" else "/srv/containers"
        host.put(blocked, b"a file")
        was = host.snapshot()
        with pytest.raises(DeployError) as refused:
            make(host, change)
        assert refused.value.where == blocked
        assert refused.value.remedy
        assert host.snapshot()[blocked] == was[blocked]
