import json
from pathlib import Path

import pytest

from hub.presence import BadPresence, Presence, counts, gone_at_ms, is_news, parse_presence
from hub.store import presence as store
from hub.store import queries
from hub.views import fleet_view
from tests.fakes.fleet import FleetDevice, fact
from tests.hub.core import START_MS, Core, running


def _said(core: Core, *, online: bool, birth: int, **more: object) -> None:
    core.presence("d1", json.dumps({"online": online, "birth": birth, **more}).encode())


def _log(core: Core) -> list[tuple[int, int, int]]:
    rows = core.rows("SELECT at_ms, is_online, birth FROM presence_log ORDER BY n")
    return [((at_ms - START_MS) // 1000, is_online, birth) for at_ms, is_online, birth in rows]


@pytest.fixture
def listening(core: Core) -> Core:
    core.database.transact(lambda db: core.watch.begin(db, core.now.ms))
    return core


def test_births_and_deaths_are_logged_by_the_hubs_clock(listening: Core) -> None:
    _said(listening, online=True, birth=1)
    listening.pass_time(100)
    _said(listening, online=False, birth=1, clean=True)
    listening.pass_time(10)
    _said(listening, online=True, birth=2)
    assert _log(listening) == [(0, 1, 1), (100, 0, 1), (110, 1, 2)]


def test_a_death_that_is_not_of_the_newest_birth_is_ignored(listening: Core) -> None:
    _said(listening, online=True, birth=1)
    _said(listening, online=True, birth=2)
    listening.pass_time(5)
    _said(listening, online=False, birth=1)
    assert _log(listening) == [(0, 1, 1), (0, 1, 2)]
    assert listening.rows("SELECT is_online, birth FROM presence") == [(1, 2)]


def test_a_birth_is_always_believed_because_numbers_go_back_with_a_disk(listening: Core) -> None:
    _said(listening, online=True, birth=7)
    _said(listening, online=True, birth=3)
    listening.pass_time(1)
    _said(listening, online=False, birth=3, clean=True)
    assert listening.rows("SELECT is_online, birth FROM presence") == [(0, 3)]


def test_a_repeated_birth_is_logged_once_while_the_hub_listens_and_again_after_a_gap(
    listening: Core,
) -> None:
    for _ in range(3):
        _said(listening, online=True, birth=1)
        listening.pass_time(1)
    assert _log(listening) == [(0, 1, 1)]
    listening.database.transact(lambda db: listening.watch.end(db, listening.now.ms))
    listening.pass_time(50)
    listening.database.transact(lambda db: listening.watch.begin(db, listening.now.ms))
    _said(listening, online=True, birth=1)
    assert _log(listening) == [(0, 1, 1), (53, 1, 1)]
    spans = listening.database.transact(store.load_listening)
    assert [(a - START_MS, b and b - START_MS) for a, b in spans] == [(0, 3000), (53_000, None)]


def test_a_connection_that_died_counts_only_up_to_when_it_was_last_heard(listening: Core) -> None:
    _said(listening, online=True, birth=1, keepalive_s=20)
    device = FleetDevice("d1", 1)
    listening.pass_time(100)
    listening.talk(device, device.write(fact("n", 1), 0.0) or device.opened(0.0))
    listening.pass_time(30)
    _said(listening, online=False, birth=1)
    assert _log(listening)[-1] == (100, 0, 1)


def test_a_connection_that_died_silently_is_cut_by_no_more_than_the_broker_takes_to_notice(
    listening: Core,
) -> None:
    _said(listening, online=True, birth=1, keepalive_s=20)
    listening.pass_time(500)
    _said(listening, online=False, birth=1)
    assert _log(listening)[-1] == (500 - 30 - 10, 0, 1)


def test_a_birth_that_is_told_again_does_not_prove_that_the_device_is_still_there(
    listening: Core,
) -> None:
    _said(listening, online=True, birth=1)
    listening.pass_time(5)
    _said(listening, online=True, birth=1)
    listening.pass_time(5)
    _said(listening, online=False, birth=1)
    assert _log(listening) == [(0, 1, 1), (0, 0, 1)]


def test_a_hub_that_was_killed_listened_until_it_last_said_so(tmp_path: Path) -> None:
    with running(tmp_path / "hub") as core:
        core.database.transact(lambda db: core.watch.begin(db, core.now.ms))
        core.pass_time(10)
        core.take()
        core.pass_time(100)
    with running(tmp_path / "hub") as core:
        spans = core.database.transact(store.load_listening)
        assert spans == [(START_MS, START_MS + 10_000)]


def test_who_died_while_the_hub_was_away_itself_is_neither_connected_nor_gone(
    listening: Core,
) -> None:
    _said(listening, online=True, birth=1)
    listening.presence("d2", json.dumps({"online": False, "birth": 1}).encode())

    def online() -> dict[str, bool | None]:
        found = listening.database.transact(queries.every)
        return {each.device: each.is_online for each in found}

    assert online() == {"d1": True, "d2": False}
    listening.pass_time(1)
    listening.database.transact(lambda db: listening.watch.end(db, listening.now.ms))
    assert online() == {"d1": None, "d2": None}
    listening.pass_time(60)
    listening.database.transact(lambda db: listening.watch.begin(db, listening.now.ms))
    assert online() == {"d1": None, "d2": None}
    fleet = listening.database.transact(
        lambda db: fleet_view(db, silence_s=60, active_window_s=1e6, now_ms=listening.now.ms)
    )
    assert (fleet["online_count"], fleet["presence_unknown_count"]) == (0, 2)
    _said(listening, online=True, birth=2)
    assert online() == {"d1": True, "d2": None}


def test_a_clock_that_was_turned_back_makes_nobody_connected(listening: Core) -> None:
    _said(listening, online=True, birth=1)
    listening.database.transact(lambda db: listening.watch.end(db, listening.now.ms))
    listening.pass_time(-10 * 86_400)
    listening.database.transact(lambda db: listening.watch.begin(db, listening.now.ms))
    (found,) = listening.database.transact(queries.every)
    assert found.is_online is None
    _said(listening, online=True, birth=2)
    (found,) = listening.database.transact(queries.every)
    assert found.is_online is True


def test_the_log_of_one_device_is_bounded(listening: Core) -> None:
    for number in range(store.LOG_ROWS_MAX + 20):
        _said(listening, online=True, birth=number)
    log = _log(listening)
    assert len(log) == store.LOG_ROWS_MAX
    assert log[-1][2] == store.LOG_ROWS_MAX + 19


@pytest.mark.parametrize(
    "payload",
    [b"x", b"{}", b'{"online": 1, "birth": 1}', b'{"online": true, "birth": -1}', b"[" * 5000],
)
def test_a_message_that_is_neither_changes_nothing_and_is_counted(
    listening: Core, payload: bytes
) -> None:
    _said(listening, online=True, birth=1)
    listening.presence("d1", payload)
    assert listening.rows("SELECT is_online, birth FROM presence") == [(1, 1)]
    assert listening.rows("SELECT device, code FROM offence") == [("d1", "bad_presence")]
    with pytest.raises(BadPresence):
        parse_presence(payload)


def test_an_empty_message_only_clears_the_broker(listening: Core) -> None:
    listening.presence("d1", b"")
    assert listening.rows("SELECT * FROM device") == []
    assert listening.rows("SELECT * FROM offence") == []


def test_a_birth_registers_a_device(listening: Core) -> None:
    _said(listening, online=True, birth=1, boot="0a0b", anything="else")
    assert listening.rows("SELECT id FROM device") == [("d1",)]


def test_what_counts_and_what_is_news() -> None:
    birth, death = Presence(online=True, birth=3), Presence(online=False, birth=3)
    assert counts(birth, known_birth=9)
    assert counts(death, known_birth=3)
    assert counts(death, known_birth=2)
    assert not counts(death, known_birth=4)
    assert is_news(birth, known=None, listening_since_ms=0)
    assert is_news(death, known=(True, 3, 100), listening_since_ms=50)
    assert not is_news(birth, known=(True, 3, 100), listening_since_ms=50)
    assert is_news(birth, known=(True, 3, 100), listening_since_ms=101)
    clean = Presence(online=False, birth=3, clean=True)
    assert gone_at_ms(clean, grace_ms=10, last_heard_ms=0, now_ms=99) == 99
    assert gone_at_ms(death, grace_ms=10, last_heard_ms=0, now_ms=99) == 89
    assert gone_at_ms(death, grace_ms=10, last_heard_ms=95, now_ms=99) == 95
