"""Our edit comes out of a text that somebody has changed since: ours goes, theirs stays byte for byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from installer.changes.merge import without

# Few different lines, so that they repeat, and line ends of every kind, the last one missing now and then.
LINES = st.lists(st.sampled_from(["a\n", "b\n", "c\n", "\n", "a\r\n", "b\r", "x\x0cy\n"]), max_size=8)
ENDS = st.sampled_from(["", "a", "end"])
TEXTS = st.tuples(LINES, ENDS).map(lambda parts: "".join(parts[0]) + parts[1])
WHOLE = LINES.map("".join)


def inserted(text: str, at: list[int]) -> str:
    """The text with a line of somebody else's at each of the places."""
    lines = text.splitlines(keepends=True)
    for number, place in enumerate(sorted(at, reverse=True)):
        lines.insert(min(place, len(lines)), f"theirs {number}\n")
    return "".join(lines)


def without_theirs(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("theirs"))


@given(TEXTS, TEXTS)
def test_an_unchanged_text_goes_back_byte_for_byte(original: str, written: str) -> None:
    assert without(written, original, written) == original


@given(WHOLE, WHOLE, st.lists(st.integers(0, 8), max_size=3))
def test_lines_that_somebody_added_stay_and_the_rest_is_the_original(
    original: str, written: str, at: list[int]
) -> None:
    left = without(written, original, inserted(written, at))
    if left is None:  # theirs stand within a piece of ours: a person must look
        assert at
        return
    assert without_theirs(left) == original
    assert [line for line in left.splitlines() if line.startswith("theirs")] == [
        line for line in inserted(written, at).splitlines() if line.startswith("theirs")
    ]


@given(WHOLE, st.sampled_from(["[crio]\nours = 1\n", "ours\n"]), st.booleans())
def test_lines_before_and_after_ours_can_always_be_told_apart(theirs: str, ours: str, first: bool) -> None:
    current = ours + theirs if first else theirs + ours
    assert without(ours, "", current) == theirs
    assert without(ours, "", theirs + ours + theirs) == theirs + theirs


@given(TEXTS, TEXTS, TEXTS)
def test_any_three_texts_are_merged_or_left(written: str, original: str, current: str) -> None:
    left = without(written, original, current)
    if left is not None and written == original:
        assert left == current


@pytest.mark.parametrize(
    ("written", "original", "current", "left"),
    [
        ("a\nours\nb\n", "a\nb\n", "a\nours\nB\n", "a\nB\n"),
        ("a\nours\nb\n", "a\nb\n", "ours\nb\nc\n", "b\nc\n"),
        ("a\nours\nb\n", "a\nb\n", "a\nOURS\nb\n", None),
        ("a\nours\nb\n", "a\nb\n", "", None),
        ("a\nnew\n", "a\nold\n", "a\nnew\ntheirs\n", "a\nold\ntheirs\n"),
        ("one\ntwo\n", "", "one\ntheirs\ntwo\n", None),
        ("one\ntwo\n", "", "two\none\n", None),
        ("", "was\n", "theirs\n", "was\ntheirs\n"),
        ("b\n", "a\nb\n", "theirs\nb\n", None),
        ("a\n", "a\nb\n", "a\ntheirs\n", "a\nb\ntheirs\n"),
        ("a\n", "a\nb\n", "A\n", "A\nb\n"),
        ("a\nours\n", "a", "A\nours\n", None),
        ("ours\r\n", "", "ours\r\ntheirs\r\n", "theirs\r\n"),
    ],
)
def test_what_somebody_did_decides(written: str, original: str, current: str, left: str | None) -> None:
    assert without(written, original, current) == left
