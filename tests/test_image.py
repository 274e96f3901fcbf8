"""The image is made of locked parts only."""

import hashlib
import re
from pathlib import Path

import pytest

from image.build import stage

ROOT = Path(__file__).parent.parent
LOCKS = [ROOT / "image/requirements.lock", ROOT / "image/pip.lock", ROOT / "tests/requirements.lock"]


def pins(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==(\S+)", lock.read_text(), re.MULTILINE))


def test_tests_run_with_the_versions_that_the_image_has() -> None:
    assert pins(LOCKS[0]).items() <= pins(LOCKS[2]).items()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: str(lock.relative_to(ROOT)))
def test_every_requirement_is_locked_by_hash_and_no_registry_is_named(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    requirements = re.split(r"\n(?=\w)", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).strip())
    assert all(re.match(r"[\w.-]+==\S+ \\\n +--hash=sha256:[0-9a-f]{64}", r) for r in requirements)


def test_an_artifact_with_another_digest_than_the_locked_one_is_refused(tmp_path: Path) -> None:
    given, lock = tmp_path / "given", tmp_path / "lock"
    (given / "sub").mkdir(parents=True)
    (given / "crictl").write_bytes(b"good")
    (given / "sub" / "other").write_bytes(b"anything")
    digest = hashlib.sha256(b"good").hexdigest()
    lock.write_text(f'[[artifact]]\nname = "crictl"\narch = "amd64"\nsha256 = "{digest}"\n')

    stage(tmp_path / "out", given, "amd64", lock)
    assert (tmp_path / "out" / "crictl").read_bytes() == b"good"
    assert (tmp_path / "out" / "sub" / "other").exists()

    (given / "crictl").write_bytes(b"bad")
    with pytest.raises(SystemExit, match=digest):
        stage(tmp_path / "out", given, "amd64", lock)
    stage(tmp_path / "out", given, "arm64", lock)
