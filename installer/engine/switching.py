"""The runtime switch from the engine's side: prepare, run, resume, confirm; there and back."""

import hashlib
import json
from typing import Any

from installer import __version__, log
from installer.changes import SwitchRuntime
from installer.changes.files import restore, restored
from installer.engine.report import Reporter
from installer.errors import PermanentError
from installer.facts import kubelet
from installer.facts.model import Facts
from installer.host import FileState, Host
from installer.journal import Entry, Journal
from installer.settings import Settings
from installer.switch import cri, images, move

_FAILED = "switch-failed"
_READY_SECONDS = 180


def fingerprint(change: SwitchRuntime, settings: Settings) -> str:
    """What a failed move depends on: our version, the settings, the move itself."""
    said: Any = [__version__, repr(settings), change.to_dict()]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def refuse_again(journal: Journal, change: SwitchRuntime, settings: Settings) -> None:
    """Raises PermanentError where the same move failed before: the node is not taken down again and again."""
    failed = journal.notes.get(_FAILED)
    if failed and failed["fingerprint"] == fingerprint(change, settings):
        raise PermanentError(
            "the move of the kubelet failed before, and nothing has changed since",
            where=change.unit,
            found=failed["cause"],
            remedy="cure the cause, then change a setting (SYSBOX_DEPLOY_RETRY=anything new), or use another version",
        )


def there(
    host: Host,
    journal: Journal,
    change: SwitchRuntime,
    settings: Settings,
    profile: str,
    facts: Facts,
    report: Reporter,
) -> Entry:
    """Moves the kubelet to the new runtime. As a pod we are killed in here, and come back through `resume`."""
    refuse_again(journal, change, settings)
    crictl = cri.find(host, facts.commands)
    cri.wait_ready(host, crictl, change.new_endpoint, _READY_SECONDS)
    images.carry(host, settings, crictl, change.old_endpoint, change.new_endpoint, facts.containerd.root, [])
    found = change.capture(host, journal)
    entry = journal.begin("kubelet", change, found, profile)
    original = journal.get(found["state"]["sha256"]) if found["state"] else None
    move.run(host, move.there(change, found, original), settings, crictl)
    return _ended(host, journal, entry, settings, report)


def resume(host: Host, journal: Journal, settings: Settings, report: Reporter) -> None:
    """Learns how a move ended that we did not live to see, there or back. Raises PermanentError on a roll-back."""
    for entry in journal.entries:
        if isinstance(entry.change, SwitchRuntime) and entry.state in ("begun", "undoing"):
            move.wait(host, settings)
            if move.state(host) not in ("none", "confirmed"):
                log.get().info("an earlier attempt of ours was moving the kubelet", state=move.state(host))
                _ended(host, journal, entry, settings, report)


def back(host: Host, journal: Journal, entry: Entry, settings: Settings, facts: Facts, report: Reporter) -> list[str]:
    """Moves the kubelet back to where it was; returns what had to stay. As a pod we are killed in here."""
    change = entry.change
    assert isinstance(change, SwitchRuntime)
    if move.state(host) == "confirmed" or not change.satisfied(facts):
        return _clear(host, journal, entry)
    crictl = cri.find(host, facts.commands)
    cri.wait_ready(host, crictl, change.old_endpoint, _READY_SECONDS)
    content, kept = restored(host, journal, entry.before, change.content.encode("utf-8", "surrogateescape"))
    now = host.read(entry.before["path"])
    like = host.state(entry.before["path"]) or FileState("file", change.mode, change.uid, change.gid)
    want = kubelet.endpoint_with(facts.kubelet, entry.before["path"], content) if facts.kubelet else ""
    move.run(host, move.back(change, entry.before, content, now, like, want), settings, crictl)
    _ended(host, journal, entry, settings, report)
    return kept


def _ended(host: Host, journal: Journal, entry: Entry, settings: Settings, report: Reporter) -> Entry:
    """Draws the conclusion from what the host's program left."""
    change = entry.change
    assert isinstance(change, SwitchRuntime)
    said = move.state(host)
    if said == "committing":
        # A power cut: whichever of the two the node booted into counts.
        said = "committed" if _moved(host, change) == (entry.state == "begun") else "armed"
    if said == "committed":
        # Until the cluster sees the node serve, the dead man stays armed: nothing else would take it back.
        report.wait_until_serving("cri-o" if entry.state == "begun" else "containerd")
        if entry.state == "begun":
            change.verify(host)
            move.confirm(host)
            journal.done(entry, {})
        else:
            move.confirm(host)
        journal.note(_FAILED, None)
        return entry
    cause = move.cause(host)
    move.disarm(host)
    if said == "rolled-back":
        if entry.state == "begun":
            journal.note(
                _FAILED,
                {
                    "fingerprint": fingerprint(change, settings),
                    "cause": cause.splitlines()[0] if cause else "",
                },
            )
            journal.undone(entry, [])
        raise PermanentError(
            "the kubelet did not get healthy on the other runtime; the node serves on the one it had",
            where=change.unit,
            found=cause,
            remedy="cure the cause above, then change a setting (SYSBOX_DEPLOY_RETRY=anything new) to try again",
        )
    return entry


def _moved(host: Host, change: SwitchRuntime) -> bool:
    now = kubelet.gather(host)
    return bool(now and now.endpoint == change.new_endpoint)


def _clear(host: Host, journal: Journal, entry: Entry) -> list[str]:
    """The kubelet is off the new runtime already; what is left of ours in its file goes."""
    move.disarm(host)
    content = entry.change.to_dict()["content"].encode("utf-8", "surrogateescape")
    return restore(host, journal, entry.before, content)
