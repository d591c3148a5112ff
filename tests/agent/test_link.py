from pathlib import Path

import pytest

from agent.link import SLACK_BYTES, Budget, Flow, Pace, metered_link

HEAD = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
WIRE = "eth0 00000000 0100A8C0 0003 0 0 100 00000000 0 0 0\n"
PHONE = "wwan0 00000000 0100000A 0003 0 0 700 00000000 0 0 0\n"
LOCAL = "wwan0 0000A8C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n"
DOWN = "wwan0 00000000 0100000A 0000 0 0 1 00000000 0 0 0\n"


def test_bytes_are_spread_over_time() -> None:
    now = 100.0
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        naps.append(seconds)

    pace = Pace(1000, mono_s=lambda: now, sleep=sleep)
    for _ in range(10):
        pace.took(1000, lambda: True)

    assert now == pytest.approx(109.75)
    assert max(naps) <= 0.1


def test_nobody_waits_for_bytes_that_are_no_longer_wanted() -> None:
    pace = Pace(1, mono_s=lambda: 0.0, sleep=lambda _: pytest.fail("it slept"))
    pace.took(1_000_000, lambda: False)


def test_a_link_that_trickles_is_told_from_one_that_is_slow() -> None:
    slow, trickling = Flow(100, 60.0), Flow(100, 60.0)

    assert [slow.came(1000, 10.0) for _ in range(60)] == [""] * 60
    assert [bool(trickling.came(999, 10.0)) for _ in range(12)] == 2 * [*[False] * 5, True]


def test_a_moment_without_bytes_between_many_is_forgiven() -> None:
    flow = Flow(100, 60.0)

    assert [flow.came(*each) for each in ((50_000, 1.0), (0, 30.0), (1, 29.0))] == [""] * 3


def test_where_any_rate_is_taken_nothing_is_too_slow() -> None:
    assert Flow(0, 60.0).came(1, 1_000_000.0) == ""


def test_a_budget_is_kept_across_restarts(tmp_path: Path) -> None:
    budget = Budget(tmp_path / "x.spent", 1000, 2.0)
    budget.spent_bytes = SLACK_BYTES + 1999
    budget.save()

    again = Budget(tmp_path / "x.spent", 1000, 2.0)

    assert not again.is_spent
    again.spent_bytes += 1
    assert again.is_spent


def test_a_budget_that_cannot_be_read_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "x.spent").write_text("garbage")
    assert Budget(tmp_path / "x.spent", 1000, 2.0).spent_bytes == 0


@pytest.mark.parametrize(
    ("routes", "found"),
    [
        (WIRE + PHONE, None),
        (PHONE, "wwan0"),
        (PHONE + LOCAL, "wwan0"),
        (LOCAL, None),
        (WIRE + DOWN, None),
        ("", None),
        ("garbage\n\n", None),
    ],
)
def test_the_preferred_default_route_says_whether_bytes_cost_money(
    tmp_path: Path, routes: str, found: str | None
) -> None:
    (tmp_path / "route").write_text(HEAD + routes)
    nothing = tmp_path / "none"

    assert metered_link(["ww*"], routes=tmp_path / "route", routes_6=nothing) == found
    assert metered_link([], routes=tmp_path / "route", routes_6=nothing) is None


def test_a_metered_default_route_of_version_6_counts_too(tmp_path: Path) -> None:
    zero = "0" * 32
    row = f"{zero} 00 {zero} 00 fe80{'0' * 28} 00000400 00000001 00000000 00000003 ppp0\n"
    (tmp_path / "route6").write_text(row)

    assert metered_link(["ppp?"], routes=tmp_path / "x", routes_6=tmp_path / "route6") == "ppp0"
