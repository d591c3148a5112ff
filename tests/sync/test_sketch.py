"""Sketches: what a merge promises, how wrong a quantile can be, and which records are refused."""

import math
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync import records
from sync.records import BUCKETS_MAX, BadRecord, Measure
from sync.sketch import (
    SCALE,
    VALUE_MAX,
    Sketch,
    error_bound,
    from_record,
    index_of,
    merged,
    since,
)

START = b"series"
BOOT = b"boot-1"

VALUES = st.floats(-VALUE_MAX, VALUE_MAX, allow_nan=False, width=64)
USUAL = st.floats(1e-3, 900.0)


def sketch_of(*values: float) -> Sketch:
    sketch = Sketch()
    for value in values:
        sketch.add(value)
    return sketch


def record_of(*values: float) -> Measure:
    return sketch_of(*values).to_record(START, BOOT, 7)


@given(st.lists(VALUES, max_size=40), st.lists(VALUES, max_size=40))
def test_a_merge_is_the_same_from_both_sides(one: list[float], other: list[float]) -> None:
    left, right = sketch_of(*one), sketch_of(*other)
    left.merge(sketch_of(*other))
    right.merge(sketch_of(*one))
    assert left == right == sketch_of(*one, *other)


@given(st.lists(VALUES, max_size=20), st.lists(VALUES, max_size=20), st.lists(VALUES, max_size=20))
def test_it_does_not_matter_which_two_are_merged_first(
    one: list[float], two: list[float], three: list[float]
) -> None:
    parts = [sketch_of(*values) for values in (one, two, three)]
    left_first = merged([merged(parts[:2]), parts[2]])
    right_first = merged([parts[0], merged(parts[1:])])
    assert left_first == right_first == sketch_of(*three, *one, *two)


@given(st.lists(VALUES, min_size=1, max_size=60))
def test_the_sum_is_exact_and_rounded_once(values: list[float]) -> None:
    assert sketch_of(*values).total == float(sum(map(Fraction, values)))


@given(st.lists(USUAL, min_size=1, max_size=200), st.floats(0, 1))
def test_a_quantile_is_within_its_bound_of_the_observation_of_its_rank(
    values: list[float], q: float
) -> None:
    sketch = sketch_of(*values)
    exact = sorted(values)[max(1, math.ceil(q * len(values) - 1e-9)) - 1]
    assert sketch.scale == SCALE
    assert abs(sketch.quantile(q) / exact - 1) <= error_bound() + 1e-9
    low, high = sketch.quantile_bounds(q)
    assert low * (1 - 1e-9) <= exact <= high * (1 + 1e-9)


def test_the_bound_at_the_finest_scale_is_two_and_a_fifth_percent() -> None:
    assert 0.0216 < error_bound() < 0.022


@given(st.lists(VALUES, min_size=1, max_size=200))
def test_any_values_fit_and_the_bounds_hold_at_every_scale(values: list[float]) -> None:
    sketch = sketch_of(*values)
    indices = sketch.buckets()
    assert not indices or max(indices) - min(indices) < BUCKETS_MAX
    exact = sorted(values)[math.ceil(0.95 * len(values) - 1e-9) - 1]
    low, high = sketch.quantile_bounds(0.95)
    slack = 1e-9 * abs(exact)
    assert low - slack <= exact <= high + slack


def test_a_value_is_in_the_same_bucket_before_and_after_the_sketch_got_coarser() -> None:
    for value in (1.0, 2.0, 3.0, 1e-9, 1e9, 2.0**0.5):
        assert index_of(value, SCALE) >> 3 == index_of(value, SCALE - 3)


def test_powers_of_two_close_their_buckets_as_in_otlp() -> None:
    assert [index_of(value, 0 + SCALE) for value in (1.0, 2.0, 4.0)] == [-1, 15, 31]


@given(st.lists(VALUES, max_size=60))
def test_a_sketch_survives_the_wire(values: list[float]) -> None:
    record = record_of(*values)
    wire = records.encode(record)
    assert len(wire) <= records.VALUE_BYTES_MAX
    assert from_record(records.decode_as(Measure, "m/x/-/-", wire)) == sketch_of(*values)


