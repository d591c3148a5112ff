from dataclasses import replace
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.deferral import (
    FIRM,
    LONGEST_LOOK_S,
    LOOK_S,
    REASONS,
    Busy,
    Facts,
    GiveUp,
    Go,
    Kind,
    Overdue,
    Phase,
    Policy,
    Wait,
    decide,
    hindrances,
)
from agent.inhibitors import Lock
from agent.strain import Strain
from sync.calendar import opening_at, parse_windows
from sync.stages import Reason
from sync.stamps import Stamp

BERLIN = ZoneInfo("Europe/Berlin")
NOW = Stamp(b"boot-1", 1_000_000, 0)
NIGHT = parse_windows(["22:00-05:00"])
ALL_PHASES = list(Phase)


def berlin(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp())


DAY_S, NIGHT_S = berlin("2026-06-03 12:00"), berlin("2026-06-03 23:00")
AT_NIGHT = Policy(windows=(NIGHT,), zone=BERLIN)


def lock(left_s: float = 60.0) -> Lock:
    until_ms = NOW.boottime_ms + round(left_s * 1000)
    return Lock("1", "backup", "it runs", NOW.boot, 0, until_ms, is_lease=False, uid=0)


def facts(utc_s: int | None = DAY_S, **more: object) -> Facts:
    return Facts(now=NOW, utc_s=utc_s, **more)  # type: ignore[arg-type]


def waiting(policy: Policy, given_facts: Facts, phase: Phase = Phase.ACTIVATE) -> Wait:
    found = decide(policy, given_facts, phase)
    assert isinstance(found, Wait)
    return found


@pytest.mark.parametrize("phase", ALL_PHASES)
def test_a_device_that_nobody_restricts_never_waits(phase: Phase) -> None:
    strained = Strain(battery_ratio=0.01, load_ratio=50.0, free_bytes=0)
    assert decide(Policy(), facts(None, strain=strained), phase) == Go()


def test_a_switch_waits_for_the_window_and_everything_before_it_does_not() -> None:
    found = waiting(AT_NIGHT, facts())
    assert found.reason is Reason.OUTSIDE_WINDOW
    assert found.until_s == berlin("2026-06-03 22:00")
    assert "Wed 2026-06-03 22:00 CEST" in found.text
    assert found.next_look_s == LONGEST_LOOK_S
    for phase in (Phase.FETCH, Phase.STAGE):
        assert decide(AT_NIGHT, facts(), phase) == Go()
    assert decide(AT_NIGHT, facts(NIGHT_S), Phase.ACTIVATE) == Go()


def test_a_policy_may_ask_for_the_window_before_anything_is_fetched() -> None:
    policy = replace(AT_NIGHT, window_from=Phase.FETCH)
    assert all(isinstance(decide(policy, facts(), phase), Wait) for phase in ALL_PHASES)


def test_a_window_that_is_about_to_close_is_waited_out() -> None:
    policy = replace(AT_NIGHT, window_left_s=3600)
    found = waiting(policy, facts(berlin("2026-06-04 04:30")))
    assert "too little is left" in found.text
    assert found.until_s == berlin("2026-06-04 22:00")
    assert decide(policy, facts(berlin("2026-06-04 03:59")), Phase.ACTIVATE) == Go()


def test_a_window_that_is_always_too_short_is_not_promised() -> None:
    found = waiting(replace(AT_NIGHT, window_left_s=8 * 3600), facts())
    assert found.until_s is None


def test_an_operators_window_is_asked_beside_the_devices_own() -> None:
    policy = replace(AT_NIGHT, windows=(NIGHT, parse_windows(["Sat"])))
    found = waiting(policy, facts(NIGHT_S))
    assert found.until_s == berlin("2026-06-06 00:00")
    assert decide(policy, facts(berlin("2026-06-06 23:00")), Phase.ACTIVATE) == Go()


