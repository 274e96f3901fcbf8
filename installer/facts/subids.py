"""Subordinate ids: what /etc/subuid and /etc/subgid hold, and where a range for the pods fits. Pure.

CRI-O gives a pod the lowest free ids of all its user's entries, uids and gids each by themselves, while
Sysbox wants one contiguous range that is the same for both. So the user's ids must be equal in both files,
and an entry that is no multiple of a pod's ids may tear a pod's range apart.
"""

import dataclasses
import re
from collections.abc import Iterable

from installer.errors import RefusedError
from installer.settings import variable

SUBUID = "/etc/subuid"
SUBGID = "/etc/subgid"
LOGIN_DEFS = "/etc/login.defs"
POD_IDS = 65536
_LIMITS = (100000, 600100000)  # shadow's defaults of SUB_UID_MIN and SUB_UID_MAX, and of the same for gids
_LAST_ID = 2**32 - 2  # (uid_t)-1 is no id

Range = tuple[int, int]
"""First id, and the one after the last."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line, counted from 1. `owner` is a user's name or uid; `clear` if every program reads it alike."""

    line: int
    owner: str
    start: int
    count: int
    clear: bool = True

    @property
    def range(self) -> Range:
        """Its ids."""
        return self.start, self.start + self.count


@dataclasses.dataclass(frozen=True)
class Choice:
    """The user's ids, the same in both files, and the lines to append to each for that (none: nothing to do).

    `problems` is what a person ought to correct in the files, `kept` why what was there stays.
    """

    ranges: tuple[Range, ...]
    subuid_lines: tuple[str, ...] = ()
    subgid_lines: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    kept: str = ""


def parse(text: str, path: str) -> tuple[list[Entry], list[str]]:
    """The entries, and for each malformed line what is wrong. Blank lines and comments are neither."""
    entries: list[Entry] = []
    problems: list[str] = []
    # splitlines would break at form feeds too, and the numbers would not be an editor's.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            entry, problem = _entry(line, number)
            entries += [entry] if entry else []
            problems += [f"{path} line {number}: {problem}; left as it is: {line[:80]!a}"] if problem else []
    return entries, problems


def choose(
    subuid_text: str, subgid_text: str, login_defs_text: str, user: str, count: int, *, uid: int | None = None
) -> Choice:
    """The same ids, `count` at least, for `user`, whose uid in passwd is `uid`, in both files.

    What the user has stays. Raises RefusedError where there is no room, or where the user's entries can't be
    made the same in both files.
    """
    uids, uid_problems = parse(subuid_text, SUBUID)
    gids, gid_problems = parse(subgid_text, SUBGID)
    own_uids, own_gids = _owned(uids, user, uid), _owned(gids, user, uid)
    more_uids, more_gids = _without(own_gids, own_uids), _without(own_uids, own_gids)
    _refuse_taken(more_uids, uids, SUBUID, SUBGID, user)
    _refuse_taken(more_gids, gids, SUBGID, SUBUID, user)
    have = _union(own_uids + own_gids)
    new = _further(have, _union(e.range for e in uids + gids), count, _limits(login_defs_text))
    ranges = _union(have + new)
    problems = uid_problems + gid_problems + _bad(ranges, user)
    problems += _shared(uids, SUBUID, user, uid) + _shared(gids, SUBGID, user, uid)
    kept = f"{user} has {_size(have)} ids already" if have else ""
    lines = _lines(user, more_uids + new), _lines(user, more_gids + new)
    return Choice(tuple(ranges), *lines, tuple(problems), kept)


def append(text: str, lines: Iterable[str]) -> str:
    """The text with the lines at its end; a last line that lacks its newline gets one.

    Ours end in a bare newline even after lines with CRLF: shadow reads no number before a carriage return.
    """
    added = "".join(f"{line}\n" for line in lines)
    return text + ("\n" if added and text and not text.endswith("\n") else "") + added


def _entry(line: str, number: int) -> tuple[Entry | None, str]:
    """The entry in a line, and what is wrong with it; ids that a program may read there count as taken."""
    fields = line.strip().split(":")
    if len(fields) != 3:
        return None, f"{len(fields)} fields instead of 3, for which CRI-O may refuse the whole file"
    start, count = _number(fields[1]), _number(fields[2])
    if not fields[0] or start is None or count is None:
        return None, "not USER:START:COUNT"
    entry = Entry(number, fields[0], start, count)
    if fields[1:] != [str(start), str(count)]:
        return dataclasses.replace(entry, clear=False), "numbers that not every program reads alike"
    if start + count > _LAST_ID + 1:
        return dataclasses.replace(entry, clear=False), "it goes past the last id"
    return entry, "white space around it, for which shadow ignores it" if line != line.strip() else ""


def _number(text: str) -> int | None:
    """A number as shadow reads it: decimal, octal after 0, hexadecimal after 0x."""
    for pattern, base in ((r"0|[1-9][0-9]{0,18}", 10), (r"0[0-7]{1,18}", 8), (r"0[xX][0-9a-fA-F]{1,16}", 16)):
        if re.fullmatch(pattern, text):
            return int(text, base)
    return None


def _owned(entries: list[Entry], user: str, uid: int | None) -> list[Range]:
    mine = [e for e in entries if _is_of(e, user, uid) and e.clear]
    return _union(e.range for e in mine)


