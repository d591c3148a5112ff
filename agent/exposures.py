"""What flags came to on this device, as it tells the hub: written when that changes.

Owns the record of each flag that was read. Pure.
"""

import re
from collections.abc import Mapping
from typing import Final

from agent.deciding import Decision
from sync.records import Exposure
from sync.stamps import Stamp

EXPOSURES_MAX: Final = 100
"""Flags whose reading is told to the hub; a fleet with more live experiments learns from none."""

READER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._+~:/-]{0,99}\Z")
"""How a reading application may call itself: `app@1.4.0`."""


class Exposures:
    """What was shown in this start, and what of it is to be written."""

    def __init__(self) -> None:
        """Begin with nothing read."""
        self._due: dict[str, Exposure] = {}
        self._shown: dict[str, tuple[int, set[str]]] = {}
        self._readers: dict[str, set[str]] = {}

    def read(
        self,
        key: str,
        decision: Decision,
        reader: str,
        *,
        known: Mapping[str, Exposure],
        now: Stamp,
    ) -> bool:
        """A flag was read; returns whether there is something to write.

        A flag that is not defined leaves no trace, unless it has left one before.

        Args:
            key: The flag.
            decision: What it came to.
            reader: Who read it.
            known: What is written of all flags.
            now: This moment.
        """
        last = self._due.get(key, known.get(key))
        if last is None and (
            not (decision.clock or decision.variant)
            or len(known.keys() | self._due.keys()) >= EXPOSURES_MAX
        ):
            return False
        count = self._count(key, decision, last)
        readers = self._readers.setdefault(key, set())
        is_new_reader = reader not in readers and len(readers) < EXPOSURES_MAX
        readers.add(reader)
        if last is not None and last.boot == now.boot:
            seen = (last.variant, last.reason, last.clock)
            is_same = seen == (decision.variant, decision.reason.value, decision.clock)
            if is_same and (last.reader == reader or not is_new_reader):
                return False
        is_first = last is None or last.boot != now.boot
        self._due[key] = Exposure(
            now.boot,
            now.boottime_ms if is_first or last is None else last.boottime_ms,
            now.wall_ms if is_first or last is None else last.wall_ms,
            decision.variant,
            decision.reason.value,
            decision.clock,
            reader,
            count,
        )
        return True

    def due(self) -> dict[str, Exposure]:
        """Return what is to be written."""
        return dict(self._due)

    def written(self, exposures: Mapping[str, Exposure]) -> None:
        """So much was written; what came meanwhile is still due."""
        for key, exposure in exposures.items():
            if self._due.get(key) == exposure:
                del self._due[key]

    def _count(self, key: str, decision: Decision, last: Exposure | None) -> int:
        """Return how many variants were shown since the definition came, over restarts as well."""
        clock, shown = self._shown.get(key, (-1, set()))
        if clock != decision.clock:
            is_known = last is not None and last.clock == decision.clock
            shown = {last.variant} if is_known and last is not None else set()
            self._shown[key] = (decision.clock, shown)
        before = last.variants_count if last is not None and last.clock == decision.clock else 0
        is_new = decision.variant not in shown
        shown.add(decision.variant)
        return before + is_new
