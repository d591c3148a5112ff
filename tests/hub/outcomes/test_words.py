import pytest

from hub.outcomes import words
from hub.outcomes.survival import Quantile
from sync.stamps import ANY, Interval


@pytest.mark.parametrize(
    ("span_ms", "written"),
    [
        (0, "0 ms"),
        (740, "740 ms"),
        (999, "999 ms"),
        (41_000, "41 s"),
        (12_340, "12.3 s"),
        (119_900, "119.9 s"),
        (120_000, "2 min"),
        (3 * 3_600_000, "3 h"),
        (5 * 86_400_000 + 43_200_000, "5.5 d"),
    ],
)
def test_a_duration_is_written_in_the_unit_that_suits_it(span_ms: int, written: str) -> None:
    assert words.duration(span_ms) == written


@pytest.mark.parametrize(
    ("held", "written"),
    [
        (Interval(12_300, 14_100), "12.3\u201314.1 s"),
        (Interval(12_300, 12_340), "12.3 s"),
        (Interval(900, 130_000), "0\u20132.2 min"),
        (Interval(230, 410), "230\u2013410 ms"),
        (Interval(41_000, None), "at least 41 s"),
        (Interval(None, 41_000), "at most 41 s"),
        (ANY, "unknown"),
    ],
)
def test_an_interval_is_written_in_one_unit(held: Interval, written: str) -> None:
    assert words.between(held) == written


def test_a_quantile_may_be_not_reached() -> None:
    assert words.quantile(Quantile(0.95, None, None)) == "not reached"
    assert words.quantile(Quantile(0.95, 5_000, None)) == "at least 5 s"
    assert words.quantile(Quantile(0.95, 5_000, 6_000)) == "5\u20136 s"


def test_one_device_is_not_plural() -> None:
    assert [words.devices(count) for count in (0, 1, 2)] == ["0 devices", "1 device", "2 devices"]


def test_a_reason_becomes_a_clause() -> None:
    assert words.because("health_failed") == "the health check failed"
