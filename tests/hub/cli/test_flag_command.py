"""`fieldfare flag` against a hub that answers what it is told to."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hub.cli import main
from hub.cli.exits import Exit
from tests.hub.cli.canned_hub import CannedHub, canned_hub
from tests.hub.flagged import definition

STEP = {
    "flag": "pump-fast",
    "group": "all",
    "action": "launch",
    "variant": "on",
    "share": 0.05,
    "weight": 77,
    "dealt_count": 2,
    "eligible_count": 10,
    "at_ms": 1_790_000_000_000,
    "who": "ada",
    "why": "try",
}

STANDING = {
    "flag": "pump-fast",
    "group": "all",
    "definition": definition(),
    "clock": 7,
    "defined_at_ms": 1_790_000_000_000,
    "who": "ada",
    "owner": "fleet-core",
    "cleanup": "FLEET-412",
    "expires": "2027-02-01",
    "is_expired": True,
    "dealt_variant": "on",
    "dealt_ratio": 0.04,
    "share": 0.05,
    "dealt_count": 2,
    "eligible_count": 10,
}

SHOWN: dict[str, Any] = {
    "flag": "pump-fast",
    "groups": [STANDING | {"cohort": [], "steps": [STEP]}],
    "exposures": [{"variant": "on", "reason": "SPLIT", "reader": "app@1.4.0", "devices_count": 2}],
    "several_variants_count": 1,
    "reading_count": 1,
    "reading": [{"device": "d1", "reader": "app@1.4.0", "variant": "on", "last_uplink_at_ms": 1}],
    "is_safe_to_delete": False,
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[CannedHub]:
    with canned_hub() as server:
        monkeypatch.setenv("FIELDFARE_HUB_URL", server.url)
        server.answer("GET", "/flags", {"items": [STANDING]})
        server.answer("GET", "/flags/pump-fast", SHOWN)
        path = "/groups/all/flags/pump-fast"
        server.answer("PUT", path, STEP | {"action": "set", "weight": None, "variant": ""})
        server.answer("PUT", f"{path}/share", STEP)
        server.answer("POST", f"{path}/finish", STEP | {"action": "finish", "weight": None})
        server.answer("DELETE", f"{path}?force=false&why=", STEP | {"action": "remove"})
        yield server


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(words)
    told = capsys.readouterr()
    return code, told.out, told.err


def test_a_launch_says_how_many_devices_it_is(
    hub: CannedHub, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "flag", "launch", "pump-fast")
    assert (code, out) == (
        0,
        "pump-fast in group all: launched, on for 2 of 10 devices (try)\n",
    )
    assert json.loads(hub.asked[-1][2]) == {
        "share": 0.05,
        "at_least": 2,
        "variant": None,
        "launch": True,
        "why": "",
    }


@pytest.mark.parametrize(("typed", "share"), [("20%", 0.2), ("0.2", 0.2), ("7%", 0.07)])
def test_a_share_can_be_typed_both_ways(
    hub: CannedHub, capsys: pytest.CaptureFixture[str], typed: str, share: float
) -> None:
    assert run(capsys, "flag", "ramp", "pump-fast", typed, "--down")[0] == 0
    asked = json.loads(hub.asked[-1][2])
    assert (asked["share"], asked["down"]) == (share, True)


@pytest.mark.parametrize("typed", ["200%", "x", "2"])
def test_what_is_no_share_is_not_asked_of_the_hub(
    hub: CannedHub, capsys: pytest.CaptureFixture[str], typed: str
) -> None:
    code, _, err = run(capsys, "flag", "ramp", "pump-fast", typed)
    assert (code, hub.asked) == (Exit.USAGE, [])
    assert "is no share" in err


def test_a_file_that_defines_no_flag_is_named_before_the_hub_is_asked(
    hub: CannedHub, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "flag.json"
    file.write_text('{"state": "ENABLED"}')
    code, _, err = run(capsys, "flag", "set", "pump-fast", str(file))
    assert (code, hub.asked) == (Exit.FILE, [])
    assert str(file) in err
    file.write_text(json.dumps(definition()))
    code, out, _ = run(capsys, "flag", "set", "pump-fast", str(file))
    assert (code, out) == (0, "pump-fast in group all: defined (try)\n")


def test_flags_are_listed_with_what_is_over(
    hub: CannedHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hub.url
    code, out, _ = run(capsys, "flag", "list")
    assert code == 0
    assert "on for 2 of 10 devices" in out
    assert "2027-02-01 (over)" in out


def test_who_still_reads_a_flag_is_named(
    hub: CannedHub, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "flag", "show", "pump-fast")
    assert code == 0
    assert "Still read by 1 devices: d1 (app@1.4.0)" in out
    hub.answer("GET", "/flags/pump-fast", SHOWN | {"groups": [], "is_safe_to_delete": True})
    assert "safe to delete" in run(capsys, "flag", "show", "pump-fast")[1]


@pytest.mark.parametrize(
    "words",
    [
        ("list",),
        ("show", "pump-fast"),
        ("launch", "pump-fast"),
        ("ramp", "pump-fast", "50%"),
        ("finish", "pump-fast", "nobody"),
        ("remove", "pump-fast"),
    ],
)
def test_every_flag_command_prints_json_for_programs(
    hub: CannedHub, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert hub.url
    code, out, _ = run(capsys, "flag", *words, "--json")
    assert code == 0
    assert json.loads(out)
