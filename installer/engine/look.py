"""The facts of a run: what the host says, what the journal says is ours, what comes from outside."""

import dataclasses

from installer import preflight
from installer.errors import SettingsError
from installer.facts import dkms, gather, sources
from installer.facts.model import Artifact, ArtifactFile, Facts, ModuleSources
from installer.host import Host, encode
from installer.journal import Journal
from installer.preflight import Finding
from installer.settings import Settings, variable
from installer.steps import crio_package, shiftfs
from installer.steps.sysbox import ARTIFACT

DEFAULT_PACKAGE = "/opt/sysbox-deploy/artifacts/sysbox-ce.deb"


def look(host: Host, settings: Settings, journal: Journal, *, control_plane: bool) -> Facts:
    """The host's facts, and ours from the journal."""
    ours = {entry.change.key: entry.change.to_dict() for entry in journal.entries}
    return dataclasses.replace(
        gather.gather(host, preflight.FLAVOUR_UNITS),
        ours=ours,
        control_plane=control_plane,
        drop_ins=sources.drop_ins(settings.crio_drop_ins),
    )


def judge(facts: Facts, settings: Settings, profile: str) -> list[Finding]:
    """Every finding about the node."""
    # Going without is a remedy that these two name.
    without = ("shiftfs", "secure-boot") if settings.shiftfs == "off" else ()
    return preflight.judge(facts, frozenset((*settings.allow, *without)), settings.allow_control_plane, profile)


def refuse(findings: list[Finding]) -> None:
    """Raises RefusedError with every refusing finding."""
    if error := preflight.refused(findings):
        raise error


def with_sources(host: Host, settings: Settings, facts: Facts, profile: str) -> Facts:
    """The facts with the repositories' keys and the artifacts, each verified. May download into our container."""
    artifacts = {ARTIFACT: _sysbox(host, settings, facts)} if profile == "sysbox" else {}
    modules = _shiftfs(settings, facts) if profile == "sysbox" else None
    keys = {} if crio_package.is_adopted(facts) else _keys(host, settings, facts)
    return dataclasses.replace(facts, artifacts=artifacts, keys=keys, shiftfs_sources=modules)


def _keys(host: Host, settings: Settings, facts: Facts) -> dict[str, str]:
    found = {}
    for repository in crio_package.repositories_of(facts, settings):
        allowed = settings.fingerprints or frozenset(repository.fingerprints)
        if not allowed:
            raise SettingsError(
                "the fingerprint of the repository's key is not set",
                where=repository.uri,
                remedy=f"set {variable('crio_key_fingerprint')} to the fingerprint that its publisher names",
            )
        ours = [
            facts.ours.get(f"file:/etc/apt/keyrings/{crio_package.file_name(repository)}.{kind}")
            for kind in ("asc", "gpg")
        ]
        kept = next((str(change["content"]) for change in ours if change), None)
        if kept is not None:
            # A run that changes nothing needs no network.
            sources.check_key(encode(kept), repository.key_uri, allowed)
            found[repository.key_uri] = kept
        else:
            found[repository.key_uri] = sources.key(host, repository.key_uri, allowed)
    return found


def _shiftfs(settings: Settings, facts: Facts) -> ModuleSources | None:
    branch = shiftfs.branch(facts, settings)
    return dkms.sources(f"{settings.shiftfs_sources}/{branch}", shiftfs.MODULE) if branch else None


def _sysbox(host: Host, settings: Settings, facts: Facts) -> Artifact:
    if not settings.sysbox_sha256:
        raise SettingsError(
            "the Sysbox package's digest is not set",
            where=variable("sysbox_sha256"),
            remedy="set it to the SHA-256 that the Sysbox release names",
        )
    ours = facts.ours.get(f"artifact:{ARTIFACT}")
    if ours and ours["sha256"] == settings.sysbox_sha256:
        return _known(ours)
    return sources.artifact(host, settings.sysbox_package or DEFAULT_PACKAGE, settings.sysbox_sha256)


def _known(change: object) -> Artifact:
    """The artifact that is installed, from the journal: nothing is fetched or unpacked again."""
    assert isinstance(change, dict)
    files = tuple(ArtifactFile(path, mode, digest, 0, target) for path, mode, digest, target in change["files"])
    return Artifact("", change["sha256"], change["version"], files, dict(change["texts"]))
