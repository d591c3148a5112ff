from typing import Any

from hub.outcomes.adoption import ACTIVE_WINDOW_MS, UNPROVEN, Adoption, DeviceVersion, adoption

NOW_MS = 1_800_000_000_000


def device(name: str, version: str | None = "1.1.0", **changes: Any) -> DeviceVersion:
    fields = {"last_uplink_at_ms": NOW_MS - 1_000, "healthy": True, "targeted": True}
    return DeviceVersion(device=name, version=version, **(fields | changes))


def count(*devices: DeviceVersion) -> Adoption:
    return adoption(devices, component="greenhouse", version="1.1.0", now_ms=NOW_MS)


def test_only_a_healthy_start_counts_as_running() -> None:
    found = count(device("a"), device("b", healthy=False), device("c", "1.0.0"), device("d", None))
    assert found.proven_count == 1
    assert found.unproven_count == 1
    assert found.adopted_ratio == 0.25
    assert found.mix == {UNPROVEN: 2, "1.0.0": 1, "1.1.0": 1}


def test_registered_active_and_targeted_are_three_counts() -> None:
    found = count(
        device("a"),
        device("b", targeted=False),
        device("c", last_uplink_at_ms=NOW_MS - ACTIVE_WINDOW_MS - 1),
        device("d", last_uplink_at_ms=None),
    )
    assert (found.registered_count, found.active_count, found.targeted_count) == (4, 2, 3)


def test_devices_gone_dark_are_beside_the_share_and_not_inside() -> None:
    found = count(
        device("a"),
        device("z", last_uplink_at_ms=None, version=None),
        device("c", last_uplink_at_ms=NOW_MS - 2 * ACTIVE_WINDOW_MS),
    )
    assert found.dark == ("c", "z")
    assert found.dark_proven_count == 1
    assert found.proven_count == 1
    assert found.adopted_ratio == 1.0
    assert found.mix == {"1.1.0": 1}


def test_a_device_is_active_to_the_last_millisecond_of_the_window() -> None:
    assert count(device("a", last_uplink_at_ms=NOW_MS - ACTIVE_WINDOW_MS)).active_count == 1


def test_a_clock_of_the_hub_that_was_set_back_makes_no_device_dark() -> None:
    assert count(device("a", last_uplink_at_ms=NOW_MS + 10_000)).dark == ()


def test_an_empty_fleet_has_no_share() -> None:
    found = count()
    assert found.adopted_ratio is None
    assert found.mix == {}


def test_no_device_proven_is_a_share_of_none() -> None:
    assert count(device("a", "1.0.0")).adopted_ratio == 0.0
