"""Files of ours and lines of ours: made, made again for nothing, taken back byte for byte, theirs never touched."""

import os
from pathlib import PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from installer.changes import OwnLines, WriteFile
from installer.errors import DeployError
from installer.host import FileState, decode, encode
from installer.journal import Journal
from tests.making import CONTENTS, FEW, begin, facts, holds, make, take_back
from tests.tree_host import TreeHost, a_host

PATH = "/etc/subuid"
OURS = ("containers:165536:268435456", "containers:268600992:65536")
LINES = OwnLines(PATH, "containers", OURS)
MODES = st.sampled_from([0o644, 0o600, 0o640, 0o444, 0o4755])
OWNERS = st.sampled_from([(0, 0), (1000, 1000), (0, 42)])
XATTRS = st.sampled_from([(), (("trusted.t", "00ff"),), (("user.a", "61"), ("user.b", ""))])
FILES = st.one_of(
    st.none(),
    st.builds(
        lambda content, mode, owner, xattrs: (content, FileState("file", mode, owner[0], owner[1], xattrs=xattrs)),
        *(CONTENTS, MODES, OWNERS, XATTRS),
    ),
)
TEXTS = CONTENTS.map(decode)


def lay(host: TreeHost, path: str, file: tuple[bytes, FileState] | None) -> None:
    if file:
        host.make_directory(str(PurePosixPath(path).parent))
        host.replace(path, *file)


@FEW
@given(FILES, TEXTS, MODES, st.sampled_from(["/etc/x", "/etc/crio/crio.conf.d/90-sysbox-deploy.conf"]))
def test_a_written_file_goes_back_as_it_was_whatever_it_held(
    before: tuple[bytes, FileState] | None, text: str, mode: int, path: str
) -> None:
    change = WriteFile(path, text, mode)
    with a_host() as host:
        lay(host, path, before)
        was = host.snapshot()
        if holds(host, change):
            assert before
            assert before[0] == encode(text)
        make(host, change)
        assert host.read(path) == encode(text)
        assert holds(host, change)
        made = host.snapshot()
        assert make(host, change).before["state"] == (make(host, change).before["state"])
        assert host.snapshot() == made
        assert take_back(host, change.key) == []
        assert host.snapshot() == was


@FEW
@given(FILES)
@example((b"no final newline", FileState("file", 0o644, 0, 0)))
@example((b"dos\r\nline", FileState("file", 0o644, 0, 0)))
@example((b"form\x0cfeed", FileState("file", 0o600, 0, 42)))
def test_lines_of_ours_come_out_of_any_file_without_a_trace(before: tuple[bytes, FileState] | None) -> None:
    with a_host() as host:
        lay(host, PATH, before)
        was = host.snapshot()
        make(host, LINES)
        now, then = host.read(PATH) or b"", before[0] if before else b""
        assert now.startswith(then)
        assert set(OURS) <= set(decode(now).split("\n"))
        assert holds(host, LINES)
        made = host.snapshot()
        assert [s for p, s in made.items() if p != PATH] == [s for p, s in was.items() if p != PATH]
        make(host, LINES)
        assert host.snapshot() == made
        assert take_back(host, LINES.key) == []
        assert host.snapshot() == was


@FEW
@given(FILES, st.booleans())
def test_a_crash_before_the_deed_leaves_nothing_to_take_back(
    before: tuple[bytes, FileState] | None, shared: bool
) -> None:
    change = LINES if shared else WriteFile(PATH, "ours\n")
    with a_host() as host:
        lay(host, PATH, before)
        was = host.snapshot()
        begin(host, change)
        assert host.snapshot() == was
        take_back(host, change.key)
        assert host.snapshot() == was


@FEW
@given(FILES, st.booleans())
def test_a_crash_after_the_deed_is_taken_back_too_and_a_second_time_does_nothing(
    before: tuple[bytes, FileState] | None, shared: bool
) -> None:
    change = LINES if shared else WriteFile(PATH, "ours\n")
    with a_host() as host:
        lay(host, PATH, before)
        was = host.snapshot()
        entry = begin(host, change)
        change.apply(host, Journal(host), entry.before)
        for _ in range(2):
            assert change.undo(host, Journal(host), entry.before, {}) == []
            assert host.snapshot() == was