def _is_of(entry: Entry, user: str, uid: int | None) -> bool:
    return entry.owner == user or (uid is not None and entry.owner == str(uid))


def _refuse_taken(more: list[Range], entries: list[Entry], path: str, other: str, user: str) -> None:
    for wanted in more:
        for entry in entries:
            if _overlap(wanted, entry.range):
                raise RefusedError(
                    f"{user} has ids in {other} that are another's in {path}, and needs the same in both",
                    where=f"{path} line {entry.line}",
                    found=f"{entry.owner}:{entry.start}:{entry.count}",
                    remedy=f"give {user} the same free ids in both files, or take its line out of {other}",
                )


def _further(have: list[Range], taken: list[Range], count: int, limits: Range) -> list[Range]:
    """The range that is missing: right after what the user has, if that is free, else in the lowest hole."""
    missing = count - _size(have)
    if missing <= 0:
        return []
    for _, end in reversed(have):
        if _fits((end, end + missing), taken, limits):
            return [(end, end + missing)]
    size = -(-missing // POD_IDS) * POD_IDS if have else missing
    for start in [limits[0], *(end for _, end in taken)]:
        if _fits((start, start + size), taken, limits):
            return [_refuse_torn(have, (start, start + size))]
    raise RefusedError(
        f"no {size} ids in a row are free in {SUBUID} and {SUBGID}",
        where=LOGIN_DEFS,
        found=f"SUB_UID_MIN, SUB_GID_MIN to SUB_UID_MAX, SUB_GID_MAX: {limits[0]} to {limits[1] - 1}",
        remedy=f"raise SUB_UID_MAX and SUB_GID_MAX (up to {_LAST_ID}), or ask for fewer ids"
        f" ({variable('subid_count')})",
    )


def _refuse_torn(have: list[Range], new: Range) -> Range:
    for start, end in _union([*have, new])[:-1]:
        if (end - start) % POD_IDS:
            raise RefusedError(
                "the user's ids can't be extended: a pod would get ids from two places, which Sysbox refuses",
                where=f"{SUBUID} and {SUBGID}",
                found=f"{end - start} ids from {start} on, no multiple of {POD_IDS}; the next ones are taken",
                remedy=f"make them a multiple of {POD_IDS}, or take the entry out: a new one is then chosen",
            )
    return new


def _limits(login_defs: str) -> Range:
    """The ids that login.defs lets users have."""
    told: dict[str, int] = {}
    for number, line in enumerate(login_defs.split("\n"), 1):
        words = line.split()
        if len(words) > 1 and words[0] in ("SUB_UID_MIN", "SUB_UID_MAX", "SUB_GID_MIN", "SUB_GID_MAX"):
            value = _number(words[1]) if len(words) == 2 else None
            if value is None:
                raise RefusedError(
                    f"{words[0]} is not a number",
                    where=f"{LOGIN_DEFS} line {number}",
                    found=repr(line[:80]),
                    remedy="correct it, or take it out",
                )
            told[words[0]] = value
    low = max(told.get(name, _LIMITS[0]) for name in ("SUB_UID_MIN", "SUB_GID_MIN"))
    high = min(told.get(name, _LIMITS[1]) for name in ("SUB_UID_MAX", "SUB_GID_MAX"))
    return low, min(high, _LAST_ID) + 1


def _shared(entries: list[Entry], path: str, user: str, uid: int | None) -> list[str]:
    mine = [e for e in entries if _is_of(e, user, uid)]
    others = [e for e in entries if not _is_of(e, user, uid)]
    shared = [(m, o) for m in mine for o in others if _overlap(m.range, o.range)]
    what = f"{user} shares ids, so that its pods may reach files of"
    return [f"{path} line {m.line}: {what} {o.owner} (line {o.line})" for m, o in shared]


def _bad(ranges: list[Range], user: str) -> list[str]:
    bad = [
        f"{user}: {end - start} ids from {start} on are no multiple of {POD_IDS}, so that a pod may get"
        " ids from two places, which Sysbox refuses"
        for start, end in ranges[:-1]
        if (end - start) % POD_IDS
    ]
    if ranges and ranges[0][0] == 0:
        bad.append(f"{user}: its ids include 0, the host's root, which Sysbox refuses")
    return bad


def _lines(user: str, ranges: list[Range]) -> tuple[str, ...]:
    return tuple(f"{user}:{start}:{end - start}" for start, end in ranges)


def _fits(wanted: Range, taken: list[Range], limits: Range) -> bool:
    return limits[0] <= wanted[0] and wanted[1] <= limits[1] and not any(_overlap(wanted, r) for r in taken)


def _overlap(a: Range, b: Range) -> bool:
    return max(a[0], b[0]) < min(a[1], b[1])


def _size(ranges: Iterable[Range]) -> int:
    return sum(end - start for start, end in ranges)


def _union(ranges: Iterable[Range]) -> list[Range]:
    """The same ids in ascending order, neighbours joined."""
    out: list[Range] = []
    for start, end in sorted(r for r in ranges if r[0] < r[1]):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return out


def _without(ranges: list[Range], others: list[Range]) -> list[Range]:
    """The ids of `ranges` that are not in `others`."""
    for start, end in others:
        parts = [part for r in ranges for part in ((r[0], min(r[1], start)), (max(r[0], end), r[1]))]
        ranges = [part for part in parts if part[0] < part[1]]
    return ranges
