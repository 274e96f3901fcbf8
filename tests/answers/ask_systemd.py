"""Asks systemd's own library how it reads odd input, and keeps the answers beside this file.

It needs systemd 252 (Debian 12), whose private library it calls; the tests need only the answers:
`python tests/answers/ask_systemd.py > tests/answers/systemd-252.json`.
"""

import ctypes
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LIBRARY = "/usr/lib/x86_64-linux-gnu/systemd/libsystemd-shared-252.so"
RELAX, CUNESCAPE, UNQUOTE = 1 << 0, 1 << 1, 1 << 5
STRINGS = ctypes.POINTER(ctypes.c_char_p)
PARSER = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint, ctypes.c_char_p, ctypes.c_uint, ctypes.c_char_p,
    ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p,
)  # fmt: skip
LOOKUP = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_void_p),
    ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p,
)  # fmt: skip
FILES = 'A B1 = = = --x " " " " \t \n \n \r\n \r " " \' \\ \\ # ; $ ` é \udcff \ufeff export n x41 \0'
WORDS = "A b --x=1 \t \n \" \" ' ' \\ \\ \\ # ; $ ${A} $A ${B } $$ : é n s x41 xe9 x00 x4 101 777 u00e9 U0001F600 %"
UNITS = (
    "[Service]\n [Unit]\n [X ] ExecStart = = a --x \t \n \n \r\n \r \\ \\\n \\\n # ; \n#c\n \n;c\\\n é \udcff \ufeff \0"
)


def main() -> None:
    """Prints the answers as JSON."""
    answers = {
        "environment": telling([[text, environment(text)] for text in odd(FILES, 24, 3000, "A=")], 250),
        "words": [[text, *split(text)] for text in odd(WORDS, 14, 300)],
        "expand": [[args, value, expand(args, value)] for args, value in commands(150)],
        "unit": telling([[text, unit(text)] for text in odd(UNITS, 24, 5000, "[Service]\n")], 250),
    }
    json.dump(answers, sys.stdout, indent=0, separators=(",", ":"))


def odd(parts: str, length: int, count: int, start: str = "") -> Iterator[str]:
    """Random texts; always the same ones."""
    pool, chance = [*parts.split(" "), " ", " "], random.Random(252)
    for _ in range(count):
        some = pool[: -len(pool) // 10] if chance.random() < 0.8 else pool
        yield start + "".join(chance.choice([*some, " "]) for _ in range(chance.randrange(length)))


def telling(answers: list[list[Any]], count: int) -> list[list[Any]]:
    """Mostly such as hold something."""
    full, empty = [a for a in answers if a[1]], [a for a in answers if not a[1]]
    return full[:count] + empty[: count // 10]


def commands(count: int) -> Iterator[tuple[list[str], str]]:
    """Random command lines, without their binary, and a value for their variable A."""
    texts = [text.replace("\0", "") for text in odd(WORDS, 6, count * 4)]
    for i in range(0, len(texts), 4):
        yield [text for text in texts[i : i + 3] if text], texts[i + 3]


def environment(text: str) -> dict[str, str] | None:
    """The variables of an environment file; None where it is rejected."""
    found = STRINGS()
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(coded(text))
        if library.load_env_file(None, file.name.encode(), ctypes.byref(found)) < 0:
            return None
    kept = strings(library.strv_env_clean_with_callback(found, None, None))
    return dict(each.split("=", 1) for each in kept)


def split(text: str) -> tuple[list[str] | None, list[str] | None, list[str] | None]:
    """The words as a variable's value, as Environment= and as ExecStart= has them; None where that is an error."""
    return words(text, RELAX | UNQUOTE), words(text, CUNESCAPE | UNQUOTE), words(text, CUNESCAPE | UNQUOTE, warn=True)


def words(text: str, flags: int, *, warn: bool = False) -> list[str] | None:
    """One way of splitting."""
    at = ctypes.pointer(ctypes.cast(ctypes.create_string_buffer(coded(text)), ctypes.c_char_p))
    found: list[str] = []
    while True:
        word = ctypes.c_char_p()
        args: list[Any] = [at, ctypes.byref(word), None, flags]
        if warn:
            said = library.extract_first_word_and_warn(*args, None, b"file", 1, coded(text))
        else:
            said = library.extract_first_word(*args)
        if said <= 0:
            return None if said else found
        found.append(text_of(word.value))


def expand(args: list[str], value: str) -> list[str]:
    """The arguments with A put in."""
    given = (ctypes.c_char_p * (len(args) + 2))(b"/bin/k", *map(coded, args), None)
    return strings(library.replace_env_argv(given, (ctypes.c_char_p * 2)(b"A=" + coded(value), None)))


def unit(text: str) -> list[list[str]] | None:
    """The settings of sections Service and Unit; None where the file is rejected."""
    found: list[list[str]] = []

    def parse(*args: Any) -> int:
        found.append([text_of(args[3]), text_of(args[5]), text_of(args[7])])
        return 0

    def look(*args: Any) -> int:
        args[3][0], args[4][0], args[5][0] = ctypes.cast(parser, ctypes.c_void_p).value, 0, None
        return 1

    parser = PARSER(parse)
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(coded(text))
        name = file.name.encode()
        said = library.config_parse(None, name, None, b"Service\0Unit\0", LOOKUP(look), None, 0, None, None)
    return found if said >= 0 else None


def strings(found: Any) -> list[str]:
    """A list of C strings."""
    texts: list[str] = []
    while found and found[len(texts)] is not None:
        texts.append(text_of(found[len(texts)]))
    return texts


def coded(text: str) -> bytes:
    """As a file's bytes."""
    return text.encode("utf-8", "surrogateescape")


def text_of(data: bytes | None) -> str:
    """The way back."""
    return (data or b"").decode("utf-8", "surrogateescape")


library = ctypes.CDLL(LIBRARY)
library.strv_env_clean_with_callback.restype = library.replace_env_argv.restype = STRINGS
library.strv_env_clean_with_callback.argtypes = [STRINGS, ctypes.c_void_p, ctypes.c_void_p]
library.config_parse.argtypes = [
    ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_char_p, LOOKUP, ctypes.c_void_p, ctypes.c_int,
    ctypes.c_void_p, ctypes.c_void_p,
]  # fmt: skip

if __name__ == "__main__":
    main()
