"""dpkg's database and archives: read right, and refused where they are not what they should be."""

import dataclasses
import hashlib
import io
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from installer.errors import CommandError, RefusedError
from installer.facts import debian
from installer.facts.model import Artifact
from installer.host import Host, Result

STATUS = """\
adduser\tall\t3.134\tinstalled\tok
dpkg\tamd64\t1.21.22\tinstalled\tok
libc6\tamd64\t2.36-9\tinstalled\tok
libc6\ti386\t2.36-9\tinstalled\tok
man-db\tamd64\t2.11.2-2\ttriggers-pending\tok
rsync\tamd64\t3.2.7-1\thalf-configured\tok
jq\tamd64\t1.6-2.1\tunpacked\tok
nano\tamd64\t7.2-1\tinstalled\treinstreq
vim\tamd64\t9.0\tconfig-files\tok
gone\t\t\tnot-installed\tok
"""


class Fake(Host):
    """A host of which only dpkg-query's answer is known."""

    def __init__(self, answer: Result) -> None:
        super().__init__()
        self.answer = answer

    def run(self, *argv: str, timeout: int = 60, stdin: bytes = b"", check: bool = True) -> Result:
        assert argv[0] == "dpkg-query"
        assert not check
        return self.answer


HOST = Fake(Result(0, STATUS, ""))


def test_installed_packages_are_told_with_foreign_architectures_in_their_names() -> None:
    assert debian.installed(HOST) == {
        "adduser": "3.134",
        "dpkg": "1.21.22",
        "libc6": "2.36-9",
        "libc6:i386": "2.36-9",
        "man-db": "2.11.2-2",
        "nano": "7.2-1",
    }


def test_every_package_that_left_files_is_told_on_demand() -> None:
    assert set(debian.installed(HOST, every=True)) - set(debian.installed(HOST)) == {"rsync", "jq"}


def test_troubled_packages_are_told_with_their_state() -> None:
    assert debian.troubled(HOST) == [
        "man-db (triggers-pending)",
        "rsync (half-configured)",
        "jq (unpacked)",
        "nano (reinst-required)",
    ]


def test_a_host_without_dpkg_has_no_packages_and_a_broken_database_is_an_error() -> None:
    assert debian.installed(Fake(Result(127, "", "timeout: failed to run command"))) == {}
    with pytest.raises(CommandError) as caught:
        debian.installed(Fake(Result(2, "", "dpkg-query: error: parsing file '/var/lib/dpkg/status'")))
    assert "parsing file" in caught.value.found


@pytest.mark.machine
def test_this_machines_own_database_is_read() -> None:
    argv = debian._QUERY
    text = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    packages = debian.parse_packages(text)
    version = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", "dpkg"], check=True, capture_output=True, text=True
    )
    assert packages["dpkg"] == debian.Package(version.stdout, "installed")


CONTROL = b"Package: sysbox-ce\nVersion: 0.6.7.linux\nArchitecture: amd64\nDescription: runtime\n more\n"
UNIT = b"[Service]\nExecStart=/usr/bin/sysbox-fs\n"


@dataclasses.dataclass
class Entry:
    """A member of a data.tar to make."""

    name: str
    content: bytes = b""
    mode: int = 0o644
    type: bytes = tarfile.REGTYPE
    target: str = ""
    owner: int = 0


GOOD = (
    Entry("./", type=tarfile.DIRTYPE, mode=0o755),
    Entry("./usr/bin/", type=tarfile.DIRTYPE, mode=0o755),
    Entry("./usr/bin/sysbox-fs", b"\x7fELF\0" * 300_000, 0o755),
    Entry("./lib/systemd/system/sysbox-fs.service", UNIT),
    Entry("./usr/share/doc/sysbox-ce/latin", b"caf\xe9\n"),
    Entry("./usr/share/doc/sysbox-ce/link", type=tarfile.SYMTYPE, target="../../../bin/sysbox-fs", mode=0o777),
)
CODES = {"": "", ".gz": "gz", ".xz": "xz", ".bz2": "bz2"}


