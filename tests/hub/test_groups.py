from hub.desired import EPOCH_MAX
from hub.groups import HEAL_AFTER_S, HEAL_EVERY_S, RESET_EVERY_S
from sync.messages import Full, Have, Refuse
from sync.records import Desired, encode
from sync.vector import encode_vector
from tests.fakes.fleet import FleetDevice, fact
from tests.hub.core import Core, frame_of, group


def _publish(core: Core) -> None:
    held = core.held(group())
    assert held is not None
    core.groups.published("grp/all", held, core.now.mono_s)


def _wish(core: Core, value: str = '"x"') -> None:
    entries = {"d/mode": encode(Desired(core.now.ms << 16, value))}
    core.database.transact(lambda db: core.desired.write(db, group(), entries, core.now.ms))
    core.database.transact(lambda db: core.groups.load(db, [group()]))
    _publish(core)


def _epoch(core: Core) -> int:
    held = core.held(group())
    assert held is not None
    return held.epoch


NOTHING = Have("grp/all", 0, encode_vector({}))


def test_a_device_that_lost_the_retained_message_is_sent_the_document_itself(core: Core) -> None:
    _wish(core)
    assert core.say("d1", NOTHING) == []
    core.pass_time(HEAL_AFTER_S)
    (message,) = core.say("d1", NOTHING)
    assert isinstance(message, Full)
    device = FleetDevice("d1", 1)
    core.talk(device, device.receive(message, core.now.mono_s))
    held = core.held(group())
    assert held is not None
    assert device.held[group()] == held
    assert core.say("d1", NOTHING) == []
    core.pass_time(HEAL_EVERY_S)
    assert len(core.say("d1", NOTHING)) == 1


def test_a_device_that_holds_what_the_hub_does_is_sent_nothing(core: Core) -> None:
    _wish(core)
    core.pass_time(HEAL_AFTER_S)
    held = core.held(group())
    assert held is not None
    assert core.say("d1", Have("grp/all", held.epoch, encode_vector(held.vector))) == []
    assert core.rows("SELECT document, epoch FROM receipt") == [("grp/all", held.epoch)]


def test_a_device_that_holds_what_this_hub_never_wrote_makes_a_new_epoch_necessary(
    core: Core,
) -> None:
    _wish(core)
    before = _epoch(core)
    foreign = Have("grp/all", before, encode_vector({2**40 + 2**30: 3}))
    outcome = core.take(frame_of("d1", foreign))
    assert outcome.stale_groups == {"grp/all"}
    assert _epoch(core) > before
    ahead = Have("grp/all", 2**52, encode_vector({2**40 + 5: 3}))
    assert core.take(frame_of("d2", ahead)).stale_groups == set()
    core.pass_time(RESET_EVERY_S)
    assert core.take(frame_of("d2", ahead)).stale_groups == {"grp/all"}
    assert _epoch(core) == 2**52 + 1


def test_no_device_can_use_up_the_epochs(core: Core) -> None:
    _wish(core)
    before = _epoch(core)
    outcome = core.take(frame_of("d1", Have("grp/all", EPOCH_MAX + 1, encode_vector({}))))
    assert outcome.stale_groups == set()
    assert _epoch(core) == before
    assert core.rows("SELECT device, code FROM offence") == [("d1", "bad_epoch")]
    assert core.rows("SELECT * FROM receipt") == []


def test_word_on_a_group_that_does_not_exist_is_not_kept(core: Core) -> None:
    core.say("d1", Have("grp/nowhere", 3, encode_vector({2**40 + 5: 3})))
    assert core.rows("SELECT * FROM receipt") == []


def test_a_device_that_refuses_a_group_document_is_counted_and_nobody_else_notices(
    core: Core,
) -> None:
    _wish(core)
    before = _epoch(core)
    assert core.say("d1", Refuse("grp/all", before, "engine")) == []
    assert _epoch(core) == before
    assert core.rows("SELECT device, code FROM offence") == [("d1", "refuses")]


def test_what_a_hub_has_published_reaches_a_device_that_comes_later(core: Core) -> None:
    _wish(core, '"first"')
    device = FleetDevice("d1", 1)
    device.write(fact("class", "lamp"), core.now.mono_s)
    core.pass_time(HEAL_AFTER_S)
    core.connect(device)
    assert device.held[group()] == core.held(group())
