"""Environment files: read as systemd reads them, changed by as little as can be."""

import json
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from installer.errors import RefusedError
from installer.facts import environment, systemd
from installer.facts.environment import set_flag, values
from installer.facts.systemd import Escapes
from installer.host import decode, encode

# What systemd 252 itself answered: tests/answers/ask_systemd.py
ANSWERS = json.loads(Path(__file__).with_name("answers").joinpath("systemd-252.json").read_text("utf-8"))
FLAG = "container-runtime-endpoint"
OLD, NEW = "unix:///run/containerd/containerd.sock", "unix:///run/crio/crio.sock"
PIECES = (
    "KUBELET_OPTS=", "KUBELET_OPTS=", "X=", "export X=", f"--{FLAG}={OLD}", f"--{FLAG} {OLD}", f"--{FLAG}", NEW,
    "--container_runtime_endpoint=a", "--v=2", "-- ", "--l=a=b,c=d", "--x", " ", " ", "\t", "\n", "\n", "\n", "\r\n",
    '"', '"', "'", "\\", "\\\n", "#", ";", "$", "é", "\udcff", "\0", "\ufeff",
)  # fmt: skip
FILES = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


def words_of(text: str, variable: str = "KUBELET_OPTS") -> list[str]:
    said = values(text)
    assert said is not None
    return [word.text for word in systemd.words(said.get(variable, ""), Escapes.PLAIN)]


def flags_of(words: list[str]) -> list[str]:
    return [words[each.last][each.offset :] for each in environment.occurrences(words, FLAG)]


def same_start(one: str, other: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def test_files_are_read_as_systemd_reads_them() -> None:
    for text, answer in ANSWERS["environment"]:
        try:
            assert values(text) == answer, text
        except RefusedError:  # its versions differ; 252 is of the older kind
            old = {a.name: a.value for a in environment.parse(text, old=True) if systemd.is_name(a.name)}
            assert old == answer, text


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A=1\n  B = two words  \nA=3", {"A": "3", "B": "two words"}),
        ("A=\"one\\\n two\" \n#B=1\n;C=2\n D='x\ny'\n", {"A": "one two", "D": "x\ny"}),
        ("A='one'\"two\" three 'four'", {"A": "onetwothree 'four'"}),
        ('A=one "two"', {"A": 'one "two"'}),
        ("A=one\\\n  two\\ \nB=x \\", {"A": "one  two ", "B": "x "}),
        ('A="\\$x \\y \\" \\` \\\\"\n', {"A": '$x \\y " ` \\'}),
        ("A=1\r\nB=2\rC=3\r\n", {"A": "1", "B": "2", "C": "3"}),
        ("\ufeffA=1\nB=2\n", {"B": "2"}),
        ("export A=1\n1A=2\nA-B=3\n=4\nnothing\nB=2\n", {"B": "2"}),
        ("# \udcff is no harm in a comment\nA=1\n", {"A": "1"}),
        ("A=\udcff\nB=2\n", None),
        ("A=1\0\n", None),
    ],
)
def test_the_syntax_is_the_manual_s(text: str, found: dict[str, str] | None) -> None:
    assert values(text) == found


def test_a_comment_that_versions_read_differently_is_refused_with_its_line() -> None:
    with pytest.raises(RefusedError, match="a comment ends in a backslash") as refused:
        values("A=1\n# see also \\\nB=2\n", "/etc/default/kubelet")
    assert refused.value.found == "line 2: # see also \\"
    assert values("A=1\n# see also \\\n\nB=2\n") == {"A": "1", "B": "2"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (f'KUBELET_OPTS="--v=2 --{FLAG}={OLD} --x"\n', f'KUBELET_OPTS="--v=2 --{FLAG}={NEW} --x"\n'),
        (f"KUBELET_OPTS='--{FLAG} {OLD}'", f"KUBELET_OPTS='--{FLAG} {NEW}'"),
        (f'KUBELET_OPTS=--{FLAG}="{OLD}" --x\n', f'KUBELET_OPTS=--{FLAG}="{NEW}" --x\n'),
        (f"KUBELET_OPTS=\"--{FLAG}='{OLD}'\"\n", f"KUBELET_OPTS=\"--{FLAG}='{NEW}'\"\n"),
        (f'KUBELET_OPTS="--{FLAG}="\n', f'KUBELET_OPTS="--{FLAG}={NEW}"\n'),
        (f"KUBELET_OPTS=\"--{FLAG} ''\"\n", f"KUBELET_OPTS=\"--{FLAG} '{NEW}'\"\n"),
        (f'KUBELET_OPTS="--{FLAG}=a --x --{FLAG} b"\n', f'KUBELET_OPTS="--x --{FLAG} {NEW}"\n'),
        (f'KUBELET_OPTS="--x --{FLAG}=a \\\n  --{FLAG}=b"\n', f'KUBELET_OPTS="--x \\\n  --{FLAG}={NEW}"\n'),
        (f"KUBELET_OPTS=\"--{FLAG} un'ix'\"\n", f'KUBELET_OPTS="--{FLAG} {NEW}"\n'),
        (f"KUBELET_OPTS=\"'--{FLAG}=un'ix --x\"\n", f'KUBELET_OPTS="--{FLAG}={NEW} --x"\n'),
        (f'KUBELET_OPTS="--container_runtime_endpoint={OLD}"', f'KUBELET_OPTS="--container_runtime_endpoint={NEW}"'),
        ('A=1\nKUBELET_OPTS="--v=2"\nB=2\n', f'A=1\nKUBELET_OPTS="--v=2 --{FLAG}={NEW}"\nB=2\n'),
        ("KUBELET_OPTS=--v=2 --x   \r\nB=2\r\n", f"KUBELET_OPTS=--v=2 --x --{FLAG}={NEW}   \r\nB=2\r\n"),
        ('KUBELET_OPTS="--v=2 "', f'KUBELET_OPTS="--v=2 --{FLAG}={NEW}"'),
        ("KUBELET_OPTS=\n", f"KUBELET_OPTS=--{FLAG}={NEW}\n"),
        ('KUBELET_OPTS=""\n', f'KUBELET_OPTS="--{FLAG}={NEW}"\n'),
        ("KUBELET_OPTS= ''\n", f"KUBELET_OPTS= '--{FLAG}={NEW}'\n"),
        ("KUBELET_OPTS=--a\nKUBELET_OPTS=--b\n", f"KUBELET_OPTS=--a\nKUBELET_OPTS=--b --{FLAG}={NEW}\n"),
        ("", f'KUBELET_OPTS="--{FLAG}={NEW}"\n'),
        ("# mine", f'# mine\nKUBELET_OPTS="--{FLAG}={NEW}"\n'),
        ("A=1\r\n", f'A=1\r\nKUBELET_OPTS="--{FLAG}={NEW}"\r\n'),
        ("# \udcff\n", f'# \udcff\nKUBELET_OPTS="--{FLAG}={NEW}"\n'),
        ("export KUBELET_OPTS=--a\n", f'export KUBELET_OPTS=--a\nKUBELET_OPTS="--{FLAG}={NEW}"\n'),
    ],
)
def test_a_flag_is_set_by_the_smallest_edit(old: str, new: str) -> None:
    assert set_flag(old, "KUBELET_OPTS", FLAG, NEW) == new
    assert set_flag(new, "KUBELET_OPTS", FLAG, NEW) == new


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('A=1\nKUBELET_OPTS="--v=2\n', "line 2"),
        ('A="1\n', "line 1"),
        ('KUBELET_OPTS=1\n\nA="1\n', "line 3"),
        ("\n# at its end \\", "line 2"),
        ("KUBELET_OPTS='--a=\"b'\n", "line 1"),
        (f"KUBELET_OPTS=--{FLAG}\n", "line 1"),
        ("KUBELET_OPTS='--a -- b'\n", "line 1"),
        ("\nKUBELET_OPTS=--a\\\\\n", "line 2"),
    ],
)
def test_what_cannot_be_changed_safely_is_refused_with_its_line(text: str, where: str) -> None:
    with pytest.raises(RefusedError) as refused:
        set_flag(text, "KUBELET_OPTS", FLAG, NEW, "/etc/default/kubelet")
    assert refused.value.where == f"/etc/default/kubelet, {where}"
    assert refused.value.remedy