def test_without_a_believable_time_windows_count_as_closed_until_the_budget_is_used_up() -> None:
    found = waiting(AT_NIGHT, facts(None))
    assert (found.reason, found.until_s) == (Reason.CLOCK_UNKNOWN, None)
    over = facts(None, waited_s=AT_NIGHT.budget_s)
    assert isinstance(decide(AT_NIGHT, over, Phase.ACTIVATE), GiveUp)
    assert isinstance(decide(replace(AT_NIGHT, overdue=Overdue.GO), over, Phase.ACTIVATE), Go)


def test_a_lock_names_its_owner_its_reason_and_when_it_ends_by_itself() -> None:
    found = waiting(Policy(), facts(locks=(lock(20),)))
    assert found.reason is Reason.INHIBITED
    assert found.text == "backup holds a lock: it runs"
    assert (found.next_look_s, found.until_s) == (20, DAY_S + 20)


def test_a_lock_does_not_keep_a_release_from_being_fetched() -> None:
    assert decide(Policy(), facts(locks=(lock(),)), Phase.FETCH) == Go()


@pytest.mark.parametrize(
    ("policy", "strain", "reason"),
    [
        (Policy(battery_min_ratio=0.3), Strain(battery_ratio=0.29), Reason.LOW_BATTERY),
        (Policy(load_max_ratio=1.5), Strain(load_ratio=1.6), Reason.HIGH_LOAD),
        (Policy(free_min_bytes=10), Strain(free_bytes=9), Reason.NO_SPACE),
    ],
)
def test_strain_beyond_what_is_allowed_is_waited_out(
    policy: Policy, strain: Strain, reason: Reason
) -> None:
    found = waiting(policy, facts(strain=strain), Phase.STAGE)
    assert found.reason is reason
    assert found.next_look_s == LOOK_S


@pytest.mark.parametrize(
    ("policy", "strain"),
    [
        (Policy(battery_min_ratio=0.3), Strain(battery_ratio=0.3)),
        (Policy(battery_min_ratio=0.3), Strain(battery_ratio=0.01, is_fed=True)),
        (Policy(battery_min_ratio=0.3), Strain()),
        (Policy(load_max_ratio=1.5), Strain(load_ratio=1.5)),
        (Policy(load_max_ratio=1.5), Strain()),
        (Policy(free_min_bytes=10), Strain(free_bytes=10)),
        (Policy(free_min_bytes=10), Strain()),
    ],
)
def test_strain_within_what_is_allowed_is_not(policy: Policy, strain: Strain) -> None:
    assert decide(policy, facts(strain=strain), Phase.STAGE) == Go()


def test_an_installer_that_asks_for_time_gets_it() -> None:
    busy = Busy("the flasher is warming up", NOW.boottime_ms + 5_000)
    found = waiting(Policy(), facts(busy=busy), Phase.STAGE)
    assert (found.reason, found.next_look_s) == (Reason.BUSY, 5)
    later = replace(facts(busy=busy), now=replace(NOW, boottime_ms=busy.until_ms))
    assert decide(Policy(), later, Phase.STAGE) == Go()


@pytest.mark.parametrize(("overdue", "kind"), [(Overdue.GO, Go), (Overdue.GIVE_UP, GiveUp)])
def test_a_used_up_budget_ends_the_wait_as_the_policy_says(overdue: Overdue, kind: type) -> None:
    policy = Policy(budget_s=100, overdue=overdue)
    assert isinstance(waiting(policy, facts(locks=(lock(),), waited_s=99)), Wait)
    assert isinstance(decide(policy, facts(locks=(lock(),), waited_s=100), Phase.ACTIVATE), kind)


def test_a_used_up_budget_never_installs_on_an_empty_battery() -> None:
    policy = Policy(battery_min_ratio=0.3, budget_s=0, overdue=Overdue.GO)
    empty = facts(strain=Strain(battery_ratio=0.1))
    assert isinstance(decide(policy, empty, Phase.ACTIVATE), GiveUp)


def test_an_operators_now_passes_over_windows_locks_and_load() -> None:
    policy = replace(AT_NIGHT, is_now=True, load_max_ratio=0.5)
    found = decide(policy, facts(locks=(lock(),), strain=Strain(load_ratio=3)), Phase.ACTIVATE)
    assert isinstance(found, Go)
    assert {each.kind for each in found.over} == {Kind.LOCK, Kind.WINDOW, Kind.LOAD}
    assert "operator" in found.because


