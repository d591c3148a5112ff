"""What devices measured, over the API, from the documents that they write."""

from typing import Any

import httpx
import pytest

from hub import measures
from sync.series import Series
from sync.sketch import error_bound
from tests.fakes.fleet import FleetDevice, fact
from tests.hub.core import Core
from tests.hub.told_measures import Teller
from tests.hub.web import check_problem

OLD, NEW = "lamp@1.0.0", "lamp@1.1.0"


def told(core: Core, count: int) -> list[Teller]:
    """Return the telemetry of so many devices, every other one at the site s7."""
    found = []
    for number in range(count):
        device = FleetDevice(f"d{number:02}", number + 1)
        device.write(fact("site", "s7" if number % 2 else "s8"), core.now.mono_s)
        core.connect(device)
        found.append(Teller(core, device, number))
    return found


async def asked(client: httpx.AsyncClient, path: str, **query: str) -> dict[str, Any]:
    answer = await client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_values_of_all_devices_are_merged_by_metric_release_and_variant(
    client: httpx.AsyncClient, core: Core
) -> None:
    for number, teller in enumerate(told(core, 4)):
        teller.histogram(Series("app.call_ms", OLD), range(1, 101))
        if number < 2:
            teller.histogram(Series("app.call_ms", NEW), [200.0] * 10)
        teller.counter(Series("app.errors", OLD), 2.0, calls=2)
        teller.gauge(Series("app.queue", OLD), float(number))
    found = await asked(client, "/measures")
    by_name = {(each["metric"], each["release"]): each for each in found["items"]}
    old = by_name["app.call_ms", OLD]
    assert (old["kind"], old["devices_count"], old["count"]) == ("histogram", 4, 400)
    assert old["p95"] == pytest.approx(95, rel=found["quantile_error_ratio"])
    assert found["quantile_error_ratio"] == pytest.approx(error_bound(), abs=1e-4)
    assert (old["least"], old["most"], old["mean"]) == (1, 100, 50.5)
    assert by_name["app.call_ms", NEW]["devices_count"] == 2
    assert by_name["app.errors", OLD]["total"] == 8
    assert (by_name["app.queue", OLD]["least"], by_name["app.queue", OLD]["most"]) == (0, 3)


async def test_the_same_told_twice_in_any_order_changes_nothing(
    client: httpx.AsyncClient, core: Core
) -> None:
    tellers = told(core, 3)
    for teller in tellers:
        teller.histogram(Series("app.call_ms", OLD), [1.0, 5.0, 9.0])
    before = await asked(client, "/measures/app.call_ms")
    for teller in reversed(tellers):
        teller.histogram(Series("app.call_ms", OLD), [9.0, 1.0, 5.0])
    core.pass_time(3600)
    assert await asked(client, "/measures/app.call_ms") == before


async def test_only_what_is_asked_about_is_counted(client: httpx.AsyncClient, core: Core) -> None:
    for number, teller in enumerate(told(core, 4)):
        teller.histogram(Series("app.call_ms", OLD), [float(number + 1)])
        teller.histogram(Series("app.call_ms", NEW, "fast=on"), [10.0])
        teller.histogram(Series("device.cpu_ratio"), [0.5])

    async def lines(**query: str) -> list[tuple[str, str, str, int]]:
        found = await asked(client, "/measures", **query)
        return [
            (each["metric"], each["release"], each["variant"], each["devices_count"])
            for each in found["items"]
        ]

    assert await lines(metric="device.*") == [("device.cpu_ratio", "-", "-", 4)]
    assert await lines(release="lamp", where="site=s7") == [
        ("app.call_ms", OLD, "-", 2),
        ("app.call_ms", NEW, "fast=on", 2),
    ]
    assert await lines(release=NEW, device="d01") == [("app.call_ms", NEW, "fast=on", 1)]
    assert await lines(variant="fast") == [("app.call_ms", NEW, "fast=on", 4)]
    assert await lines(metric="app.call", release="lam") == []


async def test_one_metric_shows_its_shape_and_its_worst_devices_first(
    client: httpx.AsyncClient, core: Core
) -> None:
    for number, teller in enumerate(told(core, 3)):
        teller.histogram(Series("app.call_ms", OLD), [0.0, *[10.0 ** (number + 1)] * 99])
    found = await asked(client, "/measures/app.call_ms")
    assert [each["device"] for each in found["devices"]] == ["d02", "d01", "d00"]
    (series,) = found["series"]
    bars = series["bars"]
    assert 1 < len(bars) <= measures.BARS_MAX_COUNT
    assert sum(each["count"] for each in bars) == series["count"] == 300
    assert bars[0]["count"] == 3
    assert [each["above"] for each in bars[2:]] == [each["to"] for each in bars[1:-1]]


async def test_events_and_cases_are_counted_by_release(
    client: httpx.AsyncClient, core: Core
) -> None:
    first, second = told(core, 2)
    first.event(1, "retry", release=OLD, count=3)
    first.event(2, "retry", release=OLD)
    second.event(1, "retry", release=OLD)
    second.event(2, "slow", release=NEW)
    found = await asked(client, "/events")
    assert [(each["code"], each["devices_count"], each["count"]) for each in found["items"]] == [
        ("retry", 2, 5),
        ("slow", 1, 1),
    ]
    assert found["items"][0]["devices"] == {"d00": 4, "d01": 1}

    first.case("c1", "open", "open", by="automatic", release=OLD)
    first.case("c2", "open", "shut", by="automatic", release=OLD)
    second.case("c1", "open", "open", by="human", release=OLD)
    second.case("c2", "open", release=OLD)
    found = await asked(client, "/cases")
    (item,) = found["items"]
    assert item == {
        "release": OLD,
        "count": 4,
        "devices_count": 2,
        "ended_count": 3,
        "reached_count": 1,
        "human_count": 1,
    }
    assert [(each["device"], each["intent"]) for each in found["failed"]] == [
        ("d00", "c2"),
        ("d01", "c1"),
    ]


async def test_more_series_than_can_be_merged_are_counted_and_not_merged(
    client: httpx.AsyncClient, core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measures, "MERGED_MAX_COUNT", 2)
    for teller in told(core, 3):
        teller.histogram(Series("app.call_ms", OLD), [1.0])
    found = await asked(client, "/measures")
    (item,) = found["items"]
    assert (found["is_merged"], item["devices_count"], "p95" in item) == (False, 3, False)
    assert (await asked(client, "/measures/app.call_ms"))["devices"] == []


async def test_what_nobody_measured_and_what_is_no_selector_is_said(
    client: httpx.AsyncClient,
) -> None:
    check_problem(await client.get("/measures/app.none"), 404, "has measured 'app.none'")
    for path in ("/measures", "/events", "/cases"):
        check_problem(await client.get(path, params={"where": "site"}), 400, "site")
        assert (await asked(client, path))["items"] == []
