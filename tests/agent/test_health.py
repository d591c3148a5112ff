from collections.abc import Awaitable, Callable

from agent.command import Ended
from agent.health import check
from sync.manifest import Health
from sync.stages import Reason

HEALTH = Health(command=("check",), deadline_s=10, pause_s=0.05)


class Release:
    """Answers the health command as scripted; each try takes its time on a clock of its own."""

    def __init__(self, *answers: Ended, takes_s: float = 1.0) -> None:
        self.answers = list(answers)
        self.takes_s = takes_s
        self.mono = 0.0
        self.deadlines_s: list[float] = []

    @property
    def run(self) -> Callable[[float], Awaitable[Ended]]:
        async def once(deadline_s: float) -> Ended:
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
