"""What devices did wrong: gathered for one transaction, counted by device and code.

Owns the codes that are not of the gate, the bound on how much is kept, and how often a line is
logged. A device is named by the topic it used, never by what it said of itself.
"""

import logging
from collections.abc import Collection
from enum import StrEnum
from typing import Final

logger = logging.getLogger(__name__)

LOG_EVERY_S: Final = 60.0
"""One line a minute for each device, however much it does."""

LOGGED_DEVICES_MAX: Final = 10_000

ROWS_MAX: Final = 20_000
"""Rows kept. Beyond it, what unregistered names do is counted under one name."""

UNREGISTERED: Final = "(unregistered)"

DETAIL_CHARACTERS_MAX: Final = 200


class Offence(StrEnum):
    """Codes besides those of `sync.gate.Refusal`. Values are stored; never reuse one."""

    BAD_FRAME = "bad_frame"
    BAD_PRESENCE = "bad_presence"
    BAD_RECORD = "bad_record"
    BAD_EPOCH = "bad_epoch"
    CLONE_SUSPECTED = "clone_suspected"
    """Two live devices use its name."""
    FLOOD = "flood"
    FOREIGN_GROUP = "foreign_group"
    NOT_ADMITTED = "not_admitted"
    NOT_ENROLLED = "not_enrolled"
    """Its name has no identity that counts, and the broker let it speak all the same."""
    REFUSES = "refuses"
    """It refuses a document of the hub; its program may be older than the hub's."""
    TOO_MANY_STRAYS = "too_many_strays"


class Offences:
    """Counts of one batch, and when a line was last logged about whom."""

    def __init__(self) -> None:
        self.total_count = 0
        self._counts: dict[tuple[str, str], tuple[int, str]] = {}
        self._logged_mono: dict[str, float] = {}

    def add(self, device: str, code: str, detail: str, now_mono: float) -> None:
        """Count one offence of `device`, and log it unless that was done a moment ago."""
        self.total_count += 1
        count, _ = self._counts.get((device, code), (0, ""))
        self._counts[device, code] = (count + 1, detail[:DETAIL_CHARACTERS_MAX])
        logged_mono = self._logged_mono.get(device)
        if logged_mono is not None and now_mono - logged_mono < LOG_EVERY_S:
            return
        if len(self._logged_mono) >= LOGGED_DEVICES_MAX:
            self._logged_mono.clear()
        self._logged_mono[device] = now_mono
        logger.warning(
            "refused something from device %s (%s): %s; the rest of this minute is only counted",
            device,
            code,
            detail[:DETAIL_CHARACTERS_MAX],
        )

    def forget(self) -> None:
        """Drop what was not written: its transaction has failed, and the batch is taken again."""
        self._counts.clear()

    def __bool__(self) -> bool:
        """Tell whether there is anything to take."""
        return bool(self._counts)

    def names(self) -> set[str]:
        """Return who has done something wrong."""
        return {device for device, _ in self._counts}

    def take(
        self, registered: Collection[str], now_ms: int, *, rows_count: int
    ) -> list[tuple[str, str, int, int, str]]:
        """Return (device, code, count, hub UTC, detail) for the store, and start anew.

        Args:
            registered: Devices among the offenders that are registered.
            now_ms: Hub UTC.
            rows_count: Rows in the store by now.
        """
        rows: dict[tuple[str, str], tuple[int, str]] = {}
        for (device, code), (count, detail) in self._counts.items():
            is_named = device in registered or rows_count + len(rows) < ROWS_MAX
            name = device if is_named else UNREGISTERED
            before, _ = rows.get((name, code), (0, ""))
            rows[name, code] = (before + count, detail)
        self._counts.clear()
        return [
            (device, code, count, now_ms, detail)
            for (device, code), (count, detail) in rows.items()
        ]
