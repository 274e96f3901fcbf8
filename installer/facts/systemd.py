"""How systemd reads a service: lines, words, environment, command (systemd.syntax(7), systemd.service(5)).

Text is as `installer.host.decode` gives it. Nothing here reads a file.
"""

import enum
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from installer.errors import RefusedError

WHITESPACE = " \t\n\r"
_END_OF_LINE = re.compile("(?:\r\n|\n\r|[\n\r])\0?|\0")
_C_ESCAPE = re.compile(
    r"""\\(?:(?P<named>[abfnrtv\\"'s])|x(?P<x>[0-9a-fA-F]{2})|u(?P<u>[0-9a-fA-F]{4})"""
    r"""|U(?P<U>[0-9a-fA-F]{8})|(?P<o>[0-7]{3}))"""
)
_NAMED = dict(zip("abfnrtv\\\"'s", "\a\b\f\n\r\t\v\\\"' ", strict=True))
_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>[^:}]*)(?P<end>[:}]|\Z))")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NONCHARACTERS = "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
_INVALID = re.compile(f"[\ud800-\udfff\ufdd0-\ufdef{_NONCHARACTERS}]")


class Escapes(enum.Enum):
    """What a backslash does within words: ExecStart=, Environment=, the value of a `$VARIABLE`."""

    LENIENT = "a C escape; an unknown one stays as written"
    STRICT = "a C escape; an unknown one is an error"
    PLAIN = "the next character stands for itself; an open quote ends with the text"


@dataclass(frozen=True)
class Word:
    """A word; for each of its characters the slice of text that wrote it; its own slice, quotes included."""

    text: str
    spans: tuple[tuple[int, int], ...]
    start: int
    end: int


@dataclass(frozen=True)
class Command:
    """One command of ExecStart=: its line as written, its prefixes, its words before variables are put in."""

    line: str
    prefixes: str
    argv: tuple[str, ...]


@dataclass(frozen=True)
class Argument:
    """A word of the process that is started; `variable` is the `$VARIABLE` that it came from, if any."""

    text: str
    variable: str = ""


