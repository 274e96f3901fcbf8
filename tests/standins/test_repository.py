"""apt takes packages from a good repository, and from no bad one."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.standins import deb
from tests.standins.repo import Fault, Repository

pytestmark = pytest.mark.machine

PACKAGE = "standins-example"


class Apt:
    """apt in a root of its own, with one source."""

    def __init__(self, root: Path, key: Path) -> None:
        self.root = root
        self.key = key
        for folder in (
            "etc/apt",
            "var/lib/apt/lists/partial",
            "var/cache/apt/archives/partial",
            "var/lib/dpkg",
        ):
            (root / folder).mkdir(parents=True)
        (root / "var/lib/dpkg/status").touch()
        settings = {
            "Dir": root,
            "Dir::State::status": root / "var/lib/dpkg/status",
            "APT::Sandbox::User": "root",
            "Acquire::Retries": "0",
        }
        (root / "apt.conf").write_text("".join(f'{name} "{value}";\n' for name, value in settings.items()))

    def run(self, *words: str, uri: str = "") -> subprocess.CompletedProcess[str]:
        if uri:
            (self.root / "etc/apt/sources.list").write_text(f"deb [signed-by={self.key}] {uri} /\n")
        environment = {**os.environ, "APT_CONFIG": str(self.root / "apt.conf"), "LC_ALL": "C.UTF-8"}
        argv = ["apt-get", "-q", "-o", "APT::Update::Error-Mode=any", *words]
        return subprocess.run(argv, cwd=self.root, env=environment, capture_output=True, text=True)

    def update(self, uri: str) -> subprocess.CompletedProcess[str]:
        return self.run("update", uri=uri)

    def download(self) -> subprocess.CompletedProcess[str]:
        return self.run("download", PACKAGE)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    tree = folder / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "big").write_bytes(os.urandom(1 << 20))
    control = {
        "Package": PACKAGE,
        "Version": "1.0",
        "Priority": "optional",
        "Architecture": "all",
        "Maintainer": "nobody <root@localhost>",
        "Description": "for a test",
    }
    return deb.pack(tree, control, folder / f"{PACKAGE}_1.0_all.deb", compression=("-Znone",))


@pytest.fixture
def repository(tmp_path: Path, package: Path) -> Repository:
    made = Repository(tmp_path / "repository")
    made.add(package)
    made.publish()
    return made


@pytest.fixture
def apt(tmp_path: Path, repository: Repository) -> Apt:
    root = tmp_path / "apt"
    root.mkdir()
    return Apt(root, _as_apt_wants_it(repository, tmp_path))


def _as_apt_wants_it(repository: Repository, folder: Path) -> Path:
    # signed-by takes armored keys from files named .asc
    key = folder / "key.asc"
    key.write_bytes(repository.key_path.read_bytes())
    return key


def test_gpgv_finds_both_signatures_good_and_by_the_key_that_is_named(
    repository: Repository, tmp_path: Path
) -> None:
    keyring = tmp_path / "key.gpg"
    subprocess.run(["gpg", "--dearmor", "--output", str(keyring), str(repository.key_path)], check=True)
    signed = [["InRelease"], ["Release.gpg", "Release"]]
    for names in signed:
        argv = ["gpgv", "--status-fd", "1", "--keyring", str(keyring), *names]
        seen = subprocess.run(argv, cwd=repository.folder, capture_output=True, text=True)
        assert seen.returncode == 0, seen.stderr
        assert f"VALIDSIG {repository.fingerprint}" in seen.stdout


def test_apt_takes_a_package_from_it(repository: Repository, apt: Apt) -> None:
    updated = apt.update(repository.uri)
    assert updated.returncode == 0, updated.stderr
    downloaded = apt.download()
    assert downloaded.returncode == 0, downloaded.stderr
    assert (apt.root / f"{PACKAGE}_1.0_all.deb").is_file()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault.WRONG_KEY, "NO_PUBKEY"),
        (Fault.EXPIRED_SIGNATURE, "EXPSIG"),
        (Fault.EXPIRED_RELEASE, "is expired"),
        (Fault.UNSIGNED, "is not signed"),
        (Fault.TAMPERED_PACKAGES, "Hash Sum mismatch"),
    ],
    ids=lambda value: value.name if isinstance(value, Fault) else "",
)
def test_apt_refuses_an_index_that_is(fault: Fault, said: str, repository: Repository, apt: Apt) -> None:
    repository.publish(fault)
    updated = apt.update(repository.uri)
    assert updated.returncode != 0
    assert said in updated.stderr
    assert apt.download().returncode != 0


def test_apt_refuses_a_package_that_was_tampered_with(repository: Repository, apt: Apt) -> None:
    repository.publish(Fault.TAMPERED_DEB)
    assert apt.update(repository.uri).returncode == 0
    downloaded = apt.download()
    assert downloaded.returncode != 0
    assert "Hash Sum mismatch" in downloaded.stderr


def test_publishing_again_cures_every_fault(repository: Repository, apt: Apt) -> None:
    for fault in Fault:
        repository.publish(fault)
    repository.publish()
    assert apt.update(repository.uri).returncode == 0
    assert apt.download().returncode == 0


def test_it_serves_over_plain_http(repository: Repository, apt: Apt) -> None:
    with repository.serve() as mirror:
        assert apt.update(mirror.url).returncode == 0
        assert apt.download().returncode == 0
    assert ("/InRelease", 200) in mirror.requests


def test_the_first_requests_fail_for_each_path_by_itself(repository: Repository, apt: Apt) -> None:
    with repository.serve(fail_first=2) as mirror:
        first, second, third = (apt.update(mirror.url) for _ in range(3))
    assert "503" in first.stderr and "503" in second.stderr
    assert third.returncode != 0  # InRelease came at last, and now Packages fails for the first time
    assert [status for path, status in mirror.requests if path == "/InRelease"] == [503, 503, 200]


def test_a_connection_is_cut_in_the_middle_of_a_body(repository: Repository, apt: Apt) -> None:
    assert apt.update(repository.uri).returncode == 0
    with repository.serve(cut=1) as mirror:
        assert apt.update(mirror.url).returncode != 0
    with repository.serve() as mirror:
        assert apt.update(mirror.url).returncode == 0


@pytest.fixture
def namespace() -> Iterator[Path]:
    name = f"standins-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield Path("/run/netns") / name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def test_it_serves_in_the_network_namespace_it_is_given(repository: Repository, namespace: Path) -> None:
    with repository.serve("127.0.0.1", 8099, netns=namespace):
        fetch = [
            "/usr/lib/apt/apt-helper",
            "-oAcquire::Retries=0",
            "download-file",
            "http://127.0.0.1:8099/Release.key",
        ]
        out = str(repository.folder / "fetched")
        outside = subprocess.run([*fetch, out], capture_output=True)
        inside = subprocess.run(["ip", "netns", "exec", namespace.name, *fetch, out], capture_output=True)
    assert outside.returncode != 0
    assert inside.returncode == 0, inside.stderr
    assert Path(out).read_bytes() == repository.key_path.read_bytes()
