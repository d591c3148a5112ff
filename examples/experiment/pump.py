"""A pump that runs one of several ways, and an experiment that tries another.

An experiment is one class and one entry of `EXPERIMENTS`. Whoever ends it deletes both, and its
flag in `flags.json`; nothing else here knows of it.
"""

from collections.abc import Callable, Mapping
from typing import Final


class Steady:
    """Runs the pump as it always ran."""

    def seconds_on(self, dryness: float) -> float:
        """Return how long the pump shall run, for soil as dry as this (0 to 1)."""
        return 60.0 * dryness


class Pulsed(Steady):
    """Gives the water time to sink in: longer altogether, for soil that is dry."""

    def seconds_on(self, dryness: float) -> float:
        """Return how long the pump shall run, for soil as dry as this (0 to 1)."""
        return super().seconds_on(dryness) * (1.5 if dryness > 0.5 else 1.0)  # noqa: PLR2004


EXPERIMENTS: Final[Mapping[str, type[Steady]]] = {
    "pump-pulsed": Pulsed,
}
"""The class that each flag switches on."""


def way_to_run(is_on: Callable[[str], bool]) -> Steady:
    """Return how to run the pump: as the first experiment that is on for this device says.

    `is_on` reads a flag, False if nobody has defined it.
    """
    for flag, way in EXPERIMENTS.items():
        if is_on(flag):
            return way()
    return Steady()
