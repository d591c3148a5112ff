from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.documents import Documents
from agent.local import BadRequest
from agent.settings import Settings
from agent.store import open_store
from agent.values import KEYS_MAX, LIVE_BYTES_MAX, Values
from sync import records
from sync.documents import DocumentName, Kind
from sync.records import Conflict, Desired, Local
from tests.fakes.clock import FakeClock

DESIRED = DocumentName(Kind.DESIRED, "lamp-1")


class Device:
    """The settings of a device, and an operator who is always heard at once."""

    def __init__(self, documents: Documents, clock: FakeClock) -> None:
        self.documents = documents
        self.clock = clock
        self.told_count = 0
        self.values = Values(documents, on_written=self._told)
        self._wishes: dict[str, bytes] = {}

    def _told(self) -> None:
        self.told_count += 1

    async def operator_sets(self, key: str, text: str | None, *, clock: int, saw: int = 0) -> None:
        wish = Desired(clock, text, saw)
        self._wishes[f"d/{key}"] = records.encode(wish)
        self.documents._values = {DESIRED: self._wishes}
        await self.values.record_conflicts()

    def conflicts(self) -> Mapping[str, Conflict]:
        return records.select(Conflict, "x/", self.documents.reported())

    async def get(self, key: str) -> Any:
        return (await self.values.get({"key": key}))["value"]


@asynccontextmanager
async def device(folder: Path) -> AsyncIterator[Device]:
    clock = FakeClock()
    async with await open_store(folder) as store:
        settings = Settings.model_validate({"device": "lamp-1", "state_dir": folder})
        documents = Documents(settings, store, clock)
        await documents.start()
        yield Device(documents, clock)


@pytest.mark.parametrize("value", [None, True, 7, 1.5, "text", [1, [2]], {"a": {"b": None}}, "ä🌱"])
async def test_a_value_comes_back_with_its_type(tmp_path: Path, value: Any) -> None:
    async with device(tmp_path) as there:
        answer = await there.values.set({"key": "mode", "value": value})
        assert answer["value"] == value
        assert answer["winner"] == "local"
        assert await there.get("mode") == value
        assert there.told_count == 1


async def test_a_key_that_nobody_has_set_is_null(tmp_path: Path) -> None:
    async with device(tmp_path) as there:
        assert await there.values.get({"key": "mode"}) == {
            "key": "mode",
            "value": None,
            "winner": "",
            "local": None,
            "desired": None,
            "conflict": False,
        }


@pytest.mark.parametrize("key", ["", "UPPER", "a/b", "..", "x" * 64, 7, None, ["mode"]])
async def test_a_key_that_is_none_is_refused_and_nothing_is_stored(
    tmp_path: Path, key: Any
) -> None:
    async with device(tmp_path) as there:
        with pytest.raises(BadRequest, match="1 to 63"):
            await there.values.set({"key": key, "value": 1})
        assert there.values.rows() == []
        assert there.told_count == 0


@pytest.mark.parametrize("value", ["x" * 3000, ["x"] * 3000, "\ud800"])
async def test_a_value_that_cannot_travel_is_refused_and_the_old_one_stays(
    tmp_path: Path, value: Any
) -> None:
    async with device(tmp_path) as there:
        await there.values.set({"key": "mode", "value": "old"})
        with pytest.raises(BadRequest, match="value"):
            await there.values.set({"key": "mode", "value": value})
        assert await there.get("mode") == "old"


async def test_a_set_without_a_value_is_refused(tmp_path: Path) -> None:
    async with device(tmp_path) as there:
        with pytest.raises(BadRequest, match='needs a "value"'):
            await there.values.set({"key": "mode"})


async def test_keys_are_bounded_but_known_ones_can_still_be_changed(tmp_path: Path) -> None:
    async with device(tmp_path) as there:
        for number in range(KEYS_MAX):
            await there.values.set({"key": f"k{number}", "value": 0})
        with pytest.raises(BadRequest, match=f"at most {KEYS_MAX}"):
            await there.values.set({"key": "more", "value": 0})
        await there.values.set({"key": "k0", "value": 1})
        assert await there.get("k0") == 1


async def test_settings_leave_room_in_the_document_for_acknowledgements(tmp_path: Path) -> None:
    async with device(tmp_path) as there:
        with pytest.raises(BadRequest, match="full"):
            for number in range(KEYS_MAX):
                await there.values.set({"key": f"k{number}", "value": "x" * 1200})
        live = there.documents.reported()
        assert sum(len(key) + len(value) for key, value in live.items()) < 2 * LIVE_BYTES_MAX


async def test_a_value_that_was_taken_back_leaves_the_wish_of_the_operator(tmp_path: Path) -> None:
    async with device(tmp_path) as there:
        await there.operator_sets("mode", '"theirs"', clock=1)
        await there.values.set({"key": "mode", "value": "mine"})
        assert await there.get("mode") == "mine"
        await there.values.unset({"key": "mode"})
        assert await there.get("mode") == "theirs"


async def test_what_was_never_set_here_cannot_be_taken_back(tmp_path: Path) -> None:
    async with device(tmp_path) as there:
        with pytest.raises(BadRequest, match="was not set"):
            await there.values.unset({"key": "mode"})


async def test_an_application_that_knew_the_wish_prevails_without_a_conflict(
    tmp_path: Path,
) -> None:
    async with device(tmp_path) as there:
        await there.operator_sets("mode", '"theirs"', clock=10)
        row = await there.values.set({"key": "mode", "value": "mine"})

        assert (row["value"], row["desired"], row["conflict"]) == ("mine", "theirs", False)
        assert there.conflicts() == {}
        mine = records.select(Local, "c/", there.documents.reported())["mode"]
        assert mine.saw == 10
        assert mine.clock > 10


async def test_two_writes_that_knew_nothing_of_each_other_are_a_conflict_until_one_knows(
    tmp_path: Path,
) -> None:
    async with device(tmp_path) as there:
        await there.values.set({"key": "mode", "value": "mine"})
        mine = records.select(Local, "c/", there.documents.reported())["mode"]
        await there.operator_sets("mode", '"theirs"', clock=mine.clock + 1)

        (conflict,) = there.conflicts().values()
        assert (conflict.local, conflict.desired) == ('"mine"', '"theirs"')
        assert conflict.effective == '"theirs"'
        assert conflict.winner == "desired"
        assert [row["conflict"] for row in there.values.rows()] == [True]

        row = await there.values.set({"key": "mode", "value": "agreed"})
        assert (row["value"], row["conflict"]) == ("agreed", False)
        assert there.conflicts()["mode"].winner == ""


async def test_a_conflict_is_written_down_once(tmp_path: Path) -> None:
    async with device(tmp_path) as there:
        await there.values.set({"key": "mode", "value": "mine"})
        await there.operator_sets("mode", '"theirs"', clock=2**62)
        assert not await there.values.record_conflicts()


async def test_a_wall_clock_that_goes_back_does_not_make_a_later_write_lose(tmp_path: Path) -> None:
    async with device(tmp_path) as there:
        await there.values.set({"key": "mode", "value": "first"})
        first = records.select(Local, "c/", there.documents.reported())["mode"]
        there.clock.wall -= 10 * 86_400_000
        await there.values.set({"key": "mode", "value": "second"})
        second = records.select(Local, "c/", there.documents.reported())["mode"]
        assert second.clock > first.clock
