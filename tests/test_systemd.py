"""systemd's way of reading units and command lines, as its own library does it."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from installer.errors import RefusedError
from installer.facts import systemd
from installer.facts.systemd import Escapes

# What systemd 252 itself answered: tests/answers/ask_systemd.py
ANSWERS = json.loads(Path(__file__).with_name("answers").joinpath("systemd-252.json").read_text("utf-8"))
TEXTS = st.text(st.sampled_from("ab=-$ {}:%;#\\'\"\n\t"), max_size=30)
UNIT = "kubelet.service"


def split(text: str, escapes: Escapes) -> list[str] | None:
    try:
        return [plain(word.text) for word in systemd.words(text, escapes)]
    except ValueError:
        return None


def plain(text: str) -> str:
    """Escaped bytes put together as the characters that they make."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def argv(line: str, **environment: str) -> list[str]:
    (command,) = systemd.service([f"[Service]\nExecStart={line}\n"], UNIT).commands
    return [argument.text for argument in systemd.expand(command, environment)]


def test_words_are_split_as_systemd_splits_them() -> None:
    for text, *answers in ANSWERS["words"]:
        assert [split(text, e) for e in (Escapes.PLAIN, Escapes.STRICT, Escapes.LENIENT)] == answers, text


def test_variables_are_put_in_as_systemd_puts_them() -> None:
    for args, value, answer in ANSWERS["expand"]:
        command = systemd.Command("", "", ("/bin/k", *args))
        assert [a.text for a in systemd.expand(command, {"A": value})] == answer, (args, value)


def test_unit_files_are_read_as_systemd_reads_them() -> None:
    for text, answer in ANSWERS["unit"]:
        if answer is not None:
            found = [list(each) for each in systemd.assignments(text) if each[0] in ("Service", "Unit")]
            assert found == answer, text


def test_a_comment_within_a_continued_line_is_left_out() -> None:
    text = "\ufeff[Service]\r\nExecStart=/k \\\r\n  # not this \\\r\n  --x \\\r\n; nor this\r\n  --y\r\n"
    assert list(systemd.assignments(text)) == [("Service", "ExecStart", "/k    --x    --y")]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/k $A ${A} x${A}y $B ${B}", ["/k", "one", "two", "one two", "xone twoy", ""]),
        ("/k '$A' \"${A}\" $$A $${A} a$A", ["/k", "one", "two", "one two", "$A", "${A}", "a$A"]),
        ("-@/k shown $A", ["/k", "one", "two"]),
        ("+:/k $A ${A}", ["/k", "$A", "${A}"]),
        ("!!/k \\x41\\101\\u0041 'a b' \\q \\;", ["/k", "AAA", "a b", "\\q", ";"]),
        ("/k %n %N %p [%i] %% %H", ["/k", "kubelet.service", "kubelet", "kubelet", "[]", "%", "%H"]),
    ],
)
def test_a_command_line_becomes_the_arguments_that_the_manual_promises(line: str, words: list[str]) -> None:
    assert argv(line, A="one two") == words


def test_quotes_in_a_variable_s_value_hold_words_together() -> None:
    assert argv("/k $A", A="'one two' \"th\"ree fo\\ ur 'five") == ["/k", "one two", "three", "fo ur", "five"]


def test_an_instance_s_name_is_put_in() -> None:
    assert systemd.specifiers("%i of %p is %n", "k@one.service") == "one of k is k@one.service"


def test_an_empty_assignment_resets_and_a_later_file_wins() -> None:
    fragment = (
        '[Service]\nExecStart=/a\nEnvironment=A=1 "B=2 3" C=4\nEnvironmentFile=-/x\nUnsetEnvironment=Q\n'
        "[Install]\nExecStart=/not\n"
    )
    drop_in = "[Service]\nExecStart=\nExecStart=/b\nEnvironment=A=5\nEnvironmentFile=/y\nEnvironmentFile=relative\n"
    merged = systemd.service([fragment, drop_in], UNIT)
    assert [command.line for command in merged.commands] == ["/b"]
    assert dict(merged.environment) == {"A": "5", "B": "2 3", "C": "4"}
    assert merged.environment_files == ("-/x", "/y")
    assert merged.unset == ("Q",)
    reset = systemd.service(
        [fragment, "[Service]\nEnvironment=\nEnvironmentFile=\nExecStart=\nUnsetEnvironment=\n"], UNIT
    )
    assert reset == systemd.Service()


def test_environment_after_a_bad_escape_is_ignored_and_before_it_kept() -> None:
    assert systemd.service(["[Service]\nEnvironment=A=1 B=\\q C=3\n"], UNIT).environment == (("A", "1"),)
    assert systemd.service(["[Service]\nEnvironment=1A=1 A-B=2 =3 D\n"], UNIT).environment == ()


def test_a_line_may_hold_several_commands() -> None:
    found = systemd.service(["[Service]\nExecStart=/a one ; /b \\; two\n"], UNIT).commands
    assert [command.argv for command in found] == [("/a", "one"), ("/b", ";", "two")]


def test_a_command_with_open_quotes_is_refused_by_name() -> None:
    with pytest.raises(RefusedError, match="unbalanced quotes") as refused:
        systemd.service(["[Service]\nExecStart=/a 'one\n"], UNIT)
    assert "kubelet.service" in refused.value.where
    assert refused.value.remedy


@given(TEXTS)
def test_every_character_of_a_word_knows_where_it_was_written(text: str) -> None:
    end = 0
    for word in systemd.words(text, Escapes.PLAIN):
        assert len(word.spans) == len(word.text)
        assert end <= word.start < word.end <= len(text)
        assert all(text[stop - 1] == char for char, (_, stop) in zip(word.text, word.spans, strict=True))
        assert list(word.spans) == sorted(word.spans)
        end = word.end


@given(st.lists(st.text(max_size=8).filter(lambda text: "\0" not in text)))
def test_quoted_words_are_read_as_they_were(words: list[str]) -> None:
    quoted = ['"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"' for word in words]
    for escapes in Escapes:
        assert [word.text for word in systemd.words(" ".join(quoted), escapes)] == words


@given(TEXTS)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = systemd.service([f"[Service]\nExecStart={text}\nEnvironment={text}\nEnvironmentFile={text}"], UNIT)
    except RefusedError:
        return
    for command in found.commands:
        assert systemd.expand(command, dict(found.environment))
