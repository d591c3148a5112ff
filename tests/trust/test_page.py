"""The page about trust promises nothing that is not tested."""

import re
from pathlib import Path

import pytest

from sync.stages import Reason

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "explanation" / "trust.md").read_text()
TESTS = "".join(path.read_text() for path in HERE.glob("test_*.py"))
GUARANTEES = re.findall(r"^(\d+)\. \*\*(.+?)\*\*(.*)", PAGE, re.MULTILINE)


EVERY_TEST = "".join(path.read_text() for path in HERE.parent.rglob("test_*.py"))


@pytest.mark.parametrize(
    ("number", "title", "text"), GUARANTEES, ids=[number for number, *_ in GUARANTEES]
)
def test_every_guarantee_has_a_test_of_its_number_or_names_its_tests(
    number: str, title: str, text: str
) -> None:
    named = re.findall(r"`(test_\w+)`", text)

    assert named or f"def test_{int(number):02}_" in TESTS, title
    assert [name for name in named if f"def {name}(" not in EVERY_TEST] == []


def test_guarantees_are_numbered_without_a_gap() -> None:
    assert [int(number) for number, *_ in GUARANTEES] == list(range(1, 22))


@pytest.mark.parametrize(
    "reason",
    [
        Reason.ROLLBACK,
        Reason.FREEZE,
        Reason.STALE,
        Reason.MIX_AND_MATCH,
        Reason.ENDLESS,
        Reason.WRONG_LENGTH,
        Reason.SLOW,
        Reason.BELOW_THRESHOLD,
        Reason.UNSIGNED,
        Reason.NO_ROOT,
    ],
)
def test_every_reason_of_a_refusal_is_on_the_page_and_tested(reason: Reason) -> None:
    assert f"`{reason.value}`" in PAGE
    assert f"Reason.{reason.name}" in TESTS.replace(f"        Reason.{reason.name},\n", "")
