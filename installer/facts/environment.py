"""systemd's environment files (systemd.exec(5), EnvironmentFile=), and the smallest edit of a flag in one.

Text is as `installer.host.decode` gives it, so every byte that is not ours survives.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from installer.errors import RefusedError
from installer.facts import systemd
from installer.facts.systemd import Escapes, Word

_NEWLINE = "\n\r"
_SHELL_SPECIAL = '"\\`$'
# Before version 254 systemd took the line after a comment that ends in a backslash for more of the comment.
_COMMENT_NEW = re.compile(r"[^\n\r]*")
_COMMENT_OLD = re.compile(r"(?:[^\\\n\r]|\\.)*\\?", re.DOTALL)
_KEY = re.compile(r"[^=\n\r]*")
_BLANK = re.compile(r"[ \t]*")
_SEGMENT = {
    "'": re.compile(r"[^']*"),
    '"': re.compile(r"(?:[^\"\\]|\\.)*\\?", re.DOTALL),
    "": re.compile(r"(?:[^\\\n\r]|\\.)*\\?", re.DOTALL),
}
_END = "end"  # a word that quotes left open would swallow
_PLAIN_WORD = re.compile(r"[A-Za-z0-9_./:@=,+-]+")


@dataclass(frozen=True)
class Assignment:
    """A variable's assignment: for each character of its value the slice of the text that wrote it.

    `inside` is where the first character could stand, within the quotes if there are any; `closed` says that
    every quote is; `line` counts from 1.
    """

    name: str
    value: str
    spans: tuple[tuple[int, int], ...]
    inside: int
    closed: bool
    line: int


@dataclass(frozen=True)
class Occurrence:
    """A flag among words: its own word, its value's (the same in the form with `=`), the offset in that."""

    first: int
    last: int
    offset: int


def parse(text: str, *, old: bool = False) -> list[Assignment]:
    """Every assignment of the file, valid name or not, in order; `old` reads as systemd before 254 did."""
    found: list[Assignment] = []
    at = 0
    while at < len(text):
        if text[at] in systemd.WHITESPACE:
            at += 1
        elif text[at] in "#;":
            at = _end(_COMMENT_OLD if old else _COMMENT_NEW, text, at)
        else:
            key = _end(_KEY, text, at + 1)  # a key may start with =, which makes it invalid
            if text[key : key + 1] == "=":
                made, key = _assignment(text, at, key)
                found.append(made)
            at = key
    return found


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at


def _assignment(text: str, start: int, equals: int) -> tuple[Assignment, int]:
    chars: list[tuple[str, tuple[int, int]]] = []
    at, inside, closed = equals + 1, 0, True
    while (at := _end(_BLANK, text, at)) < len(text) and text[at] not in _NEWLINE:
        quote = text[at] if text[at] in "'\"" else ""
        inside = inside or at + len(quote)
        end = _end(_SEGMENT[quote], text, at + len(quote))
        chars += _characters(text, at + len(quote), end, quote)
        closed = text[end : end + len(quote)] == quote
        at = end + len(quote)
    spans = tuple(span for _, span in chars)
    name = text[start:equals].rstrip(systemd.WHITESPACE)
    value = "".join(char for char, _ in chars)
    return Assignment(name, value, spans, inside or equals + 1, closed, _line(text, start)), at


def _characters(text: str, start: int, end: int, quote: str) -> list[tuple[str, tuple[int, int]]]:
    made: list[tuple[str, tuple[int, int]]] = []
    at, kept = start, 0
    while at < end:
        if text[at] == "\\" and quote != "'":
            made += _escaped(text[at + 1 : end][:1], at, quote)
            at, kept = at + 2, len(made)  # white space before an escape is not trailing
        else:
            made.append((text[at], (at, at + 1)))
            at += 1
    while not quote and len(made) > kept and made[-1][0] in systemd.WHITESPACE:
        made.pop()
    return made


def _escaped(char: str, at: int, quote: str) -> list[tuple[str, tuple[int, int]]]:
    if quote and char not in _SHELL_SPECIAL and char != "\n":
        return [("\\", (at, at + 1)), (char, (at + 1, at + 2))]
    gone = not char or char in (_NEWLINE if not quote else "\n")
    return [] if gone else [(char, (at, at + 2))]


def values(text: str, where: str = "the environment file") -> dict[str, str] | None:
    """The variables that systemd takes from the file; None where it rejects the whole file.

    Raises RefusedError where versions of systemd disagree about the file.
    """
    if "\0" in text:
        return None
    new, old = parse(text), parse(text, old=True)
    if [(a.name, a.value) for a in new] != [(a.name, a.value) for a in old]:
        raise RefusedError(
            "a comment ends in a backslash, which continues it in some versions of systemd only",
            where=where,
            found=_backslashed(text),
            remedy="remove the backslash at the end of the comment",
        )
    if not all(systemd.is_valid(a.name) and systemd.is_valid(a.value) for a in new):
        return None
    return {a.name: a.value for a in new if systemd.is_name(a.name)}


def _backslashed(text: str) -> str:
    match = re.search(r"^[ \t]*[#;].*\\$", text, re.MULTILINE)
    return f"line {_line(text, match.start())}: {match[0].strip()}" if match else ""


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def occurrences(words: Sequence[str], flag: str) -> Iterator[Occurrence]:
    """Where the flag stands among words, in both forms; Go's flags take `_` for `-` in names, `--` ends them.

    `last` is beyond the words where the value is missing.
    """
    at = 0
    while at < len(words) and words[at] != "--":
        name, equals, _ = words[at].partition("=")
        found = name.startswith("--") and name[2:].replace("_", "-") == flag
        if found:
            yield Occurrence(at, at if equals else at + 1, len(name) + 1 if equals else 0)
        at += 2 if found and not equals else 1


