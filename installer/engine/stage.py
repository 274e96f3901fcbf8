"""What is made ready before the first change: verified artifacts on the host."""

from installer import log
from installer.changes import InstallFiles
from installer.changes.artifact import STAGED
from installer.facts import debian, sources
from installer.host import FileState, Host
from installer.journal import STATE
from installer.plan import Plan


def stage(host: Host, plan: Plan) -> None:
    """Brings the archives of the plan to the host, and verifies them there."""
    for item in plan.todo:
        if isinstance(item.change, InstallFiles):
            _bring(host, item.change.sha256)


def sweep(host: Host, keep: set[str]) -> None:
    """Archives of earlier versions go."""
    for name in host.names(STAGED):
        if name not in keep:
            host.remove(f"{STAGED}/{name}")


def _bring(host: Host, digest: str) -> None:
    path = f"{STAGED}/{digest}"
    if not host.exists(path):
        log.get().info("bringing an artifact to the host", sha256=digest)
        host.make_directory(STATE, 0o700)
        host.make_directory(STAGED, 0o700)
        host.replace(path, sources.staged(sources.CACHE / digest), FileState("file", 0o600, 0, 0))
    debian.verify(host.real(path), digest)