THEIRS = st.lists(
    st.sampled_from([b"a:1:2\n", b"b:3:4\n", b"# c\n", b"\n", b"d:5:6\r\n", b"e\x0cf\n", b"caf\xe9\n", b"\0\n"]),
    max_size=6,
)
EDITS = st.lists(st.tuples(st.integers(0, 8), st.sampled_from([b"", b"new:7:8\n", b"new:9:9\nand more\n"])), max_size=4)


@FEW
@given(THEIRS, EDITS)
def test_when_others_changed_the_shared_file_only_our_lines_go(
    theirs: list[bytes], edits: list[tuple[int, bytes]]
) -> None:
    with a_host() as host:
        host.put(PATH, b"".join(theirs))
        make(host, LINES)
        rows = [(line, False) for line in theirs] + [(f"{line}\n".encode(), True) for line in OURS]
        assert host.read(PATH) == b"".join(line for line, _ in rows)
        for place, new in edits:  # others remove their line at a place, or add lines before it
            at = min(place, len(rows))
            if new:
                rows.insert(at, (new, False))
            elif at < len(rows) and not rows[at][1]:
                del rows[at]
        host.put(PATH, b"".join(line for line, _ in rows), 0o640)
        take_back(host, LINES.key)
        assert host.read(PATH) == b"".join(line for line, ours in rows if not ours)


@pytest.mark.parametrize(
    ("before", "after", "left"),
    [
        (b"a:1:2", b"a:1:2\n%b\nc:3:4\n", b"a:1:2\nc:3:4\n"),
        (b"a:1:2", b"A:1:2\n%b\n", b"A:1:2\n"),
        (b"x:0:0\na:1:2", b"X:0:0\na:1:2\n%b\n", b"X:0:0\na:1:2"),
        (b"a:1:2\r\nb:3:4", b"a:1:2\r\nb:3:4\n%b\nc:5:6\r\n", b"a:1:2\r\nb:3:4\nc:5:6\r\n"),
        (b"", b"a:1:2\n%b\n", b"a:1:2\n"),
        (b"a:1:2\n", b"a:1:2\n%b", b"a:1:2\n"),
        (b"a:1:2\n", b"a:1:2\r\n%b\r\n", b"a:1:2\r\n"),
        (b"a:1:2\n", b"", b""),
        (b"a:1:2\n", b"only theirs\n", b"only theirs\n"),
    ],
)
def test_what_others_left_of_the_file_stays(before: bytes, after: bytes, left: bytes) -> None:
    with a_host() as host:
        host.put(PATH, before)
        make(host, LINES)
        newline = b"\r\n" if after.endswith(b"%b\r\n") else b"\n"
        host.put(PATH, after.replace(b"%b", newline.join(line.encode() for line in OURS)))
        take_back(host, LINES.key)
        assert host.read(PATH) == left


def test_a_line_that_was_there_before_us_stays_when_others_changed_the_file() -> None:
    with a_host() as host:
        host.put(PATH, f"{OURS[0]}\n".encode())
        make(host, LINES)
        assert decode(host.read(PATH) or b"") == f"{OURS[0]}\n{OURS[1]}\n"
        host.put(PATH, (host.read(PATH) or b"") + b"added:1:2\n")
        take_back(host, LINES.key)
        assert decode(host.read(PATH) or b"") == f"{OURS[0]}\nadded:1:2\n"


def test_a_line_ends_at_a_newline_and_nowhere_else() -> None:
    # For shadow and CRI-O this is one line, and it is somebody else's.
    with a_host() as host:
        host.put(PATH, f"x\x0c{OURS[0]}\x0c\n".encode() + f"y\u2028{OURS[1]}\u2028\nz\r".encode())
        assert not holds(host, LINES)
        make(host, LINES)
        assert (host.read(PATH) or b"").split(b"\n")[-3:] == [OURS[0].encode(), OURS[1].encode(), b""]


def test_lines_of_ours_end_as_shadow_reads_them_in_a_dos_file_too() -> None:
    with a_host() as host:
        host.put(PATH, b"a:1:2\r\n")
        make(host, LINES)
        assert host.read(PATH) == b"a:1:2\r\n" + "".join(f"{line}\n" for line in OURS).encode()


