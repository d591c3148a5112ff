"""Flags: what a definition must hold, and what it comes to."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.flags import HASH, BadFlag, Why, check_flag_key, evaluate, parse_flag, safely
from sync.records import DEFINITION_BYTES_MAX

METADATA = {
    "owner": "fleet-core",
    "cleanup": "FLEET-412",
    "expires": "2027-02-01",
    "lease_s": 86_400,
    "safe": "off",
    "hash": HASH,
}


def definition(**changes: Any) -> dict[str, Any]:
    """Return a flag that is valid but for `changes`."""
    flag: dict[str, Any] = {
        "state": "ENABLED",
        "variants": {"on": True, "off": False},
        "defaultVariant": "on",
        "metadata": METADATA,
    }
    return {**flag, **changes}


def with_metadata(**changes: Any) -> dict[str, Any]:
    """Return a flag whose metadata is changed; None takes a field away."""
    metadata = {**METADATA, **changes}
    return definition(metadata={k: v for k, v in metadata.items() if v is not None})


def test_a_definition_is_read_with_its_fields() -> None:
    flag = parse_flag(json.dumps(with_metadata(guard="human-fallback")))
    assert (flag.is_enabled, flag.default_variant, flag.safe) == (True, "on", "off")
    assert (flag.owner, flag.cleanup, flag.lease_s) == ("fleet-core", "FLEET-412", 86_400)
    assert flag.expires.isoformat() == "2027-02-01"
    assert flag.metadata["guard"] == "human-fallback"


WRONG: list[tuple[dict[str, Any], str]] = [
    (definition(state="OFF"), "state must be ENABLED or DISABLED"),
    (definition(variants={}), "variants must be an object"),
    (definition(variants={"on": 1, "off": "x"}), "different types, number and string"),
    (definition(variants={"on": None}), "must be a boolean, a number"),
    (definition(variants={"a b": True}), "cannot name a variant"),
    (definition(variants={"on": 1e400, "off": 1}), "is no JSON|beyond|no number"),
    (definition(defaultVariant="blue"), "defaultVariant must name one of the variants: on, off"),
    (definition(defaultVariant=None), "defaultVariant must name one"),
    (definition(owner="x"), "belong into metadata"),
    (definition(metadata=None), "metadata must be an object with owner, cleanup"),
    (with_metadata(safe="blue"), "metadata.safe must name one of the variants"),
    (with_metadata(hash="flagd-fractional-v2"), "devices deal out by flagd-fractional-v3 alone"),
    (with_metadata(expires="next week"), "write a day, 2027-02-01"),
    (with_metadata(lease_s=5), "from 60 to 31622400, or 0"),
    (with_metadata(lease_s=True), "must be whole seconds"),
    (with_metadata(owner=" "), "metadata.owner must be a text that is not empty"),
    (with_metadata(tags=["a"]), "metadata.tags must be a string, a number or a boolean"),
    (definition(targeting={"log": ["x"]}), "has operator 'log'"),
    (definition(targeting=["on"]), "is no rule"),
    (definition(targeting={"if": [True, "blue"]}), "chooses 'blue', which is no variant"),
    (definition(targeting={"==": [1]}), "gives == 1 arguments"),
    (definition(targeting={"fractional": [["blue", 1]]}), "deals out 'blue'"),
    (definition(targeting={"fractional": [["on", -1]]}), "no whole number from 0 on"),
    (definition(targeting={"fractional": [["on", 0]]}), "sum to 0"),
    (definition(targeting={"fractional": [["on", 2**31]]}), "sum to 2147483648"),
    (definition(targeting={"if": [{"sem_ver": ["1", "~~", "2"]}, "on"]}), "sem_ver compares"),
    (definition(targeting={"if": [{"var": ""}, "on"]}), "var without a name"),
    *[(with_metadata(**{name: None}), f"metadata lacks {name}") for name in METADATA],
]


@pytest.mark.parametrize(("flag", "said"), WRONG, ids=[said for _, said in WRONG])
def test_a_definition_that_cannot_be_is_refused_with_the_reason(
    flag: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadFlag, match=said):
        parse_flag(json.dumps(flag))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[" * 3000,
        '{"state": "ENABLED", "state": "DISABLED"}',
        '{"state": NaN}',
        json.dumps(with_metadata(note="x" * DEFINITION_BYTES_MAX)),
        json.dumps(with_metadata(note="\N{EURO SIGN}" * 1200), ensure_ascii=False),
    ],
)
def test_hostile_text_is_refused(text: str) -> None:
    with pytest.raises(BadFlag):
        parse_flag(text)


def test_a_rule_deeper_than_allowed_is_refused() -> None:
    rule: dict[str, Any] = {"var": "x"}
    for _ in range(30):
        rule = {"!": [rule]}
    with pytest.raises(BadFlag, match="operators within each other"):
        parse_flag(json.dumps(definition(targeting={"if": [rule, "on"]})))


@pytest.mark.parametrize("key", ["", "A", "-a", "a b", "a" * 64, "a\n"])
def test_what_cannot_name_a_flag_is_refused(key: str) -> None:
    with pytest.raises(BadFlag):
        check_flag_key(key)


EVALUATIONS: list[tuple[str, dict[str, Any], dict[str, Any], str, Why]] = [
    ("no targeting", definition(), {}, "on", Why.STATIC),
    ("its state is off", definition(state="DISABLED"), {}, "off", Why.DISABLED),
    (
        "a label matches",
        definition(targeting={"if": [{"==": [{"var": "site"}, "s7"]}, "off", "on"]}),
        {"site": "s7"},
        "off",
        Why.TARGETING_MATCH,
    ),
    (
        "nothing is chosen",
        definition(targeting={"if": [{"==": [{"var": "site"}, "s7"]}, "off"]}),
        {"site": "s8"},
        "on",
        Why.DEFAULT,
    ),
    (
        "all weight on one",
        definition(targeting={"fractional": [["off", 1], ["on", 0]]}),
        {},
        "off",
        Why.SPLIT,
    ),
    (
        "the context names no variant",
        definition(targeting={"if": [True, {"var": "wish"}]}),
        {"wish": "purple"},
        "off",
        Why.ERROR,
    ),
    (
        "a boolean names a variant",
        definition(
            variants={"true": 1, "false": 0},
            defaultVariant="true",
            metadata={**METADATA, "safe": "false"},
            targeting={"==": [{"var": "site"}, "s7"]},
        ),
        {"site": "s7"},
        "true",
        Why.TARGETING_MATCH,
    ),
    (
        "no time is believed",
        definition(targeting={"if": [{">": [{"var": "$flagd.timestamp"}, 5]}, "off"]}),
        {},
        "on",
        Why.DEFAULT,
    ),
]


@pytest.mark.parametrize(
    ("flag", "context", "variant", "why"),
    [row[1:] for row in EVALUATIONS],
    ids=[row[0] for row in EVALUATIONS],
)
def test_a_flag_comes_to_a_variant_for_a_reason(
    flag: dict[str, Any], context: dict[str, Any], variant: str, why: Why
) -> None:
    found = evaluate("f", parse_flag(json.dumps(flag)), {"targetingKey": "pump-7", **context})
    assert (found.variant, found.reason) == (variant, why)
    assert found.value == flag["variants"][variant]


def test_a_rule_can_ask_for_the_time() -> None:
    flag = parse_flag(
        json.dumps(
            definition(targeting={"if": [{">": [{"var": "$flagd.timestamp"}, 1000]}, "off"]})
        )
    )
    assert evaluate("f", flag, {}, 999).variant == "on"
    assert evaluate("f", flag, {}, 1001).variant == "off"


def test_the_safe_variant_is_what_is_fallen_back_to() -> None:
    found = safely(parse_flag(json.dumps(definition())), Why.STALE)
    assert (found.value, found.variant, found.reason) == (False, "off", Why.STALE)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda each: (
            st.lists(each, max_size=4)
            | st.dictionaries(
                st.sampled_from(
                    ["if", "in", "var", "fractional", "sem_ver", "<", "cat", "!", "on"]
                ),
                each,
                max_size=2,
            )
        ),
        max_leaves=12,
    )
)
def test_whatever_rule_is_let_pass_comes_to_a_variant(rule: Any) -> None:
    try:
        flag = parse_flag(json.dumps(definition(targeting=rule)))
    except BadFlag:
        return
    for context in ({}, {"targetingKey": "a", "x": [1], "on": {"y": 2}}):
        assert evaluate("f", flag, context).variant in flag.variants
