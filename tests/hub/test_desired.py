from pathlib import Path

import pytest

from hub.desired import STATE_BYTES_MAX, WITHDRAWN_KEPT_MS, DesiredDocuments, cancelled, prune
from hub.errors import Clash
from hub.store import receipts
from hub.store.receipts import Written
from sync.author import CLIENT_IDS_MAX
from sync.documents import DESIRED, HUB_CLIENT_ID_MIN, DocumentName
from sync.hlc import COUNTER_BITS
from sync.records import Deployment, Desired, decode, encode
from sync.replica import Holding, values_of
from tests.hub.core import START_MS, Core, desired, group, running

SECOND = START_MS // 1000


def _wish(value: str | None = '"x"', *, clock: int = START_MS << COUNTER_BITS) -> bytes:
    return encode(Desired(clock, value))


def _deployment(order_ms: int = START_MS, **fields: object) -> bytes:
    known = {"order": order_ms << COUNTER_BITS, "component": "lamp", "version": "1"}
    return encode(Deployment(**{**known, "manifest": bytes(32), "manifest_bytes": 5, **fields}))  # type: ignore[arg-type]


def _write(
    core: Core,
    document: DocumentName,
    entries: dict[str, bytes],
    by: DesiredDocuments | None = None,
) -> Holding:
    writer = by or core.desired
    return core.database.transact(lambda db: writer.write(db, document, entries, core.now.ms))


def _written(core: Core, document: DocumentName) -> list[Written]:
    return core.database.transact(lambda db: receipts.load_written(db, str(document)))


def test_a_new_document_begins_at_the_epoch_of_the_clock(core: Core) -> None:
    holding = _write(core, group(), {"d/mode": _wish()})
    assert holding.epoch == SECOND
    assert core.held(group()) == holding
    assert set(holding.vector) == {core.identity.client_id}
    assert core.identity.client_id >= HUB_CLIENT_ID_MIN


def test_every_start_has_a_new_higher_client_id_and_gives_groups_a_new_epoch(
    tmp_path: Path,
) -> None:
    seen = []
    for number in range(3):
        with running(tmp_path / "hub") as core:
            _write(core, group(), {f"d/key-{number}": _wish()})
            _write(core, desired("d1"), {f"d/key-{number}": _wish()})
            held = core.held(group())
            assert held is not None
            seen.append((core.identity.client_id, held.epoch))
            assert set(held.vector) == {core.identity.client_id}
            assert set(values_of(held)) == {f"d/key-{n}" for n in range(number + 1)}
    assert seen == sorted(seen)
    assert len({client for client, _ in seen}) == 3
    assert [epoch for _, epoch in seen] == [SECOND, SECOND + 1, SECOND + 2]


def test_an_epoch_is_never_lower_than_the_clock_nor_than_the_one_before(core: Core) -> None:
    _write(core, group(), {"d/mode": _wish()})

    def reset(above: int = 0) -> int:
        holding = core.database.transact(
            lambda db: core.desired.reset(db, group(), core.now.ms, above=above)
        )
        assert holding is not None
        return holding.epoch

    assert reset() == SECOND + 1
    core.pass_time(1000)
    assert reset() == SECOND + 1000
    assert reset(above=2 * SECOND) == 2 * SECOND + 1
    assert reset() == 2 * SECOND + 2


def test_a_hub_whose_counter_went_back_starts_a_new_epoch_instead_of_writing_below(
    core: Core,
) -> None:
    before = _write(core, desired("d1"), {"d/mode": _wish()})
    older = DesiredDocuments(HUB_CLIENT_ID_MIN + 5)
    after = _write(core, desired("d1"), {"d/other": _wish()}, by=older)
    assert after.epoch > before.epoch
    assert set(after.vector) == {older.client_id}
    assert set(values_of(after)) == {"d/mode", "d/other"}


def test_a_document_stays_small_however_often_it_is_written(core: Core) -> None:
    for number in range(300):
        holding = _write(core, desired("d1"), {"d/mode": _wish(f'"{number}"')})
        assert len(holding.state) < 4096
    assert values_of(holding) == {"d/mode": _wish('"299"')}


def test_a_document_with_many_client_ids_starts_anew(core: Core) -> None:
    for number in range(CLIENT_IDS_MAX + 1):
        writer = DesiredDocuments(core.identity.client_id + 1 + number)
        holding = _write(core, desired("d1"), {f"d/k{number % 3}": _wish()}, by=writer)
    assert len(holding.vector) == 1
    assert set(values_of(holding)) == {"d/k0", "d/k1", "d/k2"}


def test_a_document_that_would_be_too_long_is_refused_and_stays_as_it_was(core: Core) -> None:
    big = '"' + "x" * 1900 + '"'
    held = None
    with pytest.raises(Clash, match=r"des/d1 would have \d+ bytes.*take settings back"):
        for number in range(100):
            held = core.held(desired("d1"))
            _write(core, desired("d1"), {f"{DESIRED}k{number}": _wish(big)})
    assert held is not None
    assert core.held(desired("d1")) == held
    assert len(held.state) <= STATE_BYTES_MAX


def test_a_new_epoch_leaves_out_what_counts_no_more() -> None:
    now_ms = START_MS + WITHDRAWN_KEPT_MS + 1000
    values = {
        "r/old": _deployment(START_MS),
        "r/new": _deployment(START_MS + 5),
        "r/elsewhere": _deployment(START_MS + 1, where="site=s7"),
        "r/after-all": _deployment(START_MS + 9, where="site=s8"),
        "r/other": _deployment(START_MS, component="pump"),
        "r/cancelled-long-ago": _deployment(START_MS, component="x", cancelled=True),
        "r/cancelled-now": _deployment(now_ms, component="x", cancelled=True),
        "r/expired-long-ago": _deployment(START_MS, component="y", expires_ms=START_MS),
        "r/expires": _deployment(START_MS, component="z", expires_ms=now_ms),
        "d/kept": _wish(),
        "d/taken-back-long-ago": _wish(None),
        "d/taken-back-now": _wish(None, clock=now_ms << COUNTER_BITS),
        "odd": b"not a record",
    }
    gone = set(values) - set(prune(values, now_ms=now_ms))
    assert gone == {
        "r/old",
        "r/elsewhere",
        "r/cancelled-long-ago",
        "r/expired-long-ago",
        "d/taken-back-long-ago",
    }


def test_where_a_deployment_stands_is_noted_and_that_it_is_gone(core: Core) -> None:
    first = _write(core, group(), {"r/d1": _deployment(START_MS)})
    (place,) = _written(core, group())
    client = core.identity.client_id
    assert place == Written("d1", first.epoch, client, first.vector[client], None)
    second = _write(core, group(), {"r/d2": _deployment(START_MS + 1)})
    assert [each.deployment for each in _written(core, group())] == ["d1", "d2"]
    assert second.vector[client] > first.vector[client]
    core.database.transact(lambda db: core.desired.reset(db, group(), core.now.ms))
    d1, d2 = _written(core, group())
    assert (d1.epoch, d1.gone_epoch) == (first.epoch, first.epoch + 1)
    assert (d2.epoch, d2.gone_epoch) == (first.epoch, None)


def test_a_cancelled_record_is_the_same_deployment() -> None:
    record = decode("r/d1", _deployment(where="site=s7"))
    assert isinstance(record, Deployment)
    again = decode("r/d1", cancelled(record))
    assert isinstance(again, Deployment)
    assert again.cancelled
    assert (again.order, again.where, again.manifest) == (record.order, "site=s7", bytes(32))
