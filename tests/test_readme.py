"""README.md says what the code says."""

from tests.readme import README, renewed


def test_what_the_readme_takes_from_the_code_is_up_to_date() -> None:
    text = README.read_text()
    assert text == renewed(text), "write it anew: .venv/bin/python -m tests.readme"
