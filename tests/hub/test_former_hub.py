"""A hub that was set up anew meets devices that still obey the one before it."""

from pathlib import Path

import pytest

from hub.correspondence import GROUPS_MAX
from hub.desired import EPOCH_MAX
from sync.documents import DESIRED, DocumentName
from sync.messages import Full, Have
from sync.records import Desired, encode
from sync.replica import EPOCH_LEAP_MAX, values_of
from sync.vector import encode_vector
from tests.fakes.fleet import FleetDevice, fact
from tests.hub.core import Core, desired, frame_of, group, own, running

OLD = {DESIRED + "mode": encode(Desired(1, '"old"'))}
NEW = {DESIRED + "mode": encode(Desired(2, '"new"'))}


def _write(core: Core, document: DocumentName, entries: dict[str, bytes]) -> None:
    core.database.transact(lambda db: core.desired.write(db, document, entries, core.now.ms))


def _is_held(core: Core, device: FleetDevice, document: DocumentName) -> bool:
    now, held = core.held(document), device.held[document]
    return now is not None and (held.epoch, held.vector) == (now.epoch, now.vector)


def _carry_group(core: Core, device: FleetDevice) -> None:
    held = core.held(group())
    assert held is not None
    core.talk(device, device.receive(Full("grp/all", held.epoch, held.state), core.now.mono_s))


def _obeying(state_dir: Path, device: FleetDevice, *, ahead_s: float) -> None:
    """Let a hub that is ahead in time rule a device, and go for ever."""
    with running(state_dir) as core:
        core.pass_time(ahead_s)
        device.write(fact("site", "s7"), 0.0)
        core.connect(device)
        for document in (desired("d1"), group()):
            _write(core, document, OLD)
        core.database.transact(core.groups.load)
        core.connect(device)
        _carry_group(core, device)
    assert values_of(device.held[desired("d1")]) == OLD
    assert values_of(device.held[group()]) == OLD


@pytest.mark.parametrize("ahead_s", [0, 40 * 86_400])
def test_a_device_forgets_what_the_former_hub_wanted(tmp_path: Path, ahead_s: float) -> None:
    device = FleetDevice("d1", 1)
    _obeying(tmp_path / "former", device, ahead_s=ahead_s)
    with running(tmp_path / "hub") as core:
        core.connect(device)
        _carry_group(core, device)
        core.connect(device)
        for document in (desired("d1"), group()):
            assert _is_held(core, device, document)
            assert values_of(device.held[document]) == {}
        assert values_of(core.held(own("d1"))) == device.author.values()
        assert core.rows("SELECT * FROM offence") == []


def test_a_device_comes_to_hold_what_the_new_hub_wants(tmp_path: Path) -> None:
    device = FleetDevice("d1", 1)
    _obeying(tmp_path / "former", device, ahead_s=40 * 86_400)
    with running(tmp_path / "hub") as core:
        for document in (desired("d1"), group()):
            _write(core, document, NEW)
        core.database.transact(core.groups.load)
        core.connect(device)
        _carry_group(core, device)
        core.connect(device)
        for document in (desired("d1"), group()):
            assert _is_held(core, device, document)
            assert values_of(device.held[document]) == NEW


def test_a_device_that_holds_nothing_of_the_hubs_makes_no_document_necessary(core: Core) -> None:
    core.connect(FleetDevice("d1", 1))
    assert core.held(desired("d1")) is None
    assert core.held(group()) is None


@pytest.mark.parametrize("epoch", [EPOCH_LEAP_MAX + 2**33, EPOCH_MAX, 2**53 - 1])
def test_an_epoch_that_no_hub_gives_is_not_outbid_above_what_is_possible(
    core: Core, epoch: int
) -> None:
    name = "des"
    claim = Have(name, epoch, encode_vector({2**40 + 7: 3}))
    for _ in range(5):
        core.say("d1", claim)
    held = core.held(desired("d1"))
    assert held is None or held.epoch <= EPOCH_MAX + 5


def test_nobody_can_make_the_hub_write_groups_without_end(core: Core) -> None:
    vector = encode_vector({2**40 + 7: 3})
    for start in range(0, GROUPS_MAX + 50, 50):
        core.take(*(frame_of("d1", Have(f"grp/g{n}", 5, vector)) for n in range(start, start + 50)))
    assert core.rows("SELECT count(*) FROM document WHERE name LIKE 'grp/%'") == [(GROUPS_MAX,)]
    assert core.rows("SELECT device, code, count FROM offence") == [("d1", "foreign_group", 50)]
