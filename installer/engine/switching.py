"""The runtime switch from the engine's side: prepare, run, resume, confirm; there and back."""

import hashlib
import json
from typing import Any

from installer import __version__, log
from installer.changes import SwitchRuntime
from installer.changes.files import restore, restored
from installer.engine.report import Reporter
from installer.errors import PermanentError, TemporaryError
from installer.facts import kubelet
from installer.facts.model import Facts
from installer.host import FileState, Host, encode
from installer.journal import Entry, Journal
from installer.settings import Settings, variable
from installer.switch import images, move, prepare

_FAILED = "switch-failed"


def refuse_again(journal: Journal, change: SwitchRuntime, settings: Settings, way: str = "there") -> str:
    """The fingerprint of this move. Raises PermanentError where the same failed before: once is enough for a node."""
    failed = journal.notes.get(_FAILED)
    said: Any = [__version__, repr(settings), change.to_dict(), way]
    fingerprint = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    if failed and failed["fingerprint"] == fingerprint:
        raise PermanentError(
            "the move of the kubelet failed, and nothing has changed since; the node serves on the runtime it had",
            where=change.unit,
            found=failed["cause"],
            remedy=f"cure the cause, then set {variable('retry')} to anything new, or use another version",
        )
    return fingerprint


def there(
    host: Host,
    journal: Journal,
    change: SwitchRuntime,
    settings: Settings,
    profile: str,
    facts: Facts,
    report: Reporter,
) -> None:
    """Moves the kubelet to the new runtime. As a pod we are killed in here, and come back through `resume`."""
    attempt = refuse_again(journal, change, settings)
    found = change.capture(host, journal)
    if change.satisfied(facts):
        # Only the record of it, or of its way back, was cut off.
        journal.done(journal.begin("kubelet", change, found, profile), {})
        return
    crictl = prepare.there(host, settings, facts, change, report.node)
    entry = journal.begin("kubelet", change, found, profile)
    original = journal.get(found["state"]["sha256"]) if found["state"] else None
    move.run(host, move.there(change, found, original), settings, crictl, attempt)
    _conclude(host, journal, entry, settings, report)
    refuse_again(journal, change, settings)


def resume(host: Host, journal: Journal, settings: Settings, report: Reporter) -> None:
    """Learns how a move ended that we did not live to see, there or back."""
    images.sweep(host)
    said = move.state(host)
    for entry in journal.entries:
        if said not in ("none", "armed") and isinstance(entry.change, SwitchRuntime):
            log.get().info("an earlier attempt of ours was moving the kubelet", state=said)
            _conclude(host, journal, entry, settings, report)
    move.disarm(host)


def back(host: Host, journal: Journal, entry: Entry, settings: Settings, facts: Facts, report: Reporter) -> list[str]:
    """Moves the kubelet back to where it was; returns what had to stay. As a pod we are killed in here."""
    change = entry.change
    assert isinstance(change, SwitchRuntime)
    if not _is_on(change.new_endpoint, facts):
        # What is left of ours in its file goes.
        kept = restore(host, journal, entry.before, encode(change.content))
        _remove_made(host, entry)
        return kept
    attempt = refuse_again(journal, change, settings, "back")
    crictl = prepare.back(host, settings, facts, change, report.node)
    content, kept = restored(host, journal, entry.before, encode(change.content))
    now = host.read(entry.before["path"])
    like = host.state(entry.before["path"]) or FileState("file", change.mode, change.uid, change.gid)
    want = kubelet.endpoint_with(facts.kubelet, change.path, content) if facts.kubelet else ""
    move.run(host, move.back(change, entry.before, content, now, like, want), settings, crictl, attempt)
    _conclude(host, journal, entry, settings, report)
    refuse_again(journal, change, settings, "back")
    _remove_made(host, entry)
    return kept


def _conclude(host: Host, journal: Journal, entry: Entry, settings: Settings, report: Reporter) -> None:
    """Draws the conclusion from what the host's program left: the journal knows of success, or of the failure."""
    assert isinstance(entry.change, SwitchRuntime)
    move.settle(host, settings)
    if move.state(host) == "committed":
        # Until the cluster sees the node serve, the dead man stays armed: nothing else would take it back.
        report.wait_until_serving("containerd" if entry.state == "undoing" else "cri-o")
        if entry.state == "begun":
            entry.change.verify(host)
        move.confirm(host)
    said = move.state(host)
    if said == "confirmed":
        if entry.state == "begun":
            journal.done(entry, {})
        journal.note(_FAILED, None)
    elif said == "rolled-back":
        _failed(host, journal, entry)
    else:
        where, remedy = move.HOME, "see its log there"
        raise TemporaryError("the host's program did not move the kubelet", where=where, found=said, remedy=remedy)
    move.disarm(host)


def _failed(host: Host, journal: Journal, entry: Entry) -> None:
    """Notes the roll-back and its cause, so that the same is not tried again."""
    cause = move.cause(host)
    log.get().error(f"the kubelet moved back: {cause}; the host's record:\n{move.record(host)}")
    journal.note(_FAILED, {"fingerprint": move.attempt(host), "cause": cause})
    if entry.state == "begun" and entry.finished:
        journal.done(entry, {})  # its original is older than this attempt
    elif entry.state == "begun":
        _remove_made(host, entry)
        journal.undone(entry, [])


def _is_on(endpoint: str, facts: Facts) -> bool:
    """Whether the kubelet runs there, or would if it were started."""
    now = facts.kubelet
    return bool(now and endpoint in (now.endpoint, kubelet.flag(now.process, "container-runtime-endpoint")))


def _remove_made(host: Host, entry: Entry) -> None:
    """The folders that were made for the file."""
    for folder in reversed(entry.before["made"]):
        host.remove_directory(folder)
