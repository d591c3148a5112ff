"""Every rule that keeps documents equal is needed: without it the convergence game is lost.

The rules are those of `docs/explanation/documents.md`. Each mutant here switches one off, in the
real code or in the shells of the world. It then loses twice: in a short story that shows what goes
wrong and for whom, and, where random play finds it soon enough, in the very game of
`test_convergence`. With every rule in place all stories end well.

Which check catches which mutant:

1  one client id for ever      two operations share one name; a hub merges a write into the place of
                               an acknowledgement, and the promised one is gone
2a device publishes first      a hub holds what no disk of the device ever held; nothing is lost,
                               because rule 5 takes it back in, but the device forgot what it said
2b hub answers first           the hub dies before it stores, the device's card fails, and nobody
                               has what was promised
3  the last event only         one lost frame leaves a gap that no later one fills
4a no gate                     a stranger's write is merged
4b no gate, honest peers       a late diff is merged over a gap: a state no writer ever had
4c forks are merged            an older setting prevails over a newer, promised one
5  no rebase                   the device and the hubs differ for ever
6  no rolls, no resets         documents and vectors grow without end
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.fakes.world import HUBS, World, device_document
from tests.properties.mutants import (
    HastyDeviceWorld,
    HastyHubWorld,
    OneIdWorld,
    ProudWorld,
    forks_merged,
    last_event_only,
    no_gate,
    no_upkeep,
)
from tests.properties.test_convergence import Convergence, forged_diff

DEVICE = "d1"
DOCUMENT = device_document(DEVICE)
HUB_A, HUB_B = HUBS


def begin(world_class: type[World], *, checks_always: bool = True) -> World:
    """Return a world with one device that has said hello to both hubs."""
    world = world_class(1)
    world.checks_always = checks_always
    write(world, "s/class", b"pump")
    reconnect(world)
    return world


def reconnect(world: World) -> None:
    for name, machine in world.machines.items():
        for line in machine.lines:
            world.connect(name, line)
    world.deliver_all()


def write(world: World, key: str, value: bytes, cut: int | None = None) -> None:
    world.write(DEVICE, DOCUMENT, {key: value}, cut)


def setting(clock: int) -> bytes:
    return msgspec.msgpack.encode([clock, f"value {clock}"])


def lose(world: World, *, between: tuple[str, str]) -> None:
    """Lose what is on its way from the one to the other."""
    world.flying = [each for each in world.flying if (each.sender, each.receiver) != between]


def deliver(world: World, *, to: str, sender: str, cut: int | None = None) -> None:
    """Hand over the oldest frame on that way."""
    ways = [(each.sender, each.receiver) for each in world.flying]
    world.deliver(ways.index((sender, to)), cut)


def images_count(world: World) -> int:
    return len(world.machines[DEVICE].disk.images)


def roll_back_device(world: World, number: int) -> None:
    assert world.roll_back(DEVICE, number), "the world does not allow this loss"
    world.start(DEVICE)


def end(world: World) -> None:
    world.quiesce()
    world.check_agreement()


def a_card_goes_back_in_time(world_class: type[World]) -> None:
    """The device acknowledges, is promised, loses its card's last minute, and goes on writing."""
    world = begin(world_class, checks_always=False)
    earlier = images_count(world) - 1
    write(world, "a/d0/D", b"acknowledged")
    world.deliver_all()
    roll_back_device(world, earlier)
    write(world, "s/mode", b"auto")
    write(world, "s/mode", b"hand")
    world.quiesce()  # equal vectors over different contents show at the next hello only
    end(world)


def the_device_dies_while_it_writes(world_class: type[World]) -> None:
    """The power fails at each stop of a write in turn."""
    for cut in range(4):
        world = begin(world_class)
        write(world, "a/d0/D", b"acknowledged", cut)
        world.deliver_all()
        end(world)


def the_hub_dies_while_it_answers(world_class: type[World]) -> None:
    """Hub A dies at the first stop of a merge; if it had answered by then, the device relies on it.
    Then the device's card fails, which is no more than one disk."""
    world = begin(world_class)
    earlier = images_count(world) - 1
    write(world, "a/d0/D", b"acknowledged")
    lose(world, between=(DEVICE, HUB_B))
    deliver(world, sender=DEVICE, to=HUB_A, cut=0)
    world.deliver_all()
    roll_back_device(world, earlier)
    end(world)


def a_frame_is_lost(world_class: type[World]) -> None:
    """One of two acknowledgements never arrives; nothing else goes wrong."""
    world = begin(world_class)
    write(world, "a/d0/D", b"acknowledged")
    world.flying.clear()
    write(world, "a/d0/V", b"acknowledged")
    end(world)


def a_stranger_writes(world_class: type[World]) -> None:
    """Somebody else sends hub A a well-formed diff of the device's document."""
    world = begin(world_class)
    held = world.machines[HUB_A].shelf(DOCUMENT)
    assert held is not None
    world.forge(HUB_A, DOCUMENT, forged_diff(DOCUMENT, held, client_id=2**41))
    end(world)


