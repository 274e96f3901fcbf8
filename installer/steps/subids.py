"""Subordinate ids: one range, the same in both files, that overlaps nobody."""

from installer.changes import OwnLines
from installer.facts import subids
from installer.facts.model import Facts
from installer.settings import Settings
from installer.steps.base import Nothing, Wanted

PODS = "containers"
MANAGER = "sysbox"
_MANAGER_IDS = 65536  # sysbox-mgr rewrites both files unless its user has exactly one entry of this size
UIDS, GIDS, LIMITS = subids.SUBUID, subids.SUBGID, subids.LOGIN_DEFS


def pods(facts: Facts, settings: Settings) -> Wanted:
    """CRI-O maps pods of Sysbox to the range of user `containers`."""
    yield from _wanted(facts, PODS, settings.subid_count, ())


def manager(facts: Facts, settings: Settings) -> Wanted:
    """sysbox-mgr's own range, beside that of the pods."""
    planned = [change for change in pods(facts, settings) if isinstance(change, OwnLines)]
    yield from _wanted(facts, MANAGER, _MANAGER_IDS, tuple(planned))


def _wanted(facts: Facts, user: str, count: int, planned: tuple[OwnLines, ...]) -> Wanted:
    if all(_enough(facts, path, user, count) for path in (UIDS, GIDS)):
        # Pods may run on our range by now: it stays the same whatever holes there are today.
        for path in (UIDS, GIDS):
            yield OwnLines(path, user, _ours(facts, path, user))
        return
    texts = {path: _text(facts, path, user, planned) for path in (UIDS, GIDS)}
    limits = facts.files[LIMITS].text if LIMITS in facts.files else ""
    choice = subids.choose(texts[UIDS], texts[GIDS], limits, user, count)
    for path, lines in ((UIDS, choice.subuid_lines), (GIDS, choice.subgid_lines)):
        if lines:
            yield OwnLines(path, user, lines)
    for remark in (*choice.problems, choice.kept):
        if remark:
            yield Nothing(remark)


def _ours(facts: Facts, path: str, user: str) -> tuple[str, ...]:
    lines = facts.ours.get(f"lines:{path}:{user}", {}).get("lines", ())
    return tuple(str(line) for line in lines) if isinstance(lines, list | tuple) else ()


def _enough(facts: Facts, path: str, user: str, count: int) -> bool:
    return sum(int(line.split(":")[2]) for line in _ours(facts, path, user)) >= count


def _text(facts: Facts, path: str, user: str, planned: tuple[OwnLines, ...]) -> str:
    """The file as it would be without our lines for this user, and with those that are planned for others."""
    ours = _ours(facts, path, user)
    text = facts.files[path].text if path in facts.files else ""
    text = "".join(line for line in text.splitlines(keepends=True) if line.rstrip("\r\n") not in ours)
    more = [line for change in planned if change.path == path for line in change.lines]
    return subids.append(text, [line for line in more if line not in text.splitlines()])