def test_an_operators_now_does_not_charge_a_battery() -> None:
    policy = replace(AT_NIGHT, is_now=True, battery_min_ratio=0.3)
    found = waiting(policy, facts(strain=Strain(battery_ratio=0.1)))
    assert [each.kind for each in found.hindrances] == [Kind.BATTERY]


def test_every_kind_of_hindrance_has_a_reason_code_of_its_own() -> None:
    assert set(REASONS) == set(Kind)
    assert len(set(REASONS.values())) == len(Kind)


policies = st.builds(
    Policy,
    windows=st.sampled_from([(), (NIGHT,), (NIGHT, parse_windows(["Sat"]))]),
    zone=st.just(BERLIN),
    window_from=st.sampled_from(Phase),
    window_left_s=st.sampled_from([0.0, 3600.0, 90_000.0]),
    battery_min_ratio=st.sampled_from([0.0, 0.5]),
    load_max_ratio=st.sampled_from([0.0, 1.0]),
    free_min_bytes=st.sampled_from([0, 100]),
    budget_s=st.sampled_from([0.0, 50.0, 1000.0]),
    overdue=st.sampled_from(Overdue),
    is_now=st.booleans(),
)
situations = st.builds(
    Facts,
    now=st.just(NOW),
    utc_s=st.none() | st.integers(DAY_S, DAY_S + 7 * 86_400),
    strain=st.builds(
        Strain,
        battery_ratio=st.none() | st.floats(0, 1),
        is_fed=st.booleans(),
        load_ratio=st.none() | st.floats(0, 5),
        free_bytes=st.none() | st.integers(0, 200),
    ),
    locks=st.lists(st.builds(lock, st.floats(0.01, 5000)), max_size=2).map(tuple),
    busy=st.none() | st.builds(Busy, st.just("busy"), st.integers(900_000, 1_100_000)),
    waited_s=st.floats(0, 2000),
)


@given(policies, situations, st.sampled_from(Phase))
def test_every_wait_says_why_and_is_looked_at_again_within_its_budget(
    policy: Policy, situation: Facts, phase: Phase
) -> None:
    found = decide(policy, situation, phase)
    in_the_way = tuple(hindrances(policy, situation, phase))
    match found:
        case Go():
            assert bool(found.over) is bool(found.because)
            assert not any(each.kind in FIRM for each in found.over)
            assert bool(found.over) is bool(in_the_way)
        case Wait():
            assert found.hindrances
            assert found.text
            assert 0 < found.next_look_s <= max(LONGEST_LOOK_S, 0.1)
            assert found.next_look_s <= max(found.left_s, 0.1)
            assert 0 < found.left_s <= policy.budget_s
            assert not policy.is_now or {each.kind for each in found.hindrances} <= FIRM
        case GiveUp():
            assert found.detail
            assert situation.waited_s >= policy.budget_s
            assert policy.overdue is Overdue.GIVE_UP or any(
                each.kind in FIRM for each in in_the_way
            )


@given(policies, situations)
def test_when_a_wait_for_windows_alone_is_over_the_window_is_open(
    policy: Policy, situation: Facts
) -> None:
    policy = replace(policy, windows=policy.windows[:1], window_left_s=0.0, is_now=False)
    quiet = replace(situation, locks=(), strain=Strain(), busy=None, waited_s=0.0)
    found = decide(policy, quiet, Phase.ACTIVATE)
    if isinstance(found, Wait) and found.until_s is not None:
        assert opening_at(policy.windows[0], BERLIN, found.until_s) is not None
        assert decide(policy, replace(quiet, utc_s=found.until_s), Phase.ACTIVATE) == Go()


@given(policies, situations, st.sampled_from(Phase), st.floats(0, 2000))
def test_a_longer_wait_never_turns_an_end_into_a_wait(
    policy: Policy, situation: Facts, phase: Phase, more_s: float
) -> None:
    later = replace(situation, waited_s=situation.waited_s + more_s)
    if not isinstance(decide(policy, situation, phase), Wait):
        assert type(decide(policy, later, phase)) is type(decide(policy, situation, phase))
