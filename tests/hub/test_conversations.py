import pytest

from hub import conversations as module
from hub.conversations import Conversations
from sync.messages import Diff, Full, Have, Message, Open, Refuse
from sync.records import Desired, encode
from sync.replica import values_of
from sync.session import REFUSED_PAUSE_S
from sync.vector import encode_vector
from tests.fakes.fleet import FleetDevice, fact
from tests.hub.core import Core, desired


def _wish(core: Core, device: str, value: str = '"x"') -> None:
    entries = {"d/mode": encode(Desired(core.now.ms << 16, value))}

    def job(db: object) -> None:
        core.desired.write(db, desired(device), entries, core.now.ms)  # type: ignore[arg-type]
        core.conversations.changed(db, device, core.now.mono_s)  # type: ignore[arg-type]

    core.database.transact(job)


def _due(core: Core) -> dict[str, list[Message]]:
    found = core.database.transact(lambda db: core.conversations.due(db, core.now.mono_s))
    return {device: said.messages for device, said in found.items()}


def _device(core: Core, name: str = "d1") -> FleetDevice:
    device = FleetDevice(name, 1)
    device.write(fact("class", "lamp"), core.now.mono_s)
    core.connect(device)
    return device


def test_a_device_that_comes_is_told_what_it_lacks_and_nothing_goes_on_afterwards(
    core: Core,
) -> None:
    _wish(core, "d1")
    core.conversations.end_all()
    device = _device(core)
    assert device.held[desired("d1")] == core.held(desired("d1"))
    assert len(core.conversations) == 0
    assert core.rows("SELECT document FROM receipt") == [("des/d1",)]


def test_a_change_is_asked_after_until_the_device_says_that_it_holds_it(core: Core) -> None:
    device = _device(core)
    _wish(core, "d1")
    assert len(core.conversations) == 1
    assert _due(core) == {}
    for _ in range(3):
        core.pass_time(400)
        (question,) = _due(core)["d1"]
        assert isinstance(question, Open)
    core.talk(device, device.receive(question, core.now.mono_s))
    assert device.held[desired("d1")] == core.held(desired("d1"))
    assert len(core.conversations) == 0
    core.pass_time(4000)
    assert _due(core) == {}


def test_a_small_change_goes_out_as_a_difference(core: Core) -> None:
    _wish(core, "d1")
    device = _device(core)
    _wish(core, "d1", '"y"')
    before = device.held[desired("d1")]
    (message,) = core.say("d1", Have("des", before.epoch, encode_vector(before.vector)))
    assert isinstance(message, Diff)
    core.talk(device, device.receive(message, core.now.mono_s))
    assert values_of(device.held[desired("d1")]) == values_of(core.held(desired("d1")))


def test_a_device_known_to_be_away_is_not_spoken_to(core: Core) -> None:
    _device(core)
    core.presence("d1", b'{"online": true, "birth": 1}')
    _wish(core, "d1")
    core.presence("d1", b'{"online": false, "birth": 1}')
    assert len(core.conversations) == 0


def test_a_device_that_refuses_is_given_one_new_epoch_and_then_left_alone_for_a_while(
    core: Core,
) -> None:
    _wish(core, "d1")
    epochs = []
    for _ in range(5):
        held = core.held(desired("d1"))
        assert held is not None
        epochs.append(held.epoch)
        core.say("d1", Refuse("des", held.epoch, "engine"))
    assert epochs == [epochs[0]] + [epochs[0] + 1] * 4
    assert core.rows("SELECT device, code, count FROM offence") == [("d1", "refuses", 5)]
    core.pass_time(REFUSED_PAUSE_S + 1)
    assert "d1" in _due(core)


def test_a_fork_ends_in_an_epoch_above_the_devices(core: Core) -> None:
    _wish(core, "d1")
    held = core.held(desired("d1"))
    assert held is not None
    foreign = encode_vector({2**40 + 2**30: 9})
    (message,) = core.say("d1", Have("des", held.epoch + 1000, foreign))
    assert isinstance(message, Full)
    assert message.epoch == held.epoch + 1001
    now_held = core.held(desired("d1"))
    assert now_held is not None
    assert values_of(now_held) == values_of(held)


def test_there_are_never_more_conversations_than_the_limit(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONVERSATIONS_MAX", 3)
    for number in range(6):
        _wish(core, f"d{number}")
    assert list(core.conversations._sessions) == ["d3", "d4", "d5"]


def test_a_device_without_a_desired_document_costs_nothing(core: Core) -> None:
    _device(core)
    core.say("d1", Have("des", 0, encode_vector({})))
    assert len(core.conversations) == 0
    assert Conversations().wake_mono() is None
    assert core.rows("SELECT * FROM receipt") == []