def set_flag(text: str, variable: str, flag: str, value: str, where: str = "the environment file") -> str:
    """The text with `--flag=value` once, and last, in the variable's list of flags, by the smallest edit.

    Raises RefusedError, naming line and remedy, where that can't be proven by reading the outcome again.
    """
    if not _PLAIN_WORD.fullmatch(value):
        what = f"the value of --{flag} is not a plain word"
        raise RefusedError(what, where=where, found=value, remedy="use a path without special characters")
    if values(text, where) is None:
        raise RefusedError(
            "systemd rejects the file",
            where=where,
            found=_reject(text),
            remedy="remove the bytes that are not UTF-8 text",
        )
    assigned = [a for a in parse(text) if a.name == variable]
    if assigned:
        return _changed(text, assigned[-1], flag, value, where)
    made = _appended(text, f'{variable}="--{flag}={value}"')
    if _reading(made) != [*_reading(text), (variable, (f"--{flag}={value}", _END))]:
        raise _refused(text, _line(text, len(text)), where)
    return made


def _changed(text: str, assigned: Assignment, flag: str, value: str, where: str) -> str:
    words = list(systemd.words(assigned.value, Escapes.PLAIN))
    texts = [word.text for word in words]
    found = list(occurrences(texts, flag))
    wanted = _reading(text)
    if any(each.last == len(words) for each in found) or "--" in texts or not wanted:
        raise _refused(text, assigned.line, where)
    at = max(i for i, (name, _) in enumerate(wanted) if name == assigned.name)
    wanted[at] = (assigned.name, (*_wanted(texts, found, flag, value), _END))
    for whole in (False, True):  # quotes that hold a part of the value only go with its word
        made = text
        for start, end, new in sorted(_edits(assigned, words, found, flag, value, whole=whole), reverse=True):
            made = made[:start] + new + made[end:]
        if _reading(made) == wanted:
            return made
    raise _refused(text, assigned.line, where)


def _wanted(texts: list[str], found: list[Occurrence], flag: str, value: str) -> Iterator[str]:
    """The variable's words as they should be: earlier occurrences gone, the last with the value."""
    gone = {i for each in found[:-1] for i in range(each.first, each.last + 1)}
    for i, word in enumerate(texts):
        if found and i == found[-1].last:
            yield word[: found[-1].offset] + value
        elif i not in gone:
            yield word
    if not found:
        yield f"--{flag}={value}"


def _edits(
    assigned: Assignment, words: list[Word], found: list[Occurrence], flag: str, value: str, *, whole: bool
) -> Iterator[tuple[int, int, str]]:
    """What to replace by what, as slices of the file's text; the flag's `whole` word, or the value in it."""
    if not found:
        end = len(assigned.value)
        glue = " " if words and assigned.value[-1:] not in systemd.WHITESPACE else ""
        yield (*_slice(assigned, end, end), f"{glue}--{flag}={value}")
        return
    for each in found[:-1]:
        if each.first:
            yield (*_slice(assigned, words[each.first - 1].end, words[each.last].end), "")
        else:
            yield (*_slice(assigned, 0, words[each.last + 1].start), "")
    word, offset = words[found[-1].last], found[-1].offset
    if whole:
        yield (*_slice(assigned, word.start, word.end), word.text[:offset] + value)
    elif word.text[offset:] != value:
        yield (*_slice(assigned, *_value_of(word, offset)), value)


def _value_of(word: Word, offset: int) -> tuple[int, int]:
    if offset < len(word.spans):
        return word.spans[offset][0], word.spans[-1][1]
    at = word.spans[-1][1] if word.spans else word.start + 1  # an empty word is a pair of quotes
    return at, at


def _slice(assigned: Assignment, start: int, end: int) -> tuple[int, int]:
    if start < end:
        return assigned.spans[start][0], assigned.spans[end - 1][1]
    at = assigned.spans[start - 1][1] if start else assigned.inside
    return at, at


def _appended(text: str, line: str) -> str:
    newline = "\r\n" if text.count("\r\n") and text.count("\r\n") == text.count("\n") else "\n"
    glue = "" if not text or text.endswith("\n") else newline
    return text + glue + line + newline


def _reading(text: str) -> list[tuple[str, tuple[str, ...]]]:
    """What the file means, its values as words closed by one more; nothing if quotes are open or readings differ."""
    new, old = parse(text), parse(text, old=True)
    if [a.value for a in new] != [a.value for a in old] or not all(a.closed for a in new):
        return []
    return [(a.name, tuple(w.text for w in systemd.words(f"{a.value} {_END}", Escapes.PLAIN))) for a in new]


def _reject(text: str) -> str:
    for line, content in enumerate(text.split("\n"), 1):
        if "\0" in content:
            return f"line {line}: a NUL byte"
    bad = next((a for a in parse(text) if not (systemd.is_valid(a.name) and systemd.is_valid(a.value))), None)
    return f"line {bad.line}: {bad.name!a} is not valid UTF-8" if bad else ""


def _refused(text: str, line: int, where: str) -> RefusedError:
    line = next((a.line for a in parse(text) if not a.closed), line)
    return RefusedError(
        "the flag cannot be set in the file safely", where=f"{where}, line {line}",
        found=ascii(text.split("\n")[line - 1].strip()),
        remedy="write the assignment on one line, in one closed pair of quotes, each flag as --name=value",
    )  # fmt: skip
