"""What README.md takes from the code: `python -m tests.readme` writes it anew."""

from pathlib import Path

from installer import settings

README = Path(__file__).parent.parent / "README.md"
_PARTS = {"settings": settings.table}


def renewed(text: str) -> str:
    """The text with every part between its two marks as the code has it now."""
    for name, make in _PARTS.items():
        begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
        head, _, rest = text.partition(begin)
        _, found, tail = rest.partition(end)
        if not found:
            raise ValueError(f"README.md lacks {begin.strip()} or {end}")
        text = f"{head}{begin}{make()}\n{found}{tail}"
    return text


if __name__ == "__main__":
    README.write_text(renewed(README.read_text()))
