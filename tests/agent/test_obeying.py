"""What the device says about orders and leases."""

import json
from collections.abc import Mapping

from agent.deciding import Held, held
from agent.obeying import STAYS, due
from sync.records import Kill, Obeyed
from sync.stages import Stage
from sync.stamps import ClockSync, Stamp
from tests.sync.test_flags import METADATA, definition

NOW = Stamp(b"boot-1", 1000, 5000, ClockSync.SYNCED)
DAY_MS = 86_400_000
FLAGS = {"f": held(json.dumps(definition()), 7)}


def told(
    orders: Mapping[str, Kill],
    *,
    flags: Mapping[str, Held] = FLAGS,
    silent_ms: int = 0,
    before: Mapping[str, Obeyed] | None = None,
    stages: Mapping[str, set[Stage]] | None = None,
) -> dict[str, tuple[int, str, str]]:
    """Return what is due, without its stamp."""
    found = due(
        orders,
        flags,
        silent_ms,
        stages=lambda deployment: (stages or {}).get(deployment, set()),
        told=before or {},
        now=NOW,
    )
    assert all(
        (each.boot, each.boottime_ms, each.sync) == (b"boot-1", 1000, 2) for each in found.values()
    )
    return {what: (each.clock, each.how, each.detail) for what, each in found.items()}


def said(clock: int, how: str) -> Obeyed:
    return Obeyed(b"boot-0", 1, 1, 0, clock, how)


def test_an_order_is_obeyed_once_and_again_when_it_is_given_anew() -> None:
    orders = {"flag:f": Kill(9, is_killed=True)}
    assert told(orders) == {"flag:f": (9, "order", "")}
    assert told(orders, before={"flag:f": said(9, "order")}) == {}
    assert told(orders, before={"flag:f": said(8, "order")}) == {"flag:f": (9, "order", "")}


def test_an_order_that_is_taken_back_is_told_if_it_was_obeyed() -> None:
    orders = {"flag:f": Kill(10, is_killed=False)}
    assert told(orders) == {}
    assert told(orders, before={"flag:f": said(9, "order")}) == {"flag:f": (10, "back", "")}
    assert told(orders, before={"flag:f": said(10, "back")}) == {}


def test_the_end_of_a_lease_is_told_and_the_return_of_the_hub() -> None:
    assert told({}, silent_ms=DAY_MS - 1) == {}
    assert told({}, silent_ms=DAY_MS) == {"flag:f": (7, "lease", "")}
    assert told({}, silent_ms=DAY_MS, before={"flag:f": said(7, "lease")}) == {}
    back = told({}, before={"flag:f": said(7, "lease")})
    assert back == {"flag:f": (7, "back", "the lease runs again")}


def test_an_order_goes_before_a_lease() -> None:
    orders = {"flag:f": Kill(9, is_killed=True)}
    assert told(orders, silent_ms=DAY_MS) == {"flag:f": (9, "order", "")}
    fallen_back = {"flag:f": said(7, "lease")}
    assert told(orders, silent_ms=DAY_MS, before=fallen_back) == {"flag:f": (9, "order", "")}


def test_a_flag_without_a_lease_never_falls_back() -> None:
    flags = {"f": held(json.dumps(definition(metadata={**METADATA, "lease_s": 0})), 7)}
    assert told({}, flags=flags, silent_ms=1000 * DAY_MS) == {}


def test_a_deployment_is_obeyed_when_it_has_ended_and_how_is_said() -> None:
    orders = {"deployment:d1": Kill(9, is_killed=True)}
    assert told(orders) == {}
    assert told(orders, stages={"d1": {Stage.DELIVERED, Stage.APPLIED}}) == {}
    for stage, words in (
        (Stage.CANCELLED, "cancelled before it was tried"),
        (Stage.ROLLED_BACK, "rolled back"),
        (Stage.ACKNOWLEDGED, STAYS),
        (Stage.FAILED, "it had ended already: failed"),
    ):
        found = told(orders, stages={"d1": {Stage.DELIVERED, stage}})
        assert found == {"deployment:d1": (9, "order", words)}
