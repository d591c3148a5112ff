from collections.abc import Awaitable, Callable

from agent.command import Ended
from agent.health import Hopeless, Verdict, check, unreached
from sync.manifest import Check, Health
from sync.stages import Reason

HEALTH = Health(command=("check",), deadline_s=10, pause_s=0.05)


class Release:
    """Answers the health command as scripted; each try takes its time on a clock of its own."""

    def __init__(self, *answers: Ended, takes_s: float = 1.0) -> None:
        self.answers = list(answers)
        self.takes_s = takes_s
        self.mono = 0.0
        self.deadlines_s: list[float] = []
        self.asked: list[str] = []

    @property
    def run(self) -> Callable[[Check, float], Awaitable[Ended]]:
        async def once(check: Check, deadline_s: float) -> Ended:
            self.asked.append(check.kind)
            self.deadlines_s.append(deadline_s)
            self.mono += min(self.takes_s, deadline_s)
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

        return once


async def test_the_first_pass_proves_the_release() -> None:
    release = Release(Ended(1, "not yet"), Ended(1, "not yet"), Ended(0, "light is on"))

    verdict = await check(HEALTH, release.run, lambda: release.mono)

    assert (verdict.healthy, verdict.reason, verdict.detail) == (True, "", "light is on")
    assert release.deadlines_s == [10, 9, 8]


async def test_a_command_that_fails_until_the_deadline_fails_the_release() -> None:
    release = Release(Ended(3, "no light"))

    verdict = await check(HEALTH, release.run, lambda: release.mono)

    assert (verdict.healthy, verdict.reason) == (False, Reason.HEALTH_FAILED)
    assert verdict.detail == "no light"
    assert release.mono <= HEALTH.deadline_s


async def test_a_command_that_never_ends_is_told_from_one_that_fails() -> None:
    release = Release(Ended(None, "still running", is_late=True), takes_s=100)

    verdict = await check(HEALTH, release.run, lambda: release.mono)

    assert (verdict.healthy, verdict.reason) == (False, Reason.HEALTH_TIMED_OUT)


async def test_a_failure_without_words_is_explained_by_its_exit_code() -> None:
    release = Release(Ended(7, ""), takes_s=100)

    verdict = await check(HEALTH, release.run, lambda: release.mono)

    assert verdict.detail == "the health command ended with 7"


async def test_a_command_that_cannot_be_started_is_a_failure_and_not_a_silence() -> None:
    release = Release(Ended(None, "check cannot be started"))

    verdict = await check(HEALTH, release.run, lambda: release.mono)

    assert (verdict.healthy, verdict.reason) == (False, Reason.HEALTH_FAILED)
    assert verdict.detail == "check cannot be started"


THREE = Health(
    command=("check",),
    checks=(
        Check(kind="http", url="http://127.0.0.1:1/"),
        Check(kind="unit", unit="lamp.service"),
        Check(kind="hub", budget_s=5),
    ),
    deadline_s=10,
    pause_s=0.05,
)


async def test_everything_must_be_so_in_one_round() -> None:
    good, bad = Ended(0, "good"), Ended(1, "bad")
    release = Release(good, bad, good, good, bad, good, good, good, takes_s=0.5)

    verdict = await check(THREE, release.run, lambda: release.mono)

    assert verdict.healthy
    rounds = ["command", "http", "command", "http", "unit", "command", "http", "unit"]
    assert release.asked == rounds


async def test_a_hub_out_of_reach_is_told_and_looked_at_apart_from_the_trial() -> None:
    release = Release(Ended(1, "the hub was not reached"), Ended(0, ""))

    assert await unreached(THREE, release.run) == "the hub was not reached"
    assert await unreached(THREE, release.run) == ""
    assert release.asked == ["hub", "hub"]
    assert release.deadlines_s == [5, 5]


async def test_what_time_does_not_cure_ends_the_trial_at_once() -> None:
    asked = []

    async def look(each: Check, within_s: float) -> Ended:
        asked.append((each.kind, within_s))
        raise Hopeless(Reason.CRASH_LOOP, "lamp.service was restarted 9 times")

    verdict = await check(THREE, look, lambda: 0.0)

    assert (verdict.healthy, verdict.reason) == (False, Reason.CRASH_LOOP)
    assert len(asked) == 1


STARTING = Verdict(healthy=False, reason="installer_failed", detail="the chip still starts")


async def test_what_still_comes_up_is_waited_for_and_looked_at_only_then() -> None:
    release = Release(Ended(0, "good"))
    doubts = [STARTING, STARTING, None]

    async def doubt() -> Verdict | None:
        assert release.asked == []
        release.mono += 1
        return doubts.pop(0)

    verdict = await check(HEALTH, release.run, lambda: release.mono, doubt)

    assert verdict.healthy
    assert (doubts, release.asked) == ([], ["command"])
    assert release.deadlines_s == [7]


async def test_what_has_come_up_is_not_asked_again_who_it_is() -> None:
    release = Release(Ended(1, "not yet"), Ended(1, "not yet"), Ended(0, "good"))
    asked = []

    async def doubt() -> None:
        asked.append(release.mono)

    verdict = await check(HEALTH, release.run, lambda: release.mono, doubt)

    assert verdict.healthy
    assert asked == [0.0]


async def test_what_does_not_come_up_before_the_deadline_is_refused_for_the_last_reason() -> None:
    release = Release(Ended(0, "good"))

    async def doubt() -> Verdict:
        release.mono += 1
        return STARTING

    verdict = await check(HEALTH, release.run, lambda: release.mono, doubt)

    assert verdict == STARTING
    assert release.asked == []
    assert release.mono == HEALTH.deadline_s


async def test_a_release_that_has_to_stay_well_is_looked_at_for_so_long() -> None:
    release = Release(Ended(0, "good"))

    verdict = await check(HEALTH, release.run, lambda: release.mono, steady_s=3)

    assert verdict.healthy
    assert release.mono == 4.0
    assert len(release.asked) == 4


async def test_one_bad_round_begins_the_steady_time_anew() -> None:
    good, bad = Ended(0, "good"), Ended(1, "bad")
    release = Release(good, good, bad, good)

    verdict = await check(HEALTH, release.run, lambda: release.mono, steady_s=3)

    assert verdict.healthy
    assert release.mono == 7.0


async def test_what_was_good_before_the_deadline_may_be_so_beyond_it_and_must_stay_so() -> None:
    bad = Ended(1, "bad")
    waits = Release(*[bad] * 9, Ended(0, "good"))
    breaks = Release(*[bad] * 9, Ended(0, "good"), Ended(0, "good"), bad)

    steady = await check(HEALTH, waits.run, lambda: waits.mono, steady_s=3)
    broken = await check(HEALTH, breaks.run, lambda: breaks.mono, steady_s=3)

    assert (steady.healthy, waits.mono) == (True, 13.0)
    assert (broken.healthy, broken.reason, breaks.mono) == (False, Reason.HEALTH_FAILED, 12.0)
    assert waits.deadlines_s[-1] == HEALTH.deadline_s


async def test_one_long_round_alone_is_not_steady() -> None:
    release = Release(Ended(0, "good"), takes_s=5)

    verdict = await check(HEALTH, release.run, lambda: release.mono, steady_s=3)

    assert verdict.healthy
    assert len(release.asked) == 2
