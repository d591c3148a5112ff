"""The pinned hash and the rules against evaluators that others wrote: mmh3, cbor2, flagd's core."""

import json
import logging
from typing import Any

import cbor2
import mmh3
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.evaluation_context import EvaluationContext

from sync.canonical import NoBytes, canonical
from sync.flags import Why, evaluate, parse_flag
from sync.murmur import murmur3_32
from sync.targeting import WEIGHT_TOTAL_MAX, bucket, bucket_hash
from tests.sync.test_flags import definition

logging.getLogger("openfeature.contrib").setLevel(logging.CRITICAL)

KEYS = st.text("abcdefgh0123456789-._", min_size=1, max_size=40)


@given(st.binary(max_size=80), st.integers(0, 2**32 - 1))
def test_the_hash_is_that_of_mmh3(key: bytes, seed: int) -> None:
    assert murmur3_32(key, seed) == mmh3.hash(key, seed, signed=False)


@given(
    st.recursive(
        st.text(max_size=300) | st.booleans() | st.integers(-(2**63), 2**64 - 1),
        lambda each: st.lists(each, max_size=30),
        max_leaves=40,
    )
)
def test_the_bytes_are_those_of_canonical_cbor(value: Any) -> None:
    try:
        ours = canonical(value)
    except NoBytes:
        return  # deeper than allowed
    assert ours == cbor2.dumps(value, canonical=True)


@pytest.mark.parametrize("value", [None, 1.5, {}, 2**64, "\ud800", [[[[["x"]]]]], float("nan")])
def test_what_has_no_agreed_bytes_is_refused(value: object) -> None:
    with pytest.raises(NoBytes):
        canonical(value)


@pytest.mark.parametrize(
    ("flag", "device", "expected"),
    [
        ("delta-apply", "pump-7", 1570700163),
        ("agent.delta", "gw-0001", 4130910502),
        ("x", "y", 1225084752),
    ],
)
def test_the_hash_of_a_device_never_changes(flag: str, device: str, expected: int) -> None:
    assert bucket_hash(flag, device) == expected


def test_buckets_are_filled_alike_in_ours_and_in_flagd() -> None:
    rule = {"fractional": [["on", 5], ["mid", 15], ["off", 80]]}
    variants = {"on": "1", "mid": "2", "off": "3"}
    flag = definition(variants=variants, targeting=rule)
    ours = parse_flag(json.dumps(flag))
    core = FlagdCore()
    core.set_flags(json.dumps({"flags": {"delta-apply": flag}}))
    counts = dict.fromkeys(variants, 0)
    for number in range(5000):
        device = f"dev-{number:05}"
        theirs = core.resolve_string_value("delta-apply", "", EvaluationContext(device))
        found = evaluate("delta-apply", ours, {"targetingKey": device})
        assert found.variant == theirs.variant
        assert found.reason is Why.SPLIT
        counts[found.variant] += 1
    assert 200 < counts["on"] < 300
    assert 650 < counts["mid"] < 850


def test_a_larger_share_contains_the_smaller_one() -> None:
    for number in range(2000):
        device = f"dev-{number}"
        assert (bucket("f", device, 100) < 5) <= (bucket("f", device, 100) < 20)


def test_an_exact_cohort_has_exactly_so_many_devices() -> None:
    devices = [f"dev-{number}" for number in range(40)]
    third = sorted(bucket("f", each, WEIGHT_TOTAL_MAX) for each in devices)[2]
    rule = {"fractional": [["on", third + 1], ["off", WEIGHT_TOTAL_MAX - third - 1]]}
    flag = parse_flag(json.dumps(definition(targeting=rule)))
    found = [evaluate("f", flag, {"targetingKey": each}).variant for each in devices]
    assert found.count("on") == 3


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from(["", "0", "1", "a", "ab", "s7", " 2 ", "1.5", "inf", "nan", "1.2.3"])
)
VARS = st.sampled_from(["site", "count", "none", "deep.er", "targetingKey", "$flagd.flagKey"])
VERSIONS = st.sampled_from(
    ["1", "v1.2", "1.2.3", "1.2.3-rc1", "1.2.3-rc.9", "1.2.3-rc.10", "1.2.3+b", "2.0", "x", "01.2"]
)


def _operations(each: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def call(name: str, arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return arguments.map(lambda given: {name: list(given)})

    two = st.tuples(each, each)
    names = ("starts_with", "ends_with")
    # The library beneath flagd's core compares null, "" and truth values in ways of its own; we
    # follow JavaScript.
    there = SCALARS.filter(lambda value: value not in (None, "")) | st.sampled_from(
        [{"var": "site"}, {"var": "count"}, {"!": [{"var": "none"}]}]
    )
    return st.one_of(
        *[call(name, two) for name in names],
        *[call(name, st.tuples(there, there)) for name in ("==", "!=", "<", "<=", ">", ">=")],
        call("in", st.tuples(each, st.lists(st.sampled_from(["a", "s7", ""]), max_size=3))),
        call("in", two),
        call("!", st.tuples(each)),
        call("!!", st.tuples(each)),
        call("and", st.lists(each, min_size=1, max_size=3)),
        call("or", st.lists(each, min_size=1, max_size=3)),
        call("if", st.lists(each, min_size=2, max_size=5)),
        call("cat", st.lists(each, min_size=1, max_size=3)),
        call("var", st.tuples(VARS)),
        call("var", st.tuples(VARS, SCALARS)),
        call(
            "sem_ver",
            st.tuples(
                VERSIONS, st.sampled_from(["=", "!=", "<", "<=", ">", ">=", "^", "~"]), VERSIONS
            ),
        ),
        call(
            "fractional",
            st.tuples(each, st.just(["on", 3]), st.just(["off", 4])),
        ),
    )


@given(st.recursive(SCALARS, _operations, max_leaves=10))
def test_conditions_answer_as_flagd_does(condition: Any) -> None:
    flag = definition(targeting={"if": [condition, "on", "off"]})
    ours = evaluate(
        "f",
        parse_flag(json.dumps(flag)),
        {"targetingKey": "pump-7", "site": "s7", "count": 3, "deep": {"er": "x"}},
    )
    core = FlagdCore()
    core.set_flags(json.dumps({"flags": {"f": flag}}))
    context = EvaluationContext("pump-7", {"site": "s7", "count": 3, "deep": {"er": "x"}})
    assert ours.variant == core.resolve_boolean_value("f", default_value=False, ctx=context).variant


@pytest.mark.parametrize("other", [0, False, "", "null"])
def test_nothing_equals_only_nothing(other: object) -> None:
    rule = {"if": [{"==": [{"var": "none"}, other]}, "on", "off"]}
    assert evaluate("f", parse_flag(json.dumps(definition(targeting=rule))), {}).variant == "off"
    rule = {"if": [{"==": [{"var": "none"}, None]}, "on", "off"]}
    assert evaluate("f", parse_flag(json.dumps(definition(targeting=rule))), {}).variant == "on"
