"""Takes our edit out of a text that somebody has changed since: ours goes, theirs stays."""

from difflib import SequenceMatcher

_LONGEST = 1 << 20  # comparing takes the longer, the more lines repeat


def without(written: str, original: str, current: str) -> str | None:
    """`current` with the edit `original` → `written` reversed; None where theirs and ours can't be told apart.

    All three are texts of lines. Each hunk of ours must stand unchanged and in one piece in `current`.
    """
    if max(len(written), len(original), len(current)) > _LONGEST:
        return None
    ours, before, now = (text.splitlines(keepends=True) for text in (written, original, current))
    place = _places(ours, now)
    out: list[str] = []
    at = 0
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, ours, before, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        span = _span(place, i1, i2, len(ours), len(now))
        if span is None or span[0] < at:
            return None
        out += now[at : span[0]] + before[j1:j2]
        at = span[1]
    return "".join(out + now[at:])


def _places(ours: list[str], now: list[str]) -> dict[int, int]:
    """Where each line of ours stands in the text of now, if it does."""
    place: dict[int, int] = {}
    for block in SequenceMatcher(None, ours, now, autojunk=False).get_matching_blocks():
        place.update({block.a + k: block.b + k for k in range(block.size)})
    return place


def _span(place: dict[int, int], i1: int, i2: int, ours: int, now: int) -> tuple[int, int] | None:
    """The lines of now that are ours i1 to i2; for a pure deletion of ours, the gap where its lines were."""
    if i1 < i2:
        spots = [place.get(i) for i in range(i1, i2)]
        first = spots[0]
        if first is None or spots != list(range(first, first + i2 - i1)):
            return None
        return first, first + i2 - i1
    if i1 == 0:
        return (0, 0) if ours == 0 or place.get(0) == 0 else None
    if i1 - 1 in place:
        spot = place[i1 - 1] + 1
        return spot, spot
    return (now, now) if i1 == ours else None