def a_diff_comes_late(world_class: type[World]) -> None:
    """Hub A is restored from a backup, then a diff arrives that was made for what it held."""
    world = begin(world_class)
    backup = len(world.machines[HUB_A].disk.images) - 1
    write(world, "s/mode", b"auto")
    world.deliver_all()
    world.kill(DEVICE)
    world.start(DEVICE)
    reconnect(world)
    write(world, "s/rate", b"1")
    late = next(each for each in world.flying if each.receiver == HUB_A)
    world.flying.clear()
    assert world.roll_back(HUB_A, backup)
    world.start(HUB_A)
    world.flying.append(late)
    world.deliver(0)
    end(world)


def a_clock_goes_back_too(world_class: type[World]) -> None:
    """A setting reaches hub A only; card and clock of the device go back, and it sets another."""
    world = begin(world_class, checks_always=False)
    earlier = images_count(world) - 1
    write(world, "c/limit", setting(10))
    lose(world, between=(DEVICE, HUB_B))
    deliver(world, sender=DEVICE, to=HUB_A)
    deliver(world, sender=HUB_A, to=DEVICE)
    from_hub_a = world.flying  # the diff that hub A passes on to hub B
    world.flying = []
    roll_back_device(world, earlier)
    write(world, "c/limit", setting(7))
    world.connect(DEVICE, (HUB_B, DEVICE))
    for _ in range(3):
        deliver(world, sender=DEVICE, to=HUB_B)
        world.flying = [each for each in world.flying if HUB_A not in (each.sender, each.receiver)]
        deliver(world, sender=HUB_B, to=DEVICE)
        if not world.flying:
            break
    world.flying = from_hub_a
    deliver(world, sender=HUB_A, to=HUB_B)
    lose(world, between=(HUB_B, HUB_A))
    world.connect(DEVICE, (HUB_B, DEVICE))
    world.deliver_all()
    end(world)


def the_device_is_busy_and_restarts(world_class: type[World]) -> None:
    """Many writes under many client ids."""
    world = begin(world_class)
    for number in range(200):
        write(world, f"s/{'mno'[number % 3]}", f"{number}".encode())
        if number % 20 == 0:
            world.kill(DEVICE)
            world.start(DEVICE)
    end(world)


GAMES_MAX = 1000
"""Games of random play within which every mutant that is played loses."""

Story = Callable[[type[World]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A world with one rule switched off, and how it loses."""

    rule: str
    story: Story
    loses: str
    """What the failed check says."""
    world_class: type[World] = World
    patches: Callable[[], AbstractContextManager[None]] = nullcontext
    is_played: bool = True
    """Whether random play finds it soon enough; most are found within a hundred games."""


MUTANTS = (
    Mutant(
        rule="1",
        story=a_card_goes_back_in_time,
        loses="was told is durable",
        world_class=OneIdWorld,
    ),
    Mutant(
        rule="2a",
        story=the_device_dies_while_it_writes,
        loses="what no disk of the writer ever held",
        world_class=HastyDeviceWorld,
    ),
    Mutant(
        rule="2b",
        story=the_hub_dies_while_it_answers,
        loses="was told is durable",
        world_class=HastyHubWorld,
    ),
    Mutant(
        rule="3",
        story=a_frame_is_lost,
        loses="never come to rest",
        patches=last_event_only,
    ),
    Mutant(
        rule="4a",
        story=a_stranger_writes,
        loses="what no disk of the writer ever held",
        patches=no_gate,
    ),
    Mutant(
        rule="4b",
        story=a_diff_comes_late,
        loses="what no disk of the writer ever held",
        patches=no_gate,
    ),
    Mutant(
        rule="4c",
        story=a_clock_goes_back_too,
        loses="was told is durable",
        patches=forks_merged,
        is_played=False,
    ),
    Mutant(
        rule="5",
        story=a_card_goes_back_in_time,
        loses="differs",
        world_class=ProudWorld,
    ),
    Mutant(
        rule="6",
        story=the_device_is_busy_and_restarts,
        loses="grew too large|has many ids",
        patches=no_upkeep,
    ),
)


STORIES = tuple(dict.fromkeys(mutant.story for mutant in MUTANTS))


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_with_every_rule_in_place_the_story_ends_well(story: Story) -> None:
    story(World)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"rule {mutant.rule}")
def test_without_the_rule_the_story_ends_badly(mutant: Mutant) -> None:
    with mutant.patches(), pytest.raises(AssertionError, match=mutant.loses):
        mutant.story(mutant.world_class)


def play(world_class: type[World], games: int) -> None:
    """Play the game of `test_convergence`, the same way at every call."""

    class Game(Convergence):
        pass

    Game.world_class = world_class
    run_state_machine_as_test(
        Game,
        settings=settings(
            max_examples=games,
            stateful_step_count=60,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_with_every_rule_in_place_the_game_is_won() -> None:
    play(World, 100)


@pytest.mark.parametrize(
    "mutant",
    [mutant for mutant in MUTANTS if mutant.is_played],
    ids=lambda mutant: f"rule {mutant.rule}",
)
def test_without_the_rule_the_game_is_lost(mutant: Mutant) -> None:
    with mutant.patches(), pytest.raises(AssertionError):
        play(mutant.world_class, GAMES_MAX)