def make_tar(entries: Iterable[Entry], suffix: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w:{CODES[suffix]}") as tar:  # type: ignore[call-overload]
        for entry in entries:
            info = tarfile.TarInfo(entry.name)
            info.type, info.mode, info.linkname, info.size = entry.type, entry.mode, entry.target, len(entry.content)
            info.uid = info.gid = entry.owner
            tar.addfile(info, io.BytesIO(entry.content))
    return out.getvalue()


def make_ar(members: Iterable[tuple[str, bytes]]) -> bytes:
    out = b"!<arch>\n"
    for name, data in members:
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    return out


def make_deb(entries: Iterable[Entry] = GOOD, suffix: str = ".xz", control: bytes = CONTROL) -> bytes:
    data, about = make_tar(entries, suffix), make_tar([Entry("./control", control)], ".gz")
    return make_ar([("debian-binary", b"2.0\n"), ("control.tar.gz", about), (f"data.tar{suffix}", data)])


def listed(folder: Path, deb: bytes) -> Artifact:
    path = folder / "sysbox.deb"
    path.write_bytes(deb)
    return debian.listing(path, hashlib.sha256(deb).hexdigest())


def refusal(folder: Path, deb: bytes) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        listed(folder, deb)
    assert caught.value.where == str(folder / "sysbox.deb")
    assert caught.value.found
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize("suffix", CODES)
def test_an_archive_is_listed_whatever_its_compression(tmp_path: Path, suffix: str) -> None:
    artifact = listed(tmp_path, make_deb(suffix=suffix))
    assert artifact.version == "0.6.7.linux"
    assert [(f.path, f.mode, f.size, f.target) for f in artifact.files] == [
        ("/lib/systemd/system/sysbox-fs.service", 0o644, len(UNIT), ""),
        ("/usr/bin/sysbox-fs", 0o755, 1_500_000, ""),
        ("/usr/share/doc/sysbox-ce/latin", 0o644, 5, ""),
        ("/usr/share/doc/sysbox-ce/link", 0o777, 0, "../../../bin/sysbox-fs"),
    ]
    assert artifact.texts == {"/lib/systemd/system/sysbox-fs.service": UNIT.decode()}
    digests = {f.path: f.sha256 for f in artifact.files}
    for name, chunks in debian.contents(tmp_path / "sysbox.deb"):
        assert hashlib.sha256(b"".join(chunks)).hexdigest() == digests[name]


@pytest.mark.machine
@pytest.mark.parametrize("compression", ["xz", "gzip", "none"])
def test_what_dpkg_deb_packs_is_read(tmp_path: Path, compression: str) -> None:
    tree = tmp_path / "tree"
    for name, content in (("DEBIAN/control", CONTROL + b"Maintainer: x <x@y>\n"), ("usr/bin/sysbox-mgr", b"one")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)
    for path in tree.rglob("*"):
        path.chmod(0o755)
    out = tmp_path / "out.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", f"-Z{compression}", "--build", tree, out], check=True, capture_output=True
    )
    artifact = listed(tmp_path, out.read_bytes())
    assert [(f.path, f.mode, f.size) for f in artifact.files] == [("/usr/bin/sysbox-mgr", 0o755, 3)]
    assert b"".join(debian.member_bytes(out, "/usr/bin/sysbox-mgr")) == b"one"
    assert debian.control(out)["Package"] == "sysbox-ce"


def test_zstd_is_refused_with_the_way_out(tmp_path: Path) -> None:
    members = [("debian-binary", b"2.0\n"), ("control.tar.gz", make_tar([Entry("./control", CONTROL)], ".gz"))]
    error = refusal(tmp_path, make_ar([*members, ("data.tar.zst", b"\x28\xb5\x2f\xfd")]))
    assert error.found == "data.tar.zst"
    assert "dpkg-deb -Zxz" in error.remedy


