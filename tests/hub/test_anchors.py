import pytest

from hub.anchors import WORTH_MS, Anchors, contacts_in, pinned, wants_pins
from sync.contacts import ANCHORS_MAX, BOOTS_MAX, Anchor, Boot, Contacts
from sync.messages import Frame
from sync.records import Ack, encode
from tests.fakes.fleet import FleetDevice, fact
from tests.hub.core import START_MS, Core

BOOT = b"boot-1"


def _frame(sent_ms: int, anchor: tuple[int, int] | None = None, boot: bytes = BOOT) -> Frame:
    return Frame(1, boot, sent_ms, anchor, [])


def _contacts(core: Core) -> Contacts:
    ((column,),) = core.rows("SELECT contacts FROM contact")
    return contacts_in(column)


def test_a_frame_that_tightens_nothing_by_much_is_passed_over() -> None:
    anchors = Anchors()
    boot = Boot(BOOT, down=(Anchor(1000, 100_000),), up=(Anchor(1100, 100_150),))
    assert anchors.could_tighten(1, _frame(1100), 100_150)
    anchors.remember(1, boot, 1100)
    assert not anchors.could_tighten(1, _frame(2100), 101_150)
    assert not anchors.could_tighten(1, _frame(2100), 101_150 - WORTH_MS + 5)
    assert anchors.could_tighten(1, _frame(2100), 101_150 - WORTH_MS - 5)
    assert not anchors.could_tighten(1, _frame(2200, (101_000, 2000)), 102_000)
    assert anchors.could_tighten(1, _frame(2200, (101_000 + WORTH_MS + 5, 2000)), 102_000)
    assert anchors.could_tighten(1, _frame(2100, boot=b"boot-2"), 101_150)
    assert anchors.could_tighten(2, _frame(2100), 101_150)
    anchors.forget()
    assert anchors.could_tighten(1, _frame(2100), 101_150)


def test_after_minutes_drift_makes_a_frame_worth_looking_at() -> None:
    anchors = Anchors()
    anchors.remember(1, Boot(BOOT, up=(Anchor(0, 100_000),)), 0)
    assert not anchors.could_tighten(1, _frame(100_000), 200_000)
    assert anchors.could_tighten(1, _frame(300_000), 400_000)


def test_contacts_are_stored_when_they_say_more_and_only_then(core: Core) -> None:
    device = FleetDevice("d1", 1)
    device.write(fact("class", "lamp"), core.now.mono_s)
    (opening, *_) = device.opened(core.now.mono_s)
    core.say("d1", opening, boot=BOOT, sent_ms=5000)
    first = _contacts(core)
    assert first.find(BOOT) == Boot(BOOT, up=(Anchor(5000, START_MS),))
    core.pass_time(1)
    core.say("d1", opening, boot=BOOT, sent_ms=6000)
    assert _contacts(core) == first
    core.pass_time(1)
    core.say("d1", opening, boot=BOOT, sent_ms=7000, anchor=(START_MS + 1000, 6100))
    boot = _contacts(core).find(BOOT)
    assert boot is not None
    assert boot.down == (Anchor(6100, START_MS + 1000),)


def test_stamps_of_acknowledgements_are_pinned_before_anchors_are_thinned() -> None:
    full = Boot(BOOT, up=tuple(Anchor(n, START_MS + n) for n in range(ANCHORS_MAX)))
    assert wants_pins(Contacts((full,)), BOOT)
    assert not wants_pins(Contacts((Boot(BOOT),)), BOOT)
    many = Contacts(tuple(Boot(bytes([n]) * 6) for n in range(BOOTS_MAX)))
    assert wants_pins(many, BOOT)
    assert not wants_pins(many, bytes(6))
    records = [encode(Ack(BOOT, at_ms, 0, 2)) for at_ms in range(40, 10, -1)]
    records += [encode(Ack(b"boot-2", 5, 0, 2)), b"rubbish"]
    found = pinned(Contacts((full, Boot(b"boot-2"))), records)
    assert found.boots[0].pins == tuple(range(29, 41))
    assert found.boots[0].up == full.up
    assert found.boots[1].pins == (5,)


@pytest.mark.parametrize("column", [None, b"", b"rubbish"])
def test_contacts_that_cannot_be_read_are_none(column: bytes | None) -> None:
    assert contacts_in(column) == Contacts()
