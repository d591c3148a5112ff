import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.inhibitors import (
    LOCKS_MAX,
    RETURN_S,
    TTL_MAX_S,
    BadLock,
    Inhibitors,
    Lock,
    Wanted,
    after_restart,
)
from sync.stamps import Stamp

BOOT, OTHER_BOOT = b"boot-1", b"boot-2"
BACKUP = Wanted("backup", "a backup is being written", ttl_s=60)
ALICE, BOB, ROOT = 1000, 1001, 0


def at(boottime_s: float, boot: bytes = BOOT, wall_ms: int = 0) -> Stamp:
    return Stamp(boot, round(boottime_s * 1000), wall_ms)


def test_a_lock_is_held_until_it_is_released() -> None:
    locks = Inhibitors()
    lock = locks.take(BACKUP, ALICE, at(10))
    assert locks.held(at(11)) == (lock,)
    assert locks.release(lock.id, ALICE, at(12)) == lock
    assert locks.held(at(12)) == ()


def test_a_lock_ends_by_itself() -> None:
    locks = Inhibitors()
    locks.take(BACKUP, ALICE, at(10))
    assert len(locks.held(at(69.9))) == 1
    assert locks.held(at(70)) == ()


@given(st.integers(-(2**40), 2**40), st.floats(0, 1000))
def test_the_wall_clock_neither_shortens_nor_lengthens_a_lock(wall_ms: int, later_s: float) -> None:
    locks = Inhibitors()
    locks.take(BACKUP, ALICE, at(10))
    now = at(10 + later_s, wall_ms=wall_ms)
    assert bool(locks.held(now)) is (now.boottime_ms < 70_000)


def test_no_lock_outlives_a_reboot() -> None:
    locks = Inhibitors()
    lock = locks.take(Wanted("backup", "busy", is_lease=True), ALICE, at(10))
    assert locks.held(at(5, OTHER_BOOT)) == ()
    assert after_restart([lock], at(5, OTHER_BOOT)) == []


def test_what_hangs_up_releases_its_locks_but_leases() -> None:
    locks = Inhibitors()
    lock = locks.take(BACKUP, ALICE, at(10))
    lease = locks.take(Wanted("valve", "it is open", is_lease=True), ALICE, at(10))
    assert locks.hang_up([lock.id, lease.id])
    assert locks.held(at(11)) == (lease,)
    assert not locks.hang_up([lock.id, lease.id])


def test_a_lock_can_be_kept_longer_with_another_reason() -> None:
    locks = Inhibitors()
    first = locks.take(BACKUP, ALICE, at(10))
    again = Wanted("backup", "still writing", ttl_s=60, id=first.id)
    assert locks.take(again, ALICE, at(50)).id == first.id
    (held,) = locks.held(at(100))
    assert (held.reason, held.since_ms, held.left_s(at(100))) == ("still writing", 10_000, 10)


def test_a_lock_that_ended_cannot_be_kept_longer() -> None:
    locks = Inhibitors()
    first = locks.take(BACKUP, ALICE, at(10))
    with pytest.raises(BadLock, match="has ended"):
        locks.take(Wanted("backup", "busy", id=first.id), ALICE, at(80))
    assert locks.held(at(80)) == ()


def test_only_root_and_who_took_a_lock_may_release_it() -> None:
    locks = Inhibitors()
    lock = locks.take(BACKUP, ALICE, at(10))
    with pytest.raises(BadLock, match="held by user 1000"):
        locks.release(lock.id, BOB, at(11))
    assert locks.held(at(11)) == (lock,)
    locks.release(lock.id, ROOT, at(12))
    assert locks.held(at(12)) == ()


def test_there_is_a_bounded_number_of_locks_and_ended_ones_make_room() -> None:
    locks = Inhibitors()
    for _ in range(LOCKS_MAX):
        locks.take(BACKUP, ALICE, at(10))
    with pytest.raises(BadLock, match="no room"):
        locks.take(BACKUP, ALICE, at(11))
    assert len(locks.held(at(11))) == LOCKS_MAX
    locks.take(BACKUP, ALICE, at(80))
    assert len(locks.held(at(80))) == 1


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted("", "busy"),
        Wanted("  ", "busy"),
        Wanted("x" * 64, "busy"),
        Wanted("backup", ""),
        Wanted("backup", "two\nlines"),
        Wanted("backup", "x" * 121),
        Wanted("backup", "busy", ttl_s=0),
        Wanted("backup", "busy", ttl_s=TTL_MAX_S + 1),
        Wanted("backup", "busy", ttl_s=float("nan")),
    ],
)
def test_a_lock_needs_owner_reason_and_an_end(wanted: Wanted) -> None:
    locks = Inhibitors()
    with pytest.raises(BadLock):
        locks.take(wanted, ALICE, at(10))
    assert locks.held(at(10)) == ()


def test_after_a_restart_leases_stay_and_the_others_have_a_moment_to_come_back() -> None:
    def lock(name: str, until_s: float, *, is_lease: bool) -> Lock:
        until_ms = round(until_s * 1000)
        return Lock(name, "backup", "busy", BOOT, 0, until_ms, is_lease, ALICE)

    stored = [
        lock("lease", 500, is_lease=True),
        lock("held", 500, is_lease=False),
        lock("ending", 101, is_lease=False),
        lock("ended", 100, is_lease=True),
    ]
    left = {each.id: each.left_s(at(100)) for each in after_restart(stored, at(100))}
    assert left == {"lease": 400, "held": RETURN_S, "ending": 1}
