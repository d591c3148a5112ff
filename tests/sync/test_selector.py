import pytest

from sync.selector import LABELS_MAX, SELECTOR_CHARACTERS_MAX, BadSelector, matches, parse_selector

LABELS = {"site": "s7", "class": "pump"}


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("", True),
        ("  ", True),
        ("site=s7", True),
        (" site = s7 ", True),
        ("site=s7,class=pump", True),
        ("site=s8", False),
        ("site=s7,class=valve", False),
        ("site!=s8", True),
        ("site!=s7", False),
        ("floor=2", False),
        ("floor!=2", True),
        ("floor=", False),
    ],
)
def test_a_device_is_meant_if_every_term_holds(text: str, *, meant: bool) -> None:
    assert matches(text, LABELS) is meant


@pytest.mark.parametrize(
    "text",
    [
        *("site", "=s7", "site==s7", "site=s7,", ",", "Site=s7", "site=s 7", "site=s7;class=pump"),
        *("site=\u00e9", "a" * 64 + "=1", "site=" + "x" * 64, "site=s7\n,"),
        "x" * (SELECTOR_CHARACTERS_MAX + 1),
    ],
)
def test_anything_else_is_no_selector(text: str) -> None:
    with pytest.raises(BadSelector):
        matches(text, LABELS)


def test_a_selector_has_a_bounded_number_of_terms() -> None:
    assert len(parse_selector(",".join(["a=1"] * LABELS_MAX))) == LABELS_MAX
    with pytest.raises(BadSelector, match="terms"):
        parse_selector(",".join(["a=1"] * (LABELS_MAX + 1)))


def test_the_term_at_fault_is_named() -> None:
    with pytest.raises(BadSelector, match="'clas pump'"):
        parse_selector("site=s7,clas pump")