def test_another_digest_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sysbox.deb"
    path.write_bytes(b"not even an archive")
    with pytest.raises(RefusedError) as caught:
        debian.listing(path, "0" * 64)
    assert "SHA-256" in caught.value.what
    assert caught.value.found == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(RefusedError, match="can't be read"):
        debian.verify(tmp_path / "missing.deb", "0" * 64)
    debian.verify(path, hashlib.sha256(path.read_bytes()).hexdigest().upper())


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (Entry("./usr/bin/../../etc/passwd"), "dangerous name"),
        (Entry("/usr/bin/sysbox-fs"), "dangerous name"),
        (Entry("./usr/bin/a\nb"), "dangerous name"),
        (Entry("./usr/bin/\udcff"), "dangerous name"),
        (Entry("./etc/shadow"), "none of Sysbox's belongs"),
        (Entry("./usr/bin"), "none of Sysbox's belongs"),
        (Entry("./usr/bin/sysbox-fs"), "a file twice"),
        (Entry("usr/bin/./sysbox-fs"), "a file twice"),
        (Entry("./usr/bin/su", mode=0o4755), "special rights"),
        (Entry("./usr/bin/sg", mode=0o2755), "special rights"),
        (Entry("./usr/share/doc/", mode=0o1777, type=tarfile.DIRTYPE), "special rights"),
        (Entry("./usr/bin/mine", owner=1000), "special rights or owners"),
        (Entry("./usr/bin/null", type=tarfile.CHRTYPE), "else than files and links"),
        (Entry("./usr/bin/disk", type=tarfile.BLKTYPE), "else than files and links"),
        (Entry("./usr/bin/pipe", type=tarfile.FIFOTYPE), "else than files and links"),
        (Entry("./usr/bin/twin", type=tarfile.LNKTYPE, target="./usr/bin/sysbox-fs"), "else than files and links"),
        (Entry("./usr/bin/sh", type=tarfile.SYMTYPE, target="/bin/sh"), "leads out of it"),
        (Entry("./usr/bin/up", type=tarfile.SYMTYPE, target="../../../etc"), "leads out of it"),
        (Entry("./usr/bin/zig", type=tarfile.SYMTYPE, target="x/../../../../etc"), "leads out of it"),
    ],
)
def test_an_archive_with_a_dangerous_member_is_refused(tmp_path: Path, entry: Entry, why: str) -> None:
    error = refusal(tmp_path, make_deb([*GOOD, entry]))
    assert why in error.what
    assert entry.name.removeprefix("usr/bin/./").strip("./") in error.found or why == "dangerous name"


def test_a_link_that_stays_inside_is_kept(tmp_path: Path) -> None:
    link = Entry("./usr/bin/up", type=tarfile.SYMTYPE, target="../../lib/x", mode=0o777)
    (found,) = listed(tmp_path, make_deb([link])).files
    assert (found.path, found.target, found.sha256) == ("/usr/bin/up", "../../lib/x", "")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sysbox.deb"
    path.write_bytes(make_deb())
    for name in ("/usr/bin/nothing", "usr/bin/sysbox-fs", "/usr/share/doc/sysbox-ce/link"):
        with pytest.raises(RefusedError, match="no such file"):
            list(debian.member_bytes(path, name))


def test_an_archive_without_its_parts_is_refused(tmp_path: Path) -> None:
    assert "no data.tar" in refusal(tmp_path, make_ar([("debian-binary", b"2.0\n")])).found
    assert "another file type" in refusal(tmp_path, b"PK\3\4").found
    data = make_tar(GOOD, "")
    assert "no control.tar" in refusal(tmp_path, make_ar([("data.tar", data)])).found
    assert "control file" in refusal(tmp_path, make_ar([("data.tar", data), ("control.tar", make_tar([], ""))])).what


@pytest.mark.parametrize("suffix", CODES)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_an_archive_that_is_cut_off_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    whole = make_deb(suffix=suffix)
    refusal(tmp_path, whole[: int(len(whole) * share)])


SMALL = [Entry("./usr/bin/x", b"content", 0o755), Entry("./usr/share/doc/y", b"text")]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(CODES)), st.integers(0), st.binary(min_size=1, max_size=6))
def test_no_damage_gives_a_traceback(tmp_path: Path, suffix: str, place: int, noise: bytes) -> None:
    deb = bytearray(make_deb(SMALL, suffix))
    place %= len(deb)
    deb[place : place + len(noise)] = noise
    try:
        listed(tmp_path, bytes(deb))
    except RefusedError as error:
        assert error.remedy