def test_lines_that_a_newer_setting_adds_go_with_the_older_ones() -> None:
    with a_host() as host:
        host.put(PATH, b"a:1:2")
        make(host, OwnLines(PATH, "containers", OURS[:1]))
        make(host, LINES)
        host.put(PATH, (host.read(PATH) or b"") + b"b:1:2\n")
        take_back(host, LINES.key)
        assert host.read(PATH) == b"a:1:2\nb:1:2\n"


def test_what_others_added_before_a_repair_of_ours_stays() -> None:
    with a_host() as host:
        host.put(PATH, b"a:1:2\n")
        make(host, LINES)
        host.put(PATH, b"a:1:2\nb:1:2\n")
        assert not holds(host, LINES)
        make(host, LINES)
        take_back(host, LINES.key)
        assert host.read(PATH) == b"a:1:2\nb:1:2\n"


TEXT = "[crio]\n[crio.runtime]\nours = 1\n"
FILE = WriteFile("/etc/crio/crio.conf.d/90-ours.conf", TEXT)


@FEW
@given(st.one_of(st.none(), THEIRS), THEIRS, THEIRS)
def test_when_others_added_to_a_file_of_ours_only_theirs_is_left(
    before: list[bytes] | None, above: list[bytes], below: list[bytes]
) -> None:
    original = None if before is None else b"".join(before)
    with a_host() as host:
        if original is not None:
            host.put(FILE.path, original)
        make(host, FILE)
        changed = b"".join(above) + TEXT.encode() + b"".join(below)
        host.put(FILE.path, changed)
        kept = take_back(host, FILE.key)
        left = host.read(FILE.path)
        if original is None and not b"".join(above + below).strip():
            assert left is None or kept
        elif original == TEXT.encode():
            assert left == changed
        elif left == changed and kept:
            assert FILE.path in kept[0]
        else:
            assert left == b"".join(above) + (original or b"") + b"".join(below)
            assert kept or not (above or below)


def test_a_file_of_ours_that_others_rewrote_stays_and_is_named() -> None:
    with a_host() as host:
        make(host, FILE)
        host.put(FILE.path, b"[crio.runtime]\ntheirs = 1\n", 0o600)
        was = host.snapshot()
        kept = take_back(host, FILE.key)
        assert len(kept) == 1
        assert FILE.path in kept[0]
        assert host.snapshot() == was


def test_a_file_of_ours_that_others_removed_leaves_no_folder_of_ours_behind() -> None:
    with a_host() as host:
        was = host.snapshot()
        make(host, FILE)
        host.remove(FILE.path)
        assert take_back(host, FILE.key) == []
        assert host.snapshot() == was


def test_a_folder_of_ours_in_which_others_put_something_stays() -> None:
    with a_host() as host:
        make(host, FILE)
        host.put("/etc/crio/theirs", b"x")
        take_back(host, FILE.key)
        assert [p for p in host.snapshot() if p.startswith("/etc/crio")] == ["/etc/crio", "/etc/crio/theirs"]


@pytest.mark.parametrize("change", [FILE, LINES], ids=lambda c: c.kind)
def test_an_original_that_others_removed_is_not_put_back_and_named(change: WriteFile | OwnLines) -> None:
    with a_host() as host:
        host.put(change.path, b"was\n")
        make(host, change)
        host.remove(change.path)
        kept = take_back(host, change.key)
        assert host.read(change.path) is None
        assert len(kept) == 1
        assert change.path in kept[0]


@pytest.mark.parametrize("change", [FILE, LINES], ids=lambda c: c.kind)
@pytest.mark.parametrize("what", ["directory", "link", "fifo"])
def test_what_others_put_in_place_of_our_file_stays_and_is_named(change: WriteFile | OwnLines, what: str) -> None:
    with a_host() as host:
        make(host, change)
        host.remove(change.path)
        host.put("/etc/theirs", b"theirs\n")
        _put_odd(host, change.path, what)
        was = host.snapshot()
        assert take_back(host, change.key) == [f"{change.path} is no longer a regular file; left as it is"]
        assert host.snapshot() == was


