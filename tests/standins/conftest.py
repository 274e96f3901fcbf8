"""What the tests of Sysbox's programs share."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.standins.root import Root
from tests.standins.sysbox import build_programs


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs, compiled."""
    folder = tmp_path_factory.mktemp("programs")
    build_programs(folder, "0.7.0")
    return folder


@pytest.fixture
def root(programs: Path) -> Iterator[Root]:
    """A root directory with the programs."""
    # /tmp may be a tmpfs, which sysbox-mgr refuses to keep its data on.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        made = Root(Path(folder) / "root")
        shutil.copytree(programs, made / "usr/bin", dirs_exist_ok=True)
        yield made
