import pytest

from sync.client_ids import COUNTER_LEAP_MAX, COUNTER_MAX, client_id, counter_after, counter_of
from sync.documents import Side, client_id_allowed


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("counter", [1, 2, 4096, COUNTER_MAX])
@pytest.mark.parametrize("random_bits", [0, 2**16 - 1])
def test_an_id_is_of_its_side_and_gives_its_counter_back(
    side: Side, counter: int, random_bits: int
) -> None:
    client = client_id(side, counter, random_bits)
    assert client_id_allowed(side, client)
    assert counter_of(client) == counter


def test_ids_of_later_starts_are_higher_whatever_was_drawn() -> None:
    assert client_id(Side.DEVICE, 2, 0) > client_id(Side.DEVICE, 1, 2**16 - 1)


@pytest.mark.parametrize(
    ("counter", "random_bits"), [(0, 0), (-1, 0), (COUNTER_MAX + 1, 0), (1, -1), (1, 2**16)]
)
def test_there_is_no_id_outside_the_range(counter: int, random_bits: int) -> None:
    with pytest.raises(ValueError, match="no client id"):
        client_id(Side.DEVICE, counter, random_bits)


def test_the_next_counter_is_beyond_the_last_and_beyond_every_id_seen() -> None:
    assert counter_after(0) == 1
    assert counter_after(5) == 6
    assert counter_after(5, {client_id(Side.DEVICE, 9, 77): 3}) == 10
    assert counter_after(5, [client_id(Side.HUB, 3, 1)], [client_id(Side.HUB, 7, 1)]) == 8


def test_an_id_that_claims_an_absurd_number_of_starts_uses_none_of_them_up() -> None:
    liar = client_id(Side.DEVICE, COUNTER_MAX, 0)
    assert counter_after(5, [liar]) == 6
    assert counter_after(5, [client_id(Side.DEVICE, 5 + COUNTER_LEAP_MAX, 0), liar]) == (
        6 + COUNTER_LEAP_MAX
    )
