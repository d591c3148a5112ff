import json

import pytest

from hub.labels import groups_of, labels_of, plain


def _facts(**facts: object) -> dict[str, str]:
    return {name: json.dumps(value) for name, value in facts.items()}


def test_plain_facts_are_labels_and_the_labels_a_person_gave_prevail() -> None:
    facts = _facts(site="s7", room=12, on=True, list=[1], labels={"site": "s8", "owner": "x"})
    assert labels_of(facts) == {"site": "s8", "room": "12", "on": "true", "owner": "x"}


@pytest.mark.parametrize("value", ["{", "[]", "7", "null", '"x"', ""])
def test_labels_that_cannot_be_read_are_none(value: str) -> None:
    assert "site" not in labels_of({"labels": value})


def test_a_device_that_names_no_groups_is_in_all() -> None:
    assert groups_of({}) == ("all",)
    assert groups_of(_facts(groups="all")) == ("all",)
    assert groups_of(_facts(groups=["east", "all", 7, "NOT VALID"])) == ("east", "all")
    assert groups_of(_facts(groups=[])) == ()


def test_a_value_is_shown_as_what_it_stands_for_or_as_its_text() -> None:
    assert plain('{"a": 1}') == {"a": 1}
    assert plain("{") == "{"
    assert plain(None) is None
    assert plain("null") is None
