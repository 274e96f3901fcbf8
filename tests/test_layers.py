"""The house's rule: imports run downwards only, and few doors lead out of it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Highest first; what stands in one row does not import its neighbours.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("engine",),
    ("plan", "switch"),
    ("steps", "cluster", "journal"),
    ("preflight", "changes"),
    ("support",),
    ("facts",),
    ("settings",),
    ("host",),
    ("errors", "log"),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
ONLY = {"kubernetes": "cluster", "urllib3": "cluster", "sh": "host", "structlog": "log", "environs": "settings"}


def modules() -> list[Path]:
    return sorted((ROOT / "installer").rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(path: Path) -> str:
    return path.relative_to(ROOT / "installer").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_downwards_only(path: Path) -> None:
    here = layer(path)
    if here == "__init__":
        assert not list(imports(path))
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "installer" or len(parts) < 2 or parts[1] == here or parts[1] == "__version__":
            continue
        assert RANK[parts[1]] > RANK[here], f"{here} must not import {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_each_outside_library_has_one_door(path: Path) -> None:
    for name in imports(path):
        top = name.split(".")[0]
        assert ONLY.get(top, layer(path)) == layer(path), f"{top} is for {ONLY.get(top)} only"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_outgrows_a_screenful_of_screens(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


def test_only_the_host_starts_processes() -> None:
    for path in modules():
        if layer(path) not in ("host", "cli"):
            assert not {"subprocess", "sh", "os.system"} & set(imports(path)), path