@dataclass(frozen=True)
class Service:
    """What a service's files say together. `environment_files` keep their `-`, in order."""

    commands: tuple[Command, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    environment_files: tuple[str, ...] = ()
    unset: tuple[str, ...] = ()


def is_valid(text: str) -> bool:
    """Whether systemd takes the text for UTF-8: no stray bytes, no noncharacters."""
    return _INVALID.search(text) is None


def is_name(text: str) -> bool:
    """Whether it can name an environment variable."""
    return _NAME.fullmatch(text) is not None


def words(text: str, escapes: Escapes) -> Iterator[Word]:
    """Splits as systemd does. Unless PLAIN, raises ValueError at unbalanced quotes or a bad escape."""
    at = 0
    while True:
        while at < len(text) and text[at] in WHITESPACE:
            at += 1
        if at == len(text):
            return
        word = _word(text, at, escapes)
        yield word
        at = word.end


def _word(text: str, start: int, escapes: Escapes) -> Word:
    made: list[str] = []
    spans: list[tuple[int, int]] = []
    at, quote = start, ""
    while at < len(text) and (quote or text[at] not in WHITESPACE):
        char, end = text[at], at + 1
        if char == quote or (not quote and char in "'\""):
            quote, char = ("", "") if quote else (char, "")
        elif char == "\\":
            char, end = _unescape(text, at, escapes, quote)
        made.append(char)
        spans += [(at, end)] * len(char)
        at = end
    if quote and escapes is not Escapes.PLAIN:
        raise ValueError(f"unbalanced quotes: {text[start:]}")
    return Word("".join(made), tuple(spans), start, at)


def _unescape(text: str, at: int, escapes: Escapes, quote: str) -> tuple[str, int]:
    following = text[at + 1 : at + 2]
    if escapes is Escapes.PLAIN:
        return following, at + 1 + len(following)
    match = _C_ESCAPE.match(text, at)
    char = _meant(match) if match else ""
    if match and char:
        return char, match.end()
    if escapes is Escapes.STRICT or (quote and not following):
        raise ValueError(f"bad escape: {text[at:]}")
    return "\\" + following, at + 1 + len(following)


def _meant(match: re.Match[str]) -> str:
    """The character of a C escape; empty where systemd refuses it (NUL, beyond a byte, a surrogate)."""
    if named := match["named"]:
        return _NAMED[named]
    digits, base = (match["o"], 8) if match["o"] else (match["x"] or match["u"] or match["U"], 16)
    code = int(digits, base)
    if match["x"] or match["o"]:
        return "" if code == 0 or code > 0xFF else chr(code) if code < 0x80 else chr(0xDC00 + code)
    return "" if code == 0 or code > 0x10FFFF or 0xD800 <= code <= 0xDFFF else chr(code)


def assignments(text: str) -> Iterator[tuple[str, str, str]]:
    """A unit file's settings as section, key and value, in order, without the lines that systemd ignores."""
    section = ""
    for line in map(_stripped, _joined(text)):
        if not is_valid(line):
            continue
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        elif section and not line.startswith("["):
            key, equals, value = line.partition("=")
            if equals and key:
                yield section, _stripped(key), _stripped(value)


def _joined(text: str) -> Iterator[str]:
    whole, mark = "", "\ufeff"
    for line in _END_OF_LINE.split(text):
        if line.lstrip(WHITESPACE).startswith(("#", ";")):  # within a continued line, too
            continue
        whole += line.removeprefix(mark)
        mark = "" if line.startswith(mark) else mark  # only the first one is taken away
        if (len(whole) - len(whole.rstrip("\\"))) % 2:
            whole = whole[:-1] + " "
            continue
        yield whole
        whole = ""
    yield whole


def _stripped(text: str) -> str:
    return text.strip(WHITESPACE)


def specifiers(text: str, unit: str) -> str:
    """Puts in `%%` and what the unit's name gives; the others (`%H` and so on) stay as written."""
    stem = unit.rpartition(".")[0]
    prefix, _, instance = stem.partition("@")
    known = {"%": "%", "n": unit, "N": stem, "p": prefix, "P": prefix, "i": instance, "I": instance}
    return re.sub("%(.)", lambda m: known.get(m[1], m[0]), text, flags=re.DOTALL)


def service(texts: Iterable[str], unit: str) -> Service:
    """What fragment and drop-ins, in systemd's order, say together. Raises RefusedError on a bad command."""
    commands: list[Command] = []
    environment: dict[str, str] = {}
    files: list[str] = []
    unset: list[str] = []
    for section, key, value in (found for text in texts for found in assignments(text)):
        if section != "Service":
            continue
        if key == "ExecStart":
            commands = commands + list(_commands(value, unit)) if value else []
        elif key == "Environment":
            environment = {**environment, **dict(_environment(value, unit))} if value else {}
        elif key == "EnvironmentFile":
            path = specifiers(value, unit)
            files = files + [path] * path.removeprefix("-").startswith("/") if value else []
        elif key == "UnsetEnvironment":
            unset = unset + [specifiers(w, unit) for w in _strict(value)] if value else []
    return Service(tuple(commands), tuple(environment.items()), tuple(files), tuple(unset))


def _strict(value: str) -> Iterator[str]:
    try:
        for word in words(value, Escapes.STRICT):
            yield word.text
    except ValueError:  # systemd keeps the words before it and ignores the rest
        return


def _environment(value: str, unit: str) -> Iterator[tuple[str, str]]:
    for word in _strict(value):
        name, equals, said = specifiers(word, unit).partition("=")
        if equals and is_name(name) and is_valid(said):
            yield name, said


def _commands(line: str, unit: str) -> Iterator[Command]:
    try:
        found = list(words(line, Escapes.LENIENT))
    except ValueError as error:
        raise RefusedError(
            f"systemd cannot read a command of {unit}",
            where=f"{unit}: ExecStart=",
            found=str(error),
            remedy="close the quotes in the unit's file or drop-in",
        ) from error
    argv: list[str] = []
    for word in found:
        raw = line[word.start : word.end]
        if raw == ";":
            if argv:
                yield _command(line, argv, unit)
            argv = []
        else:
            argv.append(";" if raw == "\\;" else word.text)
    if argv:
        yield _command(line, argv, unit)


def _command(line: str, argv: list[str], unit: str) -> Command:
    first = argv[0].lstrip("-@:+!|")
    prefixes = argv[0][: len(argv[0]) - len(first)]
    rest = argv[1:] if "@" not in prefixes else argv[2:]  # with @, the second word is the name that ps shows
    return Command(line, prefixes, tuple(specifiers(word, unit) for word in [first, *rest]))


def expand(command: Command, environment: Mapping[str, str]) -> tuple[Argument, ...]:
    """The binary, then its arguments: `$NAME` becomes words, `${NAME}` a part of one, what is unset nothing."""
    binary, *words = command.argv
    if ":" in command.prefixes:
        return tuple(Argument(word) for word in command.argv)
    return (Argument(binary), *(made for word in words for made in _expanded(word, environment)))


def _expanded(word: str, environment: Mapping[str, str]) -> Iterator[Argument]:
    if word.startswith("$") and not word.startswith(("${", "$$")):
        for part in words(environment.get(word[1:], ""), Escapes.PLAIN):
            yield Argument(part.text, word[1:])
    else:
        yield Argument(_VARIABLE.sub(lambda match: _within(match, environment), word))


def _within(match: re.Match[str], environment: Mapping[str, str]) -> str:
    if match[0] == "$$":
        return "$"
    return environment.get(match["name"], "") if match["end"] == "}" else match[0]
