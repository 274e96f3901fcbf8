"""Builds recipes into the cache: one at a time, visibly, all or nothing."""

import os
import queue
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.components import cache, recipes
from tests.components.recipes import MINOR, Recipe

_HEARTBEAT_S = 10.0


def say(text: str) -> None:
    print(text, flush=True)


def path(name: str, minor: str = MINOR) -> Path:
    """The program's file in the cache, built first if need be."""
    recipe = recipes.find(name, minor)
    ensure([recipe])
    return recipe.home / name


def ensure(wanted: list[Recipe]) -> None:
    """Build those that are not in the cache; two processes never build at once."""
    if all(r.home.is_dir() for r in wanted):
        return
    with cache.locked(cache.root() / "components" / ".lock"):
        missing = [r for r in wanted if not r.home.is_dir()]
        for n, recipe in enumerate(missing, 1):
            _build(recipe, f"[{n}/{len(missing)}] {recipe.product} {recipe.version}")


def _build(recipe: Recipe, label: str) -> None:
    home = recipe.home
    started = time.monotonic()
    say(f"{label}: building {', '.join(recipe.programs)}")
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=".building-") as temporary:
        out = Path(temporary) / "out"
        out.mkdir()
        _go_build(recipe, out, label, started)
        for program, (product, sources) in recipes.C_PROGRAMS.items():
            if product == recipe.product:
                _compile_c(_module_folder(recipe) / sources, out / program)
        out.rename(home)
    say(f"{label}: done in {time.monotonic() - started:.0f} s, {home}")


def _environment(recipe: Recipe) -> dict[str, str]:
    # -mod=readonly: a build never edits the pins. No workspace or vendor folder of a parent joins in.
    return {
        **os.environ,
        "CGO_ENABLED": "1" if recipe.cgo else "0",
        "GOFLAGS": "-mod=readonly -buildvcs=false",
        "GOWORK": "off",
    }


def _go_build(recipe: Recipe, out: Path, label: str, started: float) -> None:
    argv = ["nice", "-n", "5", "go", "build", "-v", "-trimpath", "-ldflags", recipe.ldflags]
    if recipe.tags:
        argv += ["-tags", ",".join(recipe.tags)]
    argv += ["-o", f"{out}/", *recipe.programs.values()]
    with subprocess.Popen(
        argv,
        cwd=recipe.folder,
        env=_environment(recipe),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        tail = _follow(process, label, started)
    if process.returncode:
        raise SystemExit(f"{label}: go build failed ({process.returncode}):\n" + "\n".join(tail))


def _follow(process: subprocess.Popen[str], label: str, started: float) -> list[str]:
    """Say now and then how far the compiler is; the last lines are kept for an error."""
    tail: list[str] = []
    packages = downloads = 0
    said = time.monotonic()
    for line in _lines_or_ticks(process):
        if line is not None:
            tail = [*tail[-20:], line.rstrip()]
            downloads += line.startswith("go: downloading")
            packages += not line.startswith("go: ")
        if time.monotonic() - said >= _HEARTBEAT_S:
            said = time.monotonic()
            say(f"{label}: {downloads} modules fetched, {packages} packages compiled, {said - started:.0f} s")
    return tail


def _lines_or_ticks(process: subprocess.Popen[str]) -> Iterator[str | None]:
    """The process's lines; None once a second while it is silent, so that the caller can show life."""
    lines: queue.Queue[str | None] = queue.Queue()
    stream = process.stdout
    assert stream is not None

    def read() -> None:
        for line in stream:
            lines.put(line)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    while reader.is_alive() or not lines.empty():
        try:
            yield lines.get(timeout=1)
        except queue.Empty:
            yield None


def _module_folder(recipe: Recipe) -> Path:
    answer = subprocess.run(
        ["go", "list", "-m", "-f", "{{.Dir}}", recipe.module],
        cwd=recipe.folder,
        env=_environment(recipe),
        capture_output=True,
        text=True,
        check=True,
    )
    return Path(answer.stdout.strip())


def _compile_c(sources: Path, out: Path) -> None:
    compiler = shutil.which("gcc") or "cc"
    files = sorted(str(f) for f in sources.glob("*.c"))
    subprocess.run([compiler, "-std=c99", "-Os", "-Wall", "-static", "-s", "-o", str(out), *files], check=True)
