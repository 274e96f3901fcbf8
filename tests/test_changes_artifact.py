"""Files that an archive brings: each laid as it is there, each taken back to what stood in its place."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from installer.changes import InstallFiles
from installer.changes.artifact import STAGED
from installer.errors import DeployError
from installer.facts import debian
from installer.host import FileState, sha256
from installer.journal import Journal
from tests.archive import pack
from tests.making import CONTENTS, FEW, begin, holds, make, take_back
from tests.tree_host import TreeHost, a_host

PROGRAM, LINK, UNIT = "/usr/bin/sysbox-runc", "/usr/bin/sysbox", "/lib/systemd/system/sysbox.service"
Tree = Mapping[str, bytes | str]
TREE: Tree = {PROGRAM: b"\x7fELF one", LINK: "sysbox-runc", UNIT: b"[Service]\nExecStart=/usr/bin/sysbox\n"}


def archived(host: TreeHost, tree: Tree = TREE, version: str = "1.0") -> InstallFiles:
    """The change that lays a tree (bytes: a file, text: a link), its archive waiting on the host."""
    with tempfile.TemporaryDirectory() as folder:
        for path, content in tree.items():
            real = Path(folder) / path.lstrip("/")
            real.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                real.symlink_to(content)
            else:
                real.write_bytes(content)
                real.chmod(0o755 if "/bin/" in path else 0o644)
        data = pack(Path(folder), version)
    digest = sha256(data)
    host.put(f"{STAGED}/{digest}", data, 0o600)
    artifact = debian.listing(host.real(f"{STAGED}/{digest}"), digest)
    files = tuple((f.path, f.mode, f.sha256, f.target) for f in artifact.files)
    return InstallFiles("sysbox", artifact.version, digest, files)


def lay(host: TreeHost, path: str, what: bytes | str | None, like: FileState) -> None:
    if what is None:
        return
    host.make_directory(path.rpartition("/")[0])
    if isinstance(what, str):
        host.link(path, what)
    else:
        host.replace(path, what, like)


LIKE = st.builds(
    lambda mode, owner, xattrs: FileState("file", mode, owner, owner, xattrs=xattrs),
    *(st.sampled_from([0o644, 0o755, 0o600]), st.sampled_from([0, 1000]), st.sampled_from([(), (("user.a", "61"),)])),
)
STOOD = st.one_of(
    *(st.none(), CONTENTS, st.sampled_from(["/usr/local/bin/theirs", "nowhere", "sysbox-runc", "../bin/./theirs"]))
)


@FEW
@given(STOOD, STOOD, LIKE)
def test_every_file_goes_back_to_what_stood_there(
    program: bytes | str | None, link: bytes | str | None, like: FileState
) -> None:
    with a_host() as host:
        host.put("/usr/local/bin/theirs", b"theirs", 0o755)
        host.put("/usr/bin/theirs", b"theirs too", 0o755)
        lay(host, PROGRAM, program, like)
        lay(host, LINK, link, like)
        was = host.snapshot()
        change = archived(host)
        assert not holds(host, change)
        make(host, change)
        assert (host.state(PROGRAM) or FileState("", 0, 0, 0)).content == TREE[PROGRAM]
        assert (host.state(LINK) or FileState("", 0, 0, 0)).target == TREE[LINK]
        assert host.read("/usr/local/bin/theirs") == b"theirs"
        assert host.read("/usr/bin/theirs") == b"theirs too"
        assert holds(host, change)
        made = host.snapshot()
        make(host, change)
        assert host.snapshot() == made
        assert take_back(host, change.key) == []
        assert host.snapshot() == was


@FEW
@given(STOOD, LIKE, st.integers(0, 3))
def test_a_crash_within_leaves_what_can_be_taken_back(what: bytes | str | None, like: FileState, files: int) -> None:
    with a_host() as host:
        lay(host, PROGRAM, what, like)
        was = host.snapshot()
        change = archived(host)
        begin(host, change)
        some = InstallFiles(change.name, change.version, change.sha256, change.files[:files])
        some.apply(host, Journal(host), {})
        entry = Journal(host).entry(change.key)
        assert entry
        for _ in range(2):
            assert change.undo(host, Journal(host), entry.before, {}) == []
            assert host.snapshot() == was


def test_a_crash_while_it_goes_back_loses_no_original() -> None:
    with a_host() as host:
        lay(host, LINK, b"was a file", FileState("file", 0o700, 0, 0))
        was = host.snapshot()
        change = archived(host)
        make(host, change)
        host.remove(LINK)  # half way from our link to their file
        take_back(host, change.key)
        assert host.snapshot() == was


def test_what_others_changed_since_stays_and_is_named() -> None:
    with a_host() as host:
        change = archived(host)
        make(host, change)
        host.put(PROGRAM, b"patched", 0o755)
        host.link(LINK, "/opt/theirs")
        kept = take_back(host, change.key)
        assert sorted(kept) == [f"{p} was changed by somebody since; left as it is" for p in (LINK, PROGRAM)]
        assert host.read(PROGRAM) == b"patched"
        assert not host.exists(UNIT)


def test_an_upgrade_goes_back_to_what_stood_before_the_first_version() -> None:
    with a_host() as host:
        lay(host, PROGRAM, b"hand-made", FileState("file", 0o700, 0, 0))
        lay(host, "/usr/bin/new", b"theirs", FileState("file", 0o700, 0, 0))
        was = host.snapshot()
        make(host, archived(host))
        newer = archived(
            host, {PROGRAM: b"\x7fELF two", "/usr/bin/new": b"new", "/usr/lib/sysbox/more": b"more"}, "2.0"
        )
        make(host, newer)
        assert holds(host, newer)
        assert take_back(host, newer.key) == []
        assert host.snapshot() == was


def test_an_upgrade_that_was_cut_off_goes_back_too() -> None:
    with a_host() as host:
        was = host.snapshot()
        make(host, archived(host))
        newer = archived(host, {PROGRAM: b"\x7fELF two", UNIT: b"[Service]\n"}, "2.0")
        begin(host, newer)
        assert take_back(host, newer.key) == []
        assert host.snapshot() == was


@pytest.mark.parametrize("path", [PROGRAM, LINK])
def test_a_folder_where_a_file_is_expected_is_refused_by_path_and_nothing_is_touched(path: str) -> None:
    with a_host() as host:
        host.make_directory(path)
        was = host.snapshot()
        with pytest.raises(DeployError) as refused:
            make(host, archived(host))
        assert refused.value.where == path
        assert host.snapshot() == was


def test_a_file_where_a_folder_is_expected_is_refused_by_path_and_nothing_is_touched() -> None:
    with a_host() as host:
        host.put("/usr/bin", b"")
        was = host.snapshot()
        with pytest.raises(DeployError) as refused:
            make(host, archived(host))
        assert refused.value.where == "/usr/bin"
        assert host.snapshot() == was


def test_a_merged_usr_is_no_trouble() -> None:
    with a_host() as host:
        host.make_directory("/usr/lib")
        os.symlink("usr/lib", host.real("/lib", follow=False))
        was = host.snapshot()
        change = archived(host)
        make(host, change)
        assert host.read("/usr/lib/systemd/system/sysbox.service") == TREE[UNIT]
        take_back(host, change.key)
        assert host.snapshot() == was


def test_an_archive_that_is_not_the_verified_one_is_not_laid_out() -> None:
    with a_host() as host:
        change = archived(host)
        was = host.snapshot()
        host.put(f"{STAGED}/{change.sha256}", b"!<arch>\n")
        with pytest.raises(DeployError, match="SHA-256"):
            make(host, change)
        assert host.snapshot() == was


def test_a_file_that_is_missing_in_the_end_fails_the_proof() -> None:
    with a_host() as host:
        change = archived(host)
        make(host, change)
        host.real(PROGRAM).chmod(0o700)
        with pytest.raises(DeployError) as failed:
            change.verify(host)
        assert failed.value.where == PROGRAM
