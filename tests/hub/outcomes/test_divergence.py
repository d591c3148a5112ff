"""Time in which a connected device ran something else than what was desired."""

from hub.outcomes.divergence import divergence, judge_divergence
from hub.outcomes.state_conflicts import Conflict, judge_conflicts
from hub.outcomes.verdicts import Ruling
from tests.hub.outcomes.courses import LATENCY_MS, at, course, finished, online, rolled_back


def test_a_device_is_apart_until_it_passed_its_health_check() -> None:
    found = divergence(finished(), at(101))
    assert found is not None
    assert not found.is_apart_now
    assert found.connected_ms == 100_000
    # Healthy after 10 s, accepted after 1 s; the clocks are known to within the latency.
    assert found.apart.contains(9_000)
    assert found.apart.hi_ms is not None
    assert found.apart.lo_ms is not None
    assert found.apart.hi_ms - found.apart.lo_ms <= 4 * LATENCY_MS


def test_time_away_counts_on_neither_side() -> None:
    away = divergence(course(presence=online((-5, 11), (51, None))), at(101))
    assert away is not None
    assert away.connected_ms == 60_000
    assert away.apart.lo_ms == away.apart.hi_ms == 60_000
    assert away.is_apart_now


def test_a_device_that_went_back_is_apart_all_the_time() -> None:
    found = divergence(rolled_back(), at(101))
    assert found is not None
    assert found.is_apart_now
    assert found.apart.lo_ms == 100_000


def test_what_runs_something_else_by_now_is_apart() -> None:
    found = divergence(finished(runs=False), at(101))
    assert found is not None
    assert found.is_apart_now


def test_a_deployment_that_was_taken_back_asks_for_nothing_any_more() -> None:
    found = divergence(course(cancelled_at_ms=at(31)), at(101))
    assert found is not None
    assert not found.is_apart_now
    assert found.connected_ms == 30_000


def test_what_was_never_accepted_does_not_count() -> None:
    assert divergence(course(hub_stages={}), at(5)) is None


def test_the_fleet_is_judged_by_its_connected_time() -> None:
    good = [finished(f"pump-{n}") for n in range(9)]
    assert judge_divergence(good, now_ms=at(1000)).verdict is Ruling.OK
    judged = judge_divergence([*good, rolled_back("pump-9")], now_ms=at(1000))
    assert judged.verdict is Ruling.BREACH
    assert judged.devices == ("pump-9",)
    assert "more than 5 %" in judged.sentence


def test_a_fleet_that_was_never_there_tells_nothing() -> None:
    judged = judge_divergence([course(presence=())], now_ms=at(1000))
    assert judged.verdict is Ruling.TOO_LITTLE_EVIDENCE


def test_a_limit_inside_the_clocks_interval_is_left_open() -> None:
    judged = judge_divergence([finished()], now_ms=at(101), tolerated=0.09)
    assert judged.verdict is Ruling.TOO_LITTLE_EVIDENCE
    assert "clocks" in judged.sentence


def test_a_conflict_is_shown_with_whose_value_counts() -> None:
    conflict = Conflict(device="pump-7", key="rate", winner="local")
    judged = judge_conflicts([conflict], devices_count=10)
    assert judged.verdict is Ruling.BREACH
    assert judged.evidence == ("pump-7: rate, local prevails",)
    assert "about rate." in judged.sentence
    assert judge_conflicts([], devices_count=10).verdict is Ruling.OK
    assert judge_conflicts([], devices_count=0).verdict is Ruling.TOO_LITTLE_EVIDENCE
