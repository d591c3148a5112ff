"""The one decision about a flag, as a table: what speaks against it is asked in this order."""

import json
from typing import Any

import pytest

from agent.deciding import Held, decide, held
from sync.flags import Why
from tests.sync.test_flags import METADATA, definition

HOUR_MS = 3_600_000
LEASE_MS = 24 * HOUR_MS

SOUND = held(json.dumps(definition()), 7)
OFF_ALREADY = held(json.dumps(definition(state="DISABLED")), 7)
ENDLESS = held(json.dumps(definition(metadata={**METADATA, "lease_s": 0})), 7)
SPLIT = held(json.dumps(definition(targeting={"fractional": [["on", 1], ["off", 0]]})), 7)
UNREADABLE = held("{", 7)

TABLE: list[tuple[str, Held | None, bool, int, Any, str, Why]] = [
    # flag, is it killed, silence of the hub -> value, variant, reason
    ("as defined", SOUND, False, 0, True, "on", Why.STATIC),
    ("dealt out", SPLIT, False, 0, True, "on", Why.SPLIT),
    ("a moment before its lease ends", SOUND, False, LEASE_MS - 1, True, "on", Why.STATIC),
    ("its lease ends", SOUND, False, LEASE_MS, False, "off", Why.STALE),
    ("dealt out, and its lease is over", SPLIT, False, LEASE_MS, False, "off", Why.STALE),
    ("without a lease", ENDLESS, False, 400 * LEASE_MS, True, "on", Why.STATIC),
    ("its state is off", OFF_ALREADY, False, 0, False, "off", Why.DISABLED),
    ("off, and its lease is over", OFF_ALREADY, False, LEASE_MS, False, "off", Why.DISABLED),
    ("killed", SOUND, True, 0, False, "off", Why.DISABLED),
    ("killed before its lease", SOUND, True, LEASE_MS, False, "off", Why.DISABLED),
    ("killed without a lease", ENDLESS, True, 0, False, "off", Why.DISABLED),
    ("killed, and unreadable", UNREADABLE, True, 0, None, "", Why.DISABLED),
    ("killed, and never defined", None, True, 0, None, "", Why.DISABLED),
    ("unreadable", UNREADABLE, False, 0, None, "", Why.ERROR),
    ("never defined", None, False, LEASE_MS, None, "", Why.DEFAULT),
]


@pytest.mark.parametrize(
    ("flag", "is_killed", "silent_ms", "value", "variant", "reason"),
    [row[1:] for row in TABLE],
    ids=[row[0] for row in TABLE],
)
def test_a_flag_comes_to(
    flag: Held | None, is_killed: bool, silent_ms: int, value: Any, variant: str, reason: Why
) -> None:
    found = decide(
        "f", flag, is_killed=is_killed, silent_ms=silent_ms, context={"targetingKey": "pump-7"}
    )
    assert (found.value, found.variant, found.reason) == (value, variant, reason)
    assert found.clock == (0 if flag is None else 7)


def test_a_killed_flag_never_has_its_targeting_asked() -> None:
    class Untouchable(dict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            raise AssertionError(key)

    found = decide("f", SPLIT, is_killed=True, silent_ms=0, context=Untouchable())
    assert found.reason is Why.DISABLED


def test_what_cannot_be_read_says_why() -> None:
    assert "no JSON" in decide("f", UNREADABLE, is_killed=False, silent_ms=0, context={}).detail
