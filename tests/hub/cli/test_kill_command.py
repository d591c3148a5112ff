"""`fieldfare kill` against a hub that answers what it is told to."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from hub.cli import main
from hub.cli.exits import Exit
from tests.hub.cli.canned_hub import CannedHub, canned_hub

PATH = "/kills/flag%3Apump-fast"

OFF: dict[str, Any] = {
    "what": "flag:pump-fast",
    "is_killed": True,
    "sentence": "flag:pump-fast is off on 2 of 2 devices",
    "targeted_count": 2,
    "reached_count": 2,
    "by_lease_count": 0,
    "unknown_count": 0,
    "time_to_kill": {
        "count": 2,
        "ended_count": 2,
        "ended_ratio": 1.0,
        "p50": {"ratio": 0.5, "lo_ms": 100, "hi_ms": 200},
        "p95": {"ratio": 0.95, "lo_ms": None, "hi_ms": None},
    },
    "details": [{"detail": "rolled back", "devices_count": 1}],
    "unknown": [],
}

PARTLY = OFF | {
    "sentence": "flag:pump-fast is off on 1 of 2 devices; 1 unknown",
    "unknown_count": 1,
    "unknown": [{"device": "d2", "online": False, "lease_ends_at_ms": 1_790_000_000_000}],
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[CannedHub]:
    with canned_hub() as server:
        monkeypatch.setenv("FIELDFARE_HUB_URL", server.url)
        server.answer("PUT", PATH, {})
        server.answer("GET", PATH, OFF)
        server.answer("DELETE", f"{PATH}?why=mended", {})
        yield server


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(words)
    told = capsys.readouterr()
    return code, told.out, told.err


def test_a_kill_says_how_far_it_has_come_and_how_long_that_took(
    hub: CannedHub, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "kill", "pump-fast", "--why", "it leaks")
    assert (code, out.splitlines()) == (
        0,
        [
            "flag:pump-fast is off on 2 of 2 devices",
            "time to kill: half of the devices 100\N{EN DASH}200 ms, 95 % not reached",
            "1 device: rolled back",
        ],
    )
    assert hub.wishes("PUT", PATH) == [{"group": None, "why": "it leaks"}]


def test_a_wait_that_ends_first_has_an_exit_code_of_its_own(
    hub: CannedHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.answer("GET", PATH, PARTLY)
    code, out, err = run(capsys, "kill", "pump-fast", "--wait", "--wait-s", "0.1")
    assert code == Exit.STILL_OPEN
    assert "unknown: d2, away, falls back by 2026-09-21" in out
    assert "after 0.1 s nothing is known of 1 device" in err
    hub.answer("GET", PATH, OFF)
    assert run(capsys, "kill", "pump-fast", "--wait")[0] == 0


def test_showing_and_taking_back_kill_nothing(
    hub: CannedHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "kill", "flag:pump-fast", "--show")[0] == 0
    assert run(capsys, "kill", "flag:pump-fast", "--undo", "--why", "mended")[0] == 0
    assert hub.wishes("PUT", PATH) == []
    assert [method for method, _, _ in hub.asked].count("DELETE") == 1


def test_what_is_both_a_flag_and_a_deployment_must_be_said_plainly(
    hub: CannedHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.answer("GET", "/deployments/dabc", {})
    hub.answer("GET", "/flags/dabc", {})
    code, _, err = run(capsys, "kill", "dabc")
    assert code == Exit.USAGE
    assert "say flag:dabc or deployment:dabc" in err


def test_a_deployment_is_known_by_its_id(
    hub: CannedHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.answer("GET", "/deployments/dabc", {})
    hub.answer("PUT", "/kills/deployment%3Adabc", {})
    hub.answer("GET", "/kills/deployment%3Adabc", OFF)
    code, out, _ = run(capsys, "kill", "dabc", "--json")
    assert code == 0
    assert json.loads(out) == OFF
