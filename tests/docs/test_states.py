"""The diagrams of an install are drawn from the tables that the agent obeys."""

from tests.docs.states import PAGE, drawn, endings, states


def test_the_page_shows_the_tables_as_they_are() -> None:
    text = PAGE.read_text()

    assert drawn(text) == text, "python -m tests.docs.states"


def test_another_table_would_be_noticed() -> None:
    text = PAGE.read_text()

    assert states() in text
    assert endings() in text
    changed = text.replace("trial --> committing: proven", "trial --> committed: proven")
    assert changed != text
    assert drawn(changed) == text