@pytest.mark.parametrize(
    ("text", "found"), [("A=1\nB=\0\n", "line 2: a NUL byte"), ("\nA=\udcff", "line 2: 'A' is not valid UTF-8")]
)
def test_a_file_that_systemd_rejects_is_refused_with_its_line(text: str, found: str) -> None:
    with pytest.raises(RefusedError, match="systemd rejects the file") as refused:
        set_flag(text, "KUBELET_OPTS", FLAG, NEW)
    assert refused.value.found == found


@pytest.mark.parametrize("value", ["", "a b", 'a"b', "$HOME", "%i", "a;b", "é"])
def test_a_value_that_is_not_a_plain_word_is_refused(value: str) -> None:
    with pytest.raises(RefusedError, match="not a plain word"):
        set_flag("", "KUBELET_OPTS", FLAG, value)


@given(FILES)
@example(f'A=1\nKUBELET_OPTS="--{FLAG}={OLD} --x"')
def test_whatever_is_in_the_file_the_flag_wins_and_the_rest_stays(text: str) -> None:
    try:
        made = set_flag(text, "KUBELET_OPTS", FLAG, NEW)
    except RefusedError as refused:
        assert refused.where
        assert refused.remedy
        return
    assert flags_of(words_of(made)) == [NEW]
    assert set_flag(made, "KUBELET_OPTS", FLAG, NEW) == made
    before, after = values(text), values(made)
    assert before is not None
    assert after is not None
    assert {**before, "KUBELET_OPTS": ""} == {**after, "KUBELET_OPTS": ""}
    assert decode(encode(made)) == made


@given(FILES)
def test_other_bytes_of_the_file_stay(text: str) -> None:
    try:
        made = set_flag(text, "KUBELET_OPTS", FLAG, NEW)
    except RefusedError:
        return
    assume(len(flags_of(words_of(text))) < 2)
    start = same_start(text, made)
    kept = same_start(text[start:][::-1], made[start:][::-1])
    if gone := text[start : len(text) - kept]:
        assigned = [a for a in environment.parse(text) if a.name == "KUBELET_OPTS"][-1]
        assert assigned.spans[0][0] - 1 <= start
        assert start + len(gone) <= assigned.spans[-1][1] + 1


@given(st.lists(st.sampled_from(["--a", "--b=c d", "--e='f g'", f"--{FLAG}={OLD}", f"--{FLAG}", "-v", "é"])))
def test_lists_of_flags_of_every_kind_are_changed_and_not_refused(flags: list[str]) -> None:
    assume(flags[-1:] != [f"--{FLAG}"])
    made = set_flag(f'# \nKUBELET_OPTS="{" ".join(flags)}"\n', "KUBELET_OPTS", FLAG, NEW)
    assert flags_of(words_of(made)) == [NEW]


@given(st.text(max_size=40))
def test_any_text_is_read_with_places_that_are_true(text: str) -> None:
    for assigned in environment.parse(text):
        assert len(assigned.spans) == len(assigned.value)
        assert all(text[end - 1] == char for char, (_, end) in zip(assigned.value, assigned.spans, strict=True))
        assert text.split("\n")[assigned.line - 1] or not assigned.name
