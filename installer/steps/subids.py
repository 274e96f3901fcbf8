"""Subordinate ids: one range, the same in both files, that overlaps nobody."""

from installer.changes import OwnLines
from installer.errors import RefusedError
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
    """Our lines stay as they are: pods may run on those ids by now. Where more are wanted, more lines are."""
    ours = {path: _ours(facts, path, user) for path in (UIDS, GIDS)}
    texts = {
        path: _with(_read(facts, path), [*ours[path], *(line for c in planned if c.path == path for line in c.lines)])
        for path in (UIDS, GIDS)
    }
    choice = subids.choose(texts[UIDS], texts[GIDS], _read(facts, LIMITS), user, count, uid=_uid(facts, user))
    lines = {UIDS: (*ours[UIDS], *choice.subuid_lines), GIDS: (*ours[GIDS], *choice.subgid_lines)}
    for path in (UIDS, GIDS):
        if lines[path]:
            yield OwnLines(path, user, lines[path])
    for remark in (*choice.problems, "" if any(lines.values()) else choice.kept):
        if remark:
            yield Nothing(remark)


def _ours(facts: Facts, path: str, user: str) -> tuple[str, ...]:
    lines = facts.ours.get(f"lines:{path}:{user}", {}).get("lines", ())
    return tuple(str(line) for line in lines) if isinstance(lines, list | tuple) else ()


def _with(text: str, lines: list[str]) -> str:
    """The text with those of the lines that it lacks."""
    there = {line.removesuffix("\r") for line in text.split("\n")}
    return subids.append(text, [line for line in lines if line not in there])


def _read(facts: Facts, path: str) -> str:
    """The file's text, none where there is no file. Raises RefusedError."""
    now = facts.files.get(path)
    if now and now.content is None:  # what we can't see could be overlapped
        raise RefusedError(
            "a text file is expected here",
            where=path,
            found=f"{now.size} bytes" if now.kind == "file" else f"a {now.kind}",
            remedy="put a text file below 1 MiB there, or none",
        )
    return now.text if now else ""


def _uid(facts: Facts, user: str) -> int | None:
    """The user's number, by which lines may call it too."""
    passwd = facts.files.get("/etc/passwd")
    for line in passwd.text.split("\n") if passwd else ():
        name, *rest = line.split(":")
        if name == user and len(rest) > 1 and rest[1].isascii() and rest[1].isdigit():
            return int(rest[1])
    return None
