"""Bytes of stored documents are overwritten in the database, as a failing disk does."""

from pathlib import Path
from typing import Any

import pytest

from hub.deployments import Request
from hub.store import projection, quarantine, queries
from hub.store.database import Connection
from hub.views import device_view, fleet_view
from sync.documents import DEPLOYMENT, DESIRED, DocumentName
from sync.messages import Full
from sync.records import Deployment, Desired, encode, select
from sync.replica import values_of
from tests.fakes.fleet import FleetDevice, fact
from tests.hub.core import Core, desired, group, own, running

ZEROS = b"\0" * 60
DAMAGES = {
    "zeroed": "state = zeroblob(length(state))",
    "cut off": "state = substr(state, 1, length(state) / 2)",
    "one byte": "state = CAST(substr(state, 1, 2) || x'ff' || substr(state, 4) AS BLOB)",
    "empty": "state = x''",
    "vector": "vector = x'ff'",
    "other vector": "vector = x'810105'",
    "negative vector": "vector = x'8101ff'",
    "absorbed": "absorbed = x'ff'",
}


def _damage(core: Core, document: DocumentName, how: str = "zeroed") -> None:
    query = f"UPDATE document SET {DAMAGES[how]} WHERE name = ?"
    core.database.transact(lambda db: db.execute(query, (str(document),)).fetchall())


def _write(core: Core, document: DocumentName, entries: dict[str, bytes]) -> None:
    core.database.transact(lambda db: core.desired.write(db, document, entries, core.now.ms))


def _damaged(core: Core) -> list[str]:
    found = core.database.transact(lambda db: quarantine.latest(db, 10))
    return [each.document for each in found]


def _recall(core: Core) -> None:
    def recall(connection: Connection) -> None:
        core.ingest.forget()
        core.groups.recall(connection)
        core.conversations.end_all()

    core.database.recall = recall


@pytest.mark.parametrize("how", DAMAGES)
def test_a_devices_damaged_document_is_kept_aside_and_learnt_from_the_device_again(
    core: Core, how: str
) -> None:
    _recall(core)
    device, other = FleetDevice("d1", 1), FleetDevice("d2", 2)
    for each in (device, other):
        each.write(fact("site", "s7"), 0.0)
        core.connect(each)
    _damage(core, own("d1"), how)

    core.talk(device, device.write(fact("site", "s8"), 0.0))
    core.connect(device)
    core.talk(other, other.write(fact("site", "s9"), 0.0))

    assert values_of(core.held(own("d1"))) == device.author.values()
    assert values_of(core.held(own("d2"))) == other.author.values()
    assert _damaged(core) == ["dev/d1"]
    assert core.rows("SELECT * FROM offence") == []
    live = core.database.transact(projection.dump)
    core.database.transact(projection.rebuild)
    assert core.database.transact(projection.dump) == live
    assert "s8" in str(live["p_fact"])
    assert "s9" in str(live["p_fact"])


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_document_of_the_hub_is_made_anew_with_all_that_it_held(
    core: Core, how: str
) -> None:
    _recall(core)
    device = FleetDevice("d1", 1)
    device.write(fact("site", "s7"), 0.0)
    core.connect(device)
    core.release()
    core.deploy(Request(release="lamp@1.0.0", devices=["d1"]))
    core.deploy(Request(release="lamp@1.0.0", group="all"))
    wish = {DESIRED + "mode": encode(Desired(1, '"x"'))}
    for document in (desired("d1"), group()):
        _write(core, document, wish)
    core.database.transact(core.groups.load)
    before = {document: core.held(document) for document in (desired("d1"), group())}
    core.connect(device)
    _take_group(core, device)
    for document in before:
        _damage(core, document, how)

    core.connect(device)
    _take_group(core, device)

    for document, held in before.items():
        now = core.held(document)
        assert now is not None
        assert held is not None
        assert now.epoch > held.epoch
        assert values_of(now) == values_of(held)
        assert len(select(Deployment, DEPLOYMENT, values_of(now))) == 1
        assert (device.held[document].epoch, device.held[document].vector) == (
            now.epoch,
            now.vector,
        )
    assert sorted(_damaged(core)) == ["des/d1", "grp/all"]


def _take_group(core: Core, device: FleetDevice) -> None:
    """Carry the retained group document to a device."""
    held = core.held(group())
    assert held is not None
    core.talk(device, device.receive(Full("grp/all", held.epoch, held.state), core.now.mono_s))


@pytest.mark.parametrize("how", DAMAGES)
def test_a_hub_starts_on_damaged_documents_and_has_them_anew(tmp_path: Path, how: str) -> None:
    wish = {DESIRED + "mode": encode(Desired(1, '"x"'))}
    device = FleetDevice("d1", 1)
    with running(tmp_path / "hub") as core:
        device.write(fact("site", "s7"), 0.0)
        core.connect(device)
        for document in (desired("d1"), group()):
            _write(core, document, wish)
        before = core.held(group())
        for document in (desired("d1"), group(), own("d1")):
            _damage(core, document, how)
        core.rows("UPDATE meta SET value = 0 WHERE name = 'projection_version'")
    with running(tmp_path / "hub") as core:
        assert sorted(_damaged(core)) == ["des/d1", "dev/d1", "grp/all"]
        for document in (desired("d1"), group()):
            assert values_of(core.held(document)) == wish
        now = core.held(group())
        assert now is not None
        assert before is not None
        assert now.epoch > before.epoch
        core.connect(device)
        assert values_of(core.held(own("d1"))) == device.author.values()


async def test_whoever_only_looks_meets_the_mended_document(core: Core) -> None:
    _recall(core)
    device = FleetDevice("d1", 1)
    device.write(fact("site", "s7"), 0.0)
    core.connect(device)
    wish = {DESIRED + "mode": encode(Desired(1, '"x"'))}
    _write(core, desired("d1"), wish)
    _damage(core, desired("d1"))

    def look(db: Connection) -> list[dict[str, Any]]:
        found = queries.device(db, "d1")
        assert found is not None
        view = device_view(db, found, silence_s=60, now_ms=core.now.ms)
        return list(view["settings"])

    assert [each["desired"] for each in await core.database.read(look)] == ["x"]
    fleet = core.database.transact(
        lambda db: fleet_view(db, silence_s=60, active_window_s=1e6, now_ms=core.now.ms)
    )
    assert [each["document"] for each in fleet["damaged"]] == ["des/d1"]


def test_what_was_damaged_is_kept_up_to_a_number(core: Core) -> None:
    for number in range(quarantine.KEPT_MAX + 5):
        device = FleetDevice("d1", number)
        device.write(fact("n", number), 0.0)
        core.connect(device)
        _damage(core, own("d1"))
        core.connect(device)
    assert core.rows("SELECT count(*) FROM quarantine") == [(quarantine.KEPT_MAX,)]
    assert core.mender.mended_count == quarantine.KEPT_MAX + 5
