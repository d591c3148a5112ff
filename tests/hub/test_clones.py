"""Which boots of a device cannot be those of one device."""

import pytest

from hub.clones import Clones

HOUR_S = 3600.0


@pytest.mark.parametrize(
    "every_s", [1, 60, 600, 1100, 1500, 2400, HOUR_S, 6 * HOUR_S, 7 * 24 * HOUR_S]
)
def test_two_devices_that_speak_in_turn_are_noticed_however_slowly(every_s: float) -> None:
    clones = Clones()
    turns = next(
        turn
        for turn in range(100)
        if clones.suspects("pump-1", b"ab"[turn % 2 :][:1], turn * every_s)
    )
    assert turns <= 10
    assert turns * every_s <= max(6 * HOUR_S, 4 * every_s)


@pytest.mark.parametrize("every_s", [1, 600, HOUR_S, 24 * HOUR_S])
def test_a_device_that_starts_again_and_again_is_no_two(every_s: float) -> None:
    clones = Clones()
    for start in range(200):
        for frame in range(3):
            at_s = start * every_s + frame * every_s / 4
            assert not clones.suspects("pump-1", start.to_bytes(6), at_s)


def test_frames_that_were_under_way_are_forgiven() -> None:
    clones = Clones()
    said = []
    for start in range(50):
        begun_s = start * 24 * HOUR_S
        said.append(clones.suspects("pump-1", start.to_bytes(6), begun_s))
        if start:
            said.append(clones.suspects("pump-1", (start - 1).to_bytes(6), begun_s + 1))
            said.append(clones.suspects("pump-1", start.to_bytes(6), begun_s + 2))
    assert not any(said)


def test_a_clone_is_told_again_each_time_that_it_speaks() -> None:
    clones = Clones()
    told = [clones.suspects("pump-1", b"ab"[turn % 2 :][:1], turn * 1.0) for turn in range(20)]
    assert all(told[6:])
    assert not clones.suspects("pump-2", b"a", 21.0)
