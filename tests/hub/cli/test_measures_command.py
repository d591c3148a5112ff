"""`fieldfare measures`, `events`, `cases` and `outcomes` as a person reads them."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from hub.cli import main
from tests.hub.cli.canned_hub import CannedHub, canned_hub
from tests.hub.cli.test_verdicts import verdicts_json
from tests.hub.cli.told import ID

SERIES: dict[str, Any] = {
    "metric": "app.call_ms",
    "kind": "histogram",
    "release": "lamp@1.0.0",
    "variant": "-",
    "devices_count": 2,
    "count": 30,
    "mean": 12.0,
    "least": 1.0,
    "most": 90.0,
    "p50": 10.0,
    "p95": 80.0,
    "p99": 90.0,
}
BARS = [{"above": 0.0, "to": 10.0, "count": 20}, {"above": 10.0, "to": 90.0, "count": 10}]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[CannedHub]:
    with canned_hub() as server:
        monkeypatch.setenv("FIELDFARE_HUB_URL", server.url)
        about = {"left_out_count": 0, "is_merged": True, "quantile_error_ratio": 0.0217}
        server.answer("GET", "/measures", {"items": [SERIES], **about})
        server.answer("GET", "/measures?metric=device.%2A", {"items": [], **about})
        device = {**SERIES, "device": "d[1]\x1b[2J", "figure": 80.0}
        one = {"metric": "app.call_ms", "series": [{**SERIES, "bars": BARS}], "devices": [device]}
        server.answer("GET", "/measures/app.call_ms?release=lamp", {**one, **about})
        event = {"code": "retry", "release": "lamp@1.0.0", "count": 7, "devices_count": 2}
        event |= {"devices": {"d1": 6, "d2": 1}, "detail": "no answer"}
        server.answer("GET", "/events", {"items": [event], "left_out_count": 0})
        case = {"release": "lamp@1.0.0", "count": 4, "devices_count": 2, "ended_count": 3}
        failed = {"device": "d1", "intent": "c1", "release": "lamp@1.0.0", "intended": "open"}
        failed |= {"reached": "shut", "by": "human", "detail": ""}
        server.answer(
            "GET",
            "/cases",
            {
                "items": [{**case, "reached_count": 2, "human_count": 1}],
                "failed": [failed],
                "left_out_count": 0,
            },
        )
        server.answer("GET", "/outcomes?limit=20", {"items": [verdicts_json()]})
        yield server


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 0
    return capsys.readouterr().out


def test_series_are_listed_with_their_quantiles(
    hub: CannedHub, capsys: pytest.CaptureFixture[str]
) -> None:
    del hub
    said = told(capsys, "measures")
    assert "app.call_ms" in said
    assert "30 values" in said
    assert "80" in said
    assert "has measured that yet" in told(capsys, "measures", "device.*")


def test_one_metric_is_drawn_and_nothing_of_a_device_steers_the_terminal(
    hub: CannedHub, capsys: pytest.CaptureFixture[str]
) -> None:
    del hub
    said = told(capsys, "measures", "app.call_ms", "--release", "lamp")
    drawn = [line for line in said.splitlines() if "\u2588" in line]
    assert [line.count("\u2588") for line in drawn] == [40, 20]
    assert "within 2.2%" in said
    assert "\x1b" not in said
    assert "d[1]" in said


def test_events_and_cases_are_listed(hub: CannedHub, capsys: pytest.CaptureFixture[str]) -> None:
    del hub
    assert "no answer" in told(capsys, "events")
    said = told(capsys, "cases")
    assert "by a person" in said
    assert "shut" in said


def test_the_latest_deployments_are_judged_at_a_glance(
    hub: CannedHub, capsys: pytest.CaptureFixture[str]
) -> None:
    del hub
    said = told(capsys, "outcomes")
    assert ID in said
    assert "breach" in said
    assert "silent" in said


@pytest.mark.parametrize("words", [["measures"], ["events"], ["cases"], ["outcomes"]])
def test_json_is_what_the_hub_says(
    hub: CannedHub, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    said = json.loads(told(capsys, *words, "--json"))
    path = "/outcomes?limit=20" if words == ["outcomes"] else f"/{words[0]}"
    assert said == hub.answers["GET", f"/api/v1{path}"][1]