@pytest.mark.parametrize("change", [FILE, LINES], ids=lambda c: c.kind)
@pytest.mark.parametrize("what", ["directory", "fifo", "dangling loop"])
def test_a_change_of_what_is_no_file_is_refused_by_path_and_nothing_is_touched(
    change: WriteFile | OwnLines, what: str
) -> None:
    with a_host() as host:
        host.make_directory(str(PurePosixPath(change.path).parent))
        _put_odd(host, change.path, what)
        was = host.snapshot()
        with pytest.raises(DeployError) as refused:
            make(host, change)
        assert change.path in refused.value.where
        assert refused.value.remedy
        assert host.snapshot() == was


def test_a_file_where_a_folder_is_needed_is_refused_by_path_and_nothing_is_touched() -> None:
    with a_host() as host:
        host.put("/etc/crio", b"a file\n")
        was = host.snapshot()
        with pytest.raises(DeployError) as refused:
            make(host, FILE)
        assert refused.value.where == "/etc/crio"
        assert host.snapshot() == was


@pytest.mark.parametrize("change", [WriteFile(PATH, "ours\n"), LINES], ids=lambda c: c.kind)
@pytest.mark.parametrize("target", ["/etc/shared/subuid", "shared/subuid", "../etc/./shared/subuid"])
@pytest.mark.parametrize("there", [True, False], ids=["to a file", "dangling"])
def test_a_link_stays_and_what_it_leads_to_goes_back(change: WriteFile | OwnLines, target: str, there: bool) -> None:
    with a_host() as host:
        if there:
            host.put("/etc/shared/subuid", b"a:1:2", 0o600)
        os.symlink(target, host.real(PATH, follow=False))
        was = host.snapshot()
        make(host, change)
        assert holds(host, change)
        made = host.snapshot()
        assert made[PATH] == was[PATH]
        assert made["/etc/shared/subuid"].kind == "file"
        assert take_back(host, change.key) == []
        assert host.snapshot() == was


def test_a_folder_that_is_a_link_on_the_host_is_followed_on_the_host() -> None:
    with a_host() as host:
        host.make_directory("/srv/crio")
        os.symlink("/srv/crio", host.real("/etc/crio", follow=False))
        was = host.snapshot()
        make(host, FILE)
        assert host.read("/srv/crio/crio.conf.d/90-ours.conf") == TEXT.encode()
        take_back(host, FILE.key)
        assert host.snapshot() == was


def test_the_oldest_original_comes_back_after_an_upgrade() -> None:
    with a_host() as host:
        host.put(FILE.path, b"was\n", 0o600)
        was = host.snapshot()
        make(host, FILE)
        newer = WriteFile(FILE.path, TEXT + "more = 2\n", 0o640)
        assert not holds(host, newer)
        make(host, newer)
        assert take_back(host, FILE.key) == []
        assert host.snapshot() == was


def test_a_crash_in_the_middle_of_an_upgrade_is_taken_back_to_the_original() -> None:
    with a_host() as host:
        was = host.snapshot()
        make(host, FILE)
        begin(host, WriteFile(FILE.path, "another text\n"))
        assert take_back(host, FILE.key) == []
        assert host.snapshot() == was


def test_only_files_of_units_make_systemd_read_them_again() -> None:
    with a_host() as host:
        make(host, FILE)
        assert host.asked == []
        make(host, WriteFile("/etc/systemd/system/crio.service.d/50-ours.conf", "[Service]\n"))
        assert host.asked == [("systemctl", "daemon-reload")]


def test_a_diff_and_a_description_say_what_will_be() -> None:
    with a_host() as host:
        host.put(PATH, b"a:1:2")
        assert LINES.diff(facts(host)).splitlines()[2:] == [
            "@@ -1 +1,3 @@",
            "-a:1:2",
            "+a:1:2",
            *(f"+{line}" for line in OURS),
        ]
        assert FILE.diff(facts(host)).splitlines()[3:] == [f"+{line}" for line in TEXT.splitlines()]
        assert FILE.describe() == f"write {FILE.path} ({len(TEXT)} bytes, mode 0644)"
        assert OURS[0] in LINES.describe()


def _put_odd(host: TreeHost, path: str, what: str) -> None:
    real = host.real(path, follow=False)
    if what == "directory":
        real.mkdir()
    elif what == "fifo":
        os.mkfifo(real)
    else:
        os.symlink("/etc/theirs" if what == "link" else path, real)
