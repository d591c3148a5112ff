import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("*/**/*.md")]
    if not path.relative_to(ROOT).parts[0].startswith(".")
)
RECORDS = sorted((ROOT / "docs" / "decisions").glob("[0-9][0-9][0-9][0-9]-*.md"))
TEMPLATE, *DECISIONS = RECORDS

LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#[^)\s]*)?\)")
HEADING = re.compile(r"^## (.+)$", re.MULTILINE)


def page_name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text()) if link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_page_of_the_documentation_is_in_an_index() -> None:
    indexes = [ROOT / "docs" / "README.md", *(ROOT / "docs").glob("*/README.md")]
    listed = {
        (index.parent / link).resolve()
        for index in indexes
        for link in LINK.findall(index.read_text())
    }
    pages = set((ROOT / "docs").rglob("*.md")) - {indexes[0]}
    assert sorted(page_name(page) for page in pages - listed) == []


def test_decision_records_are_numbered_without_a_gap() -> None:
    numbers = [int(record.name[:4]) for record in RECORDS]
    assert numbers == list(range(len(RECORDS)))


@pytest.mark.parametrize("record", DECISIONS, ids=page_name)
def test_a_decision_record_has_its_number_a_date_a_status_and_the_parts_in_order(
    record: Path,
) -> None:
    text = record.read_text()
    assert text.startswith(f"# {record.name[:4]}: ")
    assert re.search(r"^\* Date: \d{4}-\d{2}-\d{2}$", text, re.MULTILINE)
    assert re.search(
        r"^\* Status: (proposed|accepted|superseded by \[?\d{4}.*)$", text, re.MULTILINE
    )
    assert HEADING.findall(text) == HEADING.findall(TEMPLATE.read_text())
