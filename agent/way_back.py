"""Waiting on the way back, for an installer that asks for time: how long, and how often.

Owns those figures. The count is durable, in the journal; what is kept here is only when to ask
again, and a start of the agent asks at once. Neither windows nor locks hold up a way back.
"""

from typing import Final

from agent.clock import Clock
from agent.journal import Journal
from agent.patience import PutAside
from firmware_hooks.contract import InstallerError, RetryLater
from sync.stages import Reason

TRIES_MAX: Final = 60
WAIT_MIN_S: Final = 1.0
WAIT_MAX_S: Final = 60.0
"""With the longest wait each time, an hour: dpkg's lock is held for as long by a large upgrade."""


class WayBack:
    """Which installs wait until they may go back."""

    def __init__(self, clock: Clock) -> None:
        """Wait by this clock."""
        self._clock = clock
        self._again: dict[str, tuple[float, str]] = {}

    def put_aside(self, journal: Journal, later: RetryLater) -> None:
        """Put a way back aside.

        Raises:
            PutAside: It goes on later.
            InstallerError: The installer has asked for time too often.
        """
        if journal.back_tries >= TRIES_MAX:
            raise InstallerError(
                Reason.ROLLBACK_FAILED,
                f"the installer has asked for time {TRIES_MAX} times: {later.detail}"[:200],
            )
        wait_s = min(WAIT_MAX_S, max(WAIT_MIN_S, later.wait_s))
        self._again[journal.deployment] = (self._clock.mono_s() + wait_s, journal.component)
        raise PutAside(journal.deployment)

    def still_waits(self, deployment: str) -> bool:
        """Tell whether it is too early for a way back."""
        again_mono, _ = self._again.get(deployment, (0.0, ""))
        return self._clock.mono_s() < again_mono

    def next_look_s(self) -> float | None:
        """Return in how many seconds one goes on, None if none waits."""
        again = [again_mono for again_mono, _ in self._again.values()]
        return max(0.0, min(again) - self._clock.mono_s()) if again else None

    def take_up(self, deployment: str) -> None:
        """It goes on now."""
        self._again.pop(deployment, None)

    @property
    def components(self) -> frozenset[str]:
        """Components that something else must not be installed of: half of a switch may be done."""
        return frozenset(component for _, component in self._again.values())
