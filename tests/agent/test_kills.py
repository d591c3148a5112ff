"""Kill orders: read, bounded, kept over restarts, the later counting wherever it came from."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from agent.documents import Documents
from agent.kills import KIND, ORDERS_MAX, BadOrders, Kills, read_orders
from agent.store import Store, StoreFull, open_store
from sync import documents as names
from sync import records
from sync.records import Kill


def orders(*rows: tuple[str, int, bool], version: int = 1) -> bytes:
    return msgspec.msgpack.encode([version, 1, [[*row, "why"] for row in rows]])


def documents(**kills: Kill) -> Documents:
    """Return documents of which only the wishes of one group are asked for."""
    values = {f"{names.KILL}flag:{key}": records.encode(kill) for key, kill in kills.items()}
    return cast("Documents", SimpleNamespace(wanted=lambda: {"grp/all": values}))


async def loaded(store: Store, known: Documents | None = None) -> Kills:
    kills = Kills(store, known or documents(), on_changed=lambda: None)
    await kills.load()
    return kills


@pytest.mark.parametrize(
    "payload",
    [
        b"x",
        msgspec.msgpack.encode({}),
        orders(version=2),
        orders(("flag:f", -1, True)),
        orders(("flag:" + "f" * 200, 1, True)),
        orders(*[(f"flag:{number}", 1, True) for number in range(ORDERS_MAX + 1)]),
        b"\x93\x01\x01\xdc\xff\xff" + b"\x90" * 20_000,
    ],
)
async def test_what_is_no_list_of_orders_is_refused_and_what_was_known_stays(
    payload: bytes, tmp_path: Path
) -> None:
    with pytest.raises(BadOrders):
        read_orders(payload)
    async with await open_store(tmp_path) as store:
        kills = await loaded(store)
        await kills.take(orders(("flag:f", 1, True)))
        await kills.take(payload)
        assert kills.flags() == {"f"}


def test_orders_about_other_things_are_a_newer_hubs_and_left_alone() -> None:
    assert read_orders(orders(("moon:x", 1, True), ("flag:f", 1, True))).keys() == {"flag:f"}


def test_a_list_that_was_taken_away_holds_nothing() -> None:
    assert read_orders(b"") == {}


async def test_an_order_of_the_topic_alone_outlives_a_restart(tmp_path: Path) -> None:
    async with await open_store(tmp_path) as store:
        kills = await loaded(store)
        await kills.take(orders(("flag:f", 5, True), ("deployment:d1", 6, True)))
    async with await open_store(tmp_path) as store:
        kills = await loaded(store)
        assert (kills.flags(), kills.deployments()) == ({"f"}, {"d1"})
        await kills.take(b"")
        assert kills.flags() == {"f"}


async def test_the_later_order_counts_wherever_it_came_from(tmp_path: Path) -> None:
    async with await open_store(tmp_path) as store:
        known = documents(f=Kill(5, is_killed=False), g=Kill(5, is_killed=True))
        kills = await loaded(store, known)
        await kills.take(orders(("flag:f", 6, True), ("flag:g", 6, False)))
        assert kills.flags() == {"f"}
        await kills.take(orders(("flag:f", 4, False), ("flag:g", 4, True)))
        assert kills.flags() == {"f"}


async def test_of_two_orders_at_once_the_one_that_switches_off_counts(tmp_path: Path) -> None:
    async with await open_store(tmp_path) as store:
        kills = await loaded(store, documents(f=Kill(5, is_killed=False)))
        await kills.take(orders(("flag:f", 5, True)))
        assert kills.flags() == {"f"}


async def test_what_a_document_holds_as_well_is_not_kept_twice(tmp_path: Path) -> None:
    held: dict[str, Kill] = {}
    values: Mapping[str, Any] = {}
    known = cast("Documents", SimpleNamespace(wanted=lambda: {"grp/all": values}))
    async with await open_store(tmp_path) as store:
        kills = await loaded(store, known)
        await kills.take(orders(("flag:f", 5, True)))
        held["k/flag:f"] = Kill(5, is_killed=True)
        values = {key: records.encode(kill) for key, kill in held.items()}
        await kills.take(orders(("flag:g", 6, True)))
        assert (await store.kept(KIND)).keys() == {"flag:g"}
        assert kills.flags() == {"f", "g"}


async def test_orders_that_no_document_holds_are_bounded_and_those_taken_back_go_first(
    tmp_path: Path,
) -> None:
    async with await open_store(tmp_path) as store:
        kills = await loaded(store)
        await kills.take(orders(*[(f"flag:a{n}", 100 + n, n % 2 == 0) for n in range(300)]))
        await kills.take(orders(*[(f"flag:b{n}", 900 + n, True) for n in range(200)]))
        assert len(await store.kept(KIND)) == ORDERS_MAX
        assert {f"a{n}" for n in range(0, 300, 2)} | {f"b{n}" for n in range(200)} == kills.flags()


async def test_with_a_full_disk_an_order_is_obeyed_until_the_agent_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await open_store(tmp_path) as store:
        kills = await loaded(store)

        async def full(*_: object) -> None:
            raise StoreFull("no room")

        monkeypatch.setattr(store, "keep_values", full)
        with pytest.raises(StoreFull):
            await kills.take(orders(("flag:f", 5, True)))
        assert kills.flags() == {"f"}
        monkeypatch.undo()
        assert await store.kept(KIND) == {}
        await kills.take(orders(("flag:f", 5, True)))
        assert (await store.kept(KIND)).keys() == {"flag:f"}
