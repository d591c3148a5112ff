"""What is on the short topic of kill orders: the agent's own reader understands it."""

import msgspec

from agent.kills import ORDERS_MAX as AGENT_ORDERS_MAX
from agent.kills import PAYLOAD_BYTES_MAX as AGENT_BYTES_MAX
from agent.kills import read_orders
from hub import kill_topic
from hub.kill_topic import payload_of
from sync.records import Kill

NOW_MS = 1_790_000_000_000


def test_the_agent_reads_what_the_hub_publishes() -> None:
    orders = {
        "flag:pump-fast": Kill(7 << 16, True, "ada", "it leaks"),
        "deployment:dabc": Kill(9 << 16, False),
    }
    payload, without_count = payload_of(orders, NOW_MS)
    assert msgspec.msgpack.decode(payload)[:2] == [1, NOW_MS]
    assert without_count == 0
    assert read_orders(payload) == {
        what: Kill(kill.clock, kill.is_killed, why=kill.why) for what, kill in orders.items()
    }


def test_a_group_without_orders_has_an_empty_list() -> None:
    assert read_orders(payload_of({}, NOW_MS)[0]) == {}


def test_both_sides_agree_on_how_long_it_may_be() -> None:
    assert (kill_topic.PAYLOAD_BYTES_MAX, kill_topic.ORDERS_MAX) == (
        AGENT_BYTES_MAX,
        AGENT_ORDERS_MAX,
    )


def test_of_too_many_orders_the_latest_that_switch_off_are_kept() -> None:
    orders = {
        f"flag:f{number}": Kill(number, number % 2 == 0, why="y" * 190) for number in range(1000)
    }
    payload, without_count = payload_of(orders, NOW_MS)
    kept = read_orders(payload)
    assert len(payload) <= AGENT_BYTES_MAX
    assert all(kill.is_killed for kill in kept.values())
    assert min(kill.clock for kill in kept.values()) == 998 - 2 * (len(kept) - 1)
    assert without_count == 500 - len(kept)
    short = {f"flag:f{number}": Kill(number, True) for number in range(500)}
    assert len(read_orders(payload_of(short, NOW_MS)[0])) == AGENT_ORDERS_MAX
