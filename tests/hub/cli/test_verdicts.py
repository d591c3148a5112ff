"""`fieldfare outcome` as a person reads it."""

import json
from collections.abc import Iterator
from io import StringIO
from typing import Any

import msgspec
import pytest
from rich.console import Console

from hub.answers import Verdicts
from hub.cli import main
from hub.cli.judgements import bounds_text, scale, verdict_lines
from hub.judging import verdicts_view
from hub.outcomes.judged import judge_deployment
from hub.outcomes.verdicts import Estimate
from tests.hub.cli.canned_hub import CannedHub, canned_hub
from tests.hub.cli.told import ID, SIX, deployed, report_of


def verdicts_json() -> dict[str, Any]:
    """Return the answer to GET /deployments/{id}/verdicts."""
    report = report_of(*SIX)
    judged = judge_deployment(report, SIX, labels={}, actions={})
    view: dict[str, Any] = json.loads(json.dumps(verdicts_view(deployed(), report, judged)))
    return view


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[CannedHub]:
    with canned_hub() as server:
        monkeypatch.setenv("FIELDFARE_HUB_URL", server.url)
        server.answer("GET", f"/deployments/{ID}/verdicts", verdicts_json())
        yield server


def test_the_most_urgent_comes_first_with_its_evidence(
    hub: CannedHub, capsys: pytest.CaptureFixture[str]
) -> None:
    del hub
    assert main(["outcome", ID]) == 0
    told = capsys.readouterr().out
    assert "3 of 6 devices run greenhouse 1.1.0" in told
    assert told.index("silent failures") < told.index("human fallback")
    assert "d6 is silent" in told
    assert "acknowledged" in told
    assert "not asked: p95" in told


def test_json_is_what_the_hub_says(hub: CannedHub, capsys: pytest.CaptureFixture[str]) -> None:
    del hub
    assert main(["outcome", ID, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == verdicts_json()


def test_a_deployment_that_is_not_there_is_said_on_one_line(
    hub: CannedHub, capsys: pytest.CaptureFixture[str]
) -> None:
    del hub
    assert main(["outcome", "dnone"]) != 0
    assert capsys.readouterr().err.count("\n") == 1


def test_quiet_verdicts_show_what_they_rest_on_when_asked() -> None:
    held = msgspec.convert(verdicts_json(), Verdicts)

    def shown(*, is_all: bool) -> str:
        out = StringIO()
        Console(file=out, width=120).print(verdict_lines(held, is_all=is_all))
        return out.getvalue()

    fallback = "wrong at most 5 % of the time when all is well"
    assert shown(is_all=True).count(fallback) > shown(is_all=False).count(fallback)


@pytest.mark.parametrize(
    ("value", "lo", "hi", "shown"),
    [
        (None, 0.0, 1.0, "━━━━━━━━━━━━━━━━━━━━"),
        (0.5, 0.25, 0.7, "·····━━━━━●━━━━·····"),
        (0.0, 0.0, 0.0, "●···················"),
        (1.0, 1.0, 1.0, "···················●"),
    ],
)
def test_bounds_are_drawn_on_a_scale(value: float | None, lo: float, hi: float, shown: str) -> None:
    assert scale(value, lo, hi) == shown


@pytest.mark.parametrize(
    ("value", "lo", "hi", "unit", "words"),
    [
        (None, 1_000, 2_000, "ms", "1\N{EN DASH}2 s (x)"),
        (None, None, None, "ms", "not reached (x)"),
        (1.5, 1.1, 2.0, "times", "1.50, 1.10 to 2.00 (x)"),
        (1.5, 1.1, None, "times", "1.50, 1.10 to unknown (x)"),
        (1.5, None, None, "times", "1.50 times (x)"),
        (0.25, None, None, "ratio", "25 % (x)"),
        (0.25, 0.2, 0.5, "ratio", "25 %, 20 % to 50 % (x)"),
    ],
)
def test_figures_read_in_their_units(
    value: float | None, lo: float | None, hi: float | None, unit: str, words: str
) -> None:
    told = bounds_text(Estimate(value=value, lo=lo, hi=hi, unit=unit, how="x")).plain
    assert told.endswith(words)
