import pytest

from hub.receipts import is_covered, is_credible, judge
from hub.store.receipts import Written
from sync.moves import Peer
from sync.replica import Holding

HUB = 2**40 + 7
OWN = Holding(100, b"", {HUB: 50})


@pytest.mark.parametrize(
    ("epoch", "vector", "covered"),
    [
        (100, {HUB: 20}, True),
        (100, {HUB: 19}, False),
        (100, {}, False),
        (99, {HUB: 50}, False),
        (101, {}, True),
        (104, {}, True),
        (105, {}, False),
        (0, {}, False),
    ],
)
def test_a_vector_covers_what_was_written_from_its_clock_on_until_it_is_left_out(
    epoch: int, vector: dict[int, int], *, covered: bool
) -> None:
    assert is_covered(Written("d1", 100, HUB, 20, 105), epoch, vector) is covered


def test_what_this_hub_never_wrote_proves_nothing() -> None:
    written = [Written("d1", 100, HUB, 20, None)]
    for peer in (Peer(101, {HUB: 50}), Peer(100, {HUB: 51}), Peer(100, {HUB + 1: 1})):
        assert not is_credible(OWN, peer)
        assert judge(OWN, peer, written) == ([], [])


def test_each_deployment_is_judged_by_itself() -> None:
    written = [
        Written("older", 90, HUB - 1, 3, None),
        Written("held", 100, HUB, 20, None),
        Written("lacking", 100, HUB, 40, None),
        Written("left-out", 90, HUB - 1, 4, 100),
    ]
    assert judge(OWN, Peer(100, {HUB: 30}), written) == (["older", "held"], ["lacking"])
    assert judge(OWN, Peer(95, {HUB - 1: 9}), written) == (
        ["older", "left-out"],
        ["held", "lacking"],
    )
    assert judge(OWN, Peer(0, {}), written) == ([], ["older", "held", "lacking"])