@given(st.lists(USUAL, min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_of_cumulative_records_any_order_and_any_repetition_leave_the_last(
    values: list[float], random: object
) -> None:
    states = [record_of(*values[: end + 1]) for end in range(len(values))]
    arrived = states * 2
    random.shuffle(arrived)  # type: ignore[attr-defined]
    held = max(arrived, key=lambda record: record.count)
    assert from_record(held) == sketch_of(*values)


def test_the_widest_record_is_within_the_bound_of_records() -> None:
    full = 2**53 - 1
    record = Measure("h", START, full, 1e170, -1e150, 1e150, full, -10, -(2**20), (full,) * 320)
    assert len(records.encode(record)) <= records.VALUE_BYTES_MAX


def test_the_share_above_a_limit_is_bounded_from_both_sides() -> None:
    sketch = sketch_of(*(float(number) for number in range(1, 101)))
    low, high = sketch.share_above(50.0)
    assert low <= 0.5 <= high
    assert high - low <= 0.03
    assert sketch.share_above(0.5) == (1.0, 1.0)
    assert sketch.share_above(100.0) == (0.0, 0.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e151])
def test_what_is_no_measurable_number_is_refused_and_nothing_is_counted(value: float) -> None:
    sketch = sketch_of(3.0)
    with pytest.raises(ValueError, match="cannot be measured"):
        sketch.add(value)
    assert sketch == sketch_of(3.0)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"kind": "c"}, "no histogram"),
        ({"total": math.nan}, "finite"),
        ({"least": -math.inf}, "finite"),
        ({"most": math.inf}, "finite"),
        ({"total": 1e300}, "up to"),
        ({"count": -3}, "from zero"),
        ({"zeros": -1, "buckets": (1, 0, 3)}, "from zero"),
        ({"buckets": (1, -1, 3)}, "from zero"),
        ({"count": 4}, "4 observations"),
        ({"count": 0, "buckets": ()}, "no observation"),
        ({"least": 9.0}, "above the most"),
        ({"total": 900.0}, "not between"),
        ({"scale": 21}, "no scale"),
        ({"first": 2**21}, "no scale"),
        ({"first": 400}, "last bucket"),
        ({"most": 700.0}, "last bucket"),
        ({"buckets": (0,) * 321, "zeros": 3}, "321 buckets"),
        ({"zeros": 3, "buckets": ()}, "do not agree"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(
    change: dict[str, object], complaint: str
) -> None:
    sound = record_of(1.5, 2.5, 2.5)
    assert from_record(sound).count == 3
    with pytest.raises(BadRecord, match=complaint):
        from_record(msgspec.structs.replace(sound, **change))


@given(st.binary(max_size=80), st.integers(0, 2**53), st.floats(), st.floats(), st.floats())
def test_no_record_breaks_the_reader(
    raw: bytes, count: int, total: float, least: float, most: float
) -> None:
    record = Measure("h", START, count, total, least, most, 0, -10, -5, tuple(raw))
    try:
        sketch = from_record(record)
    except BadRecord:
        return
    if sketch.count:
        low, high = sketch.quantile_bounds(0.5)
        assert low <= high


def test_quantiles_of_nothing_are_an_error() -> None:
    with pytest.raises(ValueError, match="without observations"):
        Sketch().quantile(0.5)
    with pytest.raises(ValueError, match="no share"):
        sketch_of(1.0).quantile(95)


# What came between two records.


@given(st.lists(VALUES, max_size=30), st.lists(VALUES, max_size=30))
def test_what_came_between_two_records_is_what_was_observed_then(
    before: list[float], after: list[float]
) -> None:
    found = since(record_of(*before, *after), record_of(*before))
    wanted = sketch_of(*after)
    assert found is not None
    assert (found.count, found.zeros) == (wanted.count, wanted.zeros)
    wanted._coarsen(found.scale)
    assert found.buckets() == wanted.buckets()
    for q in (0.05, 0.5, 0.95) if after else ():
        low, high = found.quantile_bounds(q)
        least, most = sketch_of(*after).quantile_bounds(q)
        assert low <= most
        assert high >= least


def test_a_series_that_began_anew_holds_only_what_came_after() -> None:
    later = sketch_of(5.0).to_record(b"other!", BOOT, 9)
    found = since(later, record_of(1.0, 2.0))
    assert found is not None
    assert found == sketch_of(5.0)


def test_records_that_contradict_each_other_say_nothing() -> None:
    assert since(record_of(1.0), record_of(1.0, 2.0)) is None
    assert since(record_of(1.0, 2.0), record_of(700.0)) is None


@given(st.lists(VALUES, max_size=60), st.integers(3, 30))
def test_the_shape_in_steps_holds_every_observation(values: list[float], most: int) -> None:
    bars = sketch_of(*values).bars(most)
    assert len(bars) <= most
    assert sum(count for *_, count in bars) == len(values)
    assert all(above <= to for above, to, _ in bars)
