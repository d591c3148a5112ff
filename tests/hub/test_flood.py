from hub.flood import FORGET_EVERY_S, Flood


def test_a_burst_is_allowed_then_the_rate_counts() -> None:
    flood = Flood(rate_per_s=10, burst_count=5)
    taken = sum(flood.admits("d1", 1, 0.0) for _ in range(100))
    assert taken == 6
    assert not flood.admits("d1", 1, 0.05)
    assert sum(flood.admits("d1", 1, 0.3) for _ in range(100)) == 3


def test_one_device_costs_no_other_anything() -> None:
    flood = Flood(rate_per_s=1, burst_count=1)
    assert flood.admits("d1", 1000, 0.0)
    assert not flood.admits("d1", 1, 1.0)
    assert flood.admits("d2", 1, 1.0)


def test_what_was_found_out_later_counts_as_well() -> None:
    flood = Flood(rate_per_s=1, burst_count=10)
    assert flood.admits("d1", 1, 0.0)
    flood.charge("d1", 100, 0.0)
    assert not flood.admits("d1", 1, 60.0)
    assert flood.admits("d1", 1, 120.0)


def test_devices_that_owe_nothing_are_forgotten() -> None:
    flood = Flood(rate_per_s=1, burst_count=10)
    flood.forget(0.0)
    for number in range(100):
        flood.admits(f"d{number}", 1, 0.0)
    flood.admits("busy", 1000, 0.0)
    assert len(flood) == 101
    flood.forget(FORGET_EVERY_S + 1)
    assert len(flood) == 1
    assert not flood.admits("busy", 1, FORGET_EVERY_S + 1)
