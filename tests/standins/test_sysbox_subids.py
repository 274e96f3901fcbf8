"""The stand-in for sysbox-mgr does to /etc/subuid and /etc/subgid what the real one does."""

import pytest

from tests.standins.root import Root

pytestmark = pytest.mark.machine


def subids(root: Root) -> tuple[str, str]:
    return (root / "etc/subuid").read_text(), (root / "etc/subgid").read_text()


def start_and_stop(root: Root) -> None:
    with root.started("sysbox-mgr") as daemon:
        daemon.stop()


def test_sysbox_mgr_gives_its_user_a_range_after_the_others(root: Root) -> None:
    for name in ("subuid", "subgid"):
        (root / "etc" / name).write_text("containers:165536:268435456\ncesar:100000:65536\n")
    start_and_stop(root)
    expected = "cesar:100000:65536\ncontainers:165536:268435456\nsysbox:268600992:65536\n"
    assert subids(root) == (expected, expected)


def test_sysbox_mgr_leaves_files_alone_that_have_its_range(root: Root) -> None:
    text = "# not a comment to everybody\nzoe:900000:65536\nsysbox:100000:65536\n"
    for name in ("subuid", "subgid"):
        (root / "etc" / name).write_text(text)
    start_and_stop(root)
    assert subids(root) == (text, text)


def test_sysbox_mgr_makes_the_files_if_there_are_none(root: Root) -> None:
    (root / "etc/login.defs").write_text("# SUB_UID_MIN 5\nSUB_UID_MIN\t\t200000\nSUB_GID_MIN 200000\n")
    start_and_stop(root)
    assert subids(root) == ("sysbox:200000:65536\n", "sysbox:200000:65536\n")


def test_sysbox_mgr_spoils_comments_and_malformed_lines_when_it_writes(root: Root) -> None:
    for name in ("subuid", "subgid"):
        (root / "etc" / name).write_text("# mine\ncesar:100000:65536\nbroken\n\nsysbox:1:2\n")
    start_and_stop(root)
    expected = "# mine:0:0\nbroken:0:0\nsysbox:0:65536\ncesar:100000:65536\n"
    # An entry that starts below the minimum draws the search below it.
    assert subids(root) == (expected, expected)


def test_sysbox_mgr_refuses_ranges_that_differ_between_the_files(root: Root) -> None:
    (root / "etc/subuid").write_text("cesar:100000:65536\n")
    (root / "etc/subgid").write_text("")
    said = root.run("sysbox-mgr")
    assert said.returncode == 1
    assert "could not find matching subuid and subgids range for user sysbox" in said.stderr


def test_sysbox_mgr_refuses_limits_that_are_no_numbers(root: Root) -> None:
    (root / "etc/login.defs").write_text("SUB_UID_MIN many\n")
    said = root.run("sysbox-mgr")
    assert said.returncode == 1
    assert "failed to parse line SUB_UID_MIN many" in said.stderr
