"""What changed in devices' documents, on its way into the journal and the projection.

Owns one batch of it, and which acknowledgements are kept. Runs on the writer's thread inside a
transaction.

Rule: every acknowledgement of a deployment of this hub is kept for ever. Those of deployments that
it does not know (it was restored from a backup, or the device makes them up) are kept as well, up
to a number for each device.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from hub.clock import Now
from hub.offences import Offence, Offences
from hub.projection import decode_ack, row_of, row_of_telemetry
from hub.store import devices, journal, kills
from hub.store.database import Connection, load_number, save_number
from hub.store.journal import Seen
from hub.store.projection import Changes
from sync.documents import ACK, LOCAL, OBEYED, parse_ack_key
from sync.hlc import observe
from sync.records import BadRecord, Local, decode_as

HLC = "hlc"
"""Name of the number that keeps the hub's hybrid logical clock."""


STRAYS_MAX: Final = 1000
"""Acknowledgements of deployments that this hub does not know, kept of one device."""

STRAYS_STEP: Final = 20
"""The count is stored each time it has grown by so many; the rest is forgotten with a restart."""

STRAYS_REMEMBERED_MAX: Final = 100_000


class Source(NamedTuple):
    """Whose document changed."""

    device: str
    n: int
    stray_count: int
    """Acknowledgements of unknown deployments that are kept of it already."""


class Entries:
    """Entries of devices' documents."""

    def __init__(self, offences: Offences) -> None:
        self._offences = offences
        self._deployments: set[str] | None = None
        self._changes = Changes()
        self._journal: list[Seen] = []
        self._strays: dict[int, int] = {}
        self._stray_counts: dict[int, int] = {}
        self._clock = 0
        self._obeyed: list[tuple[object, ...]] = []

    def forget(self) -> None:
        """Drop what was not written: its transaction has failed."""
        self._deployments = None
        self._changes = Changes()
        self._journal = []
        self._strays = {}
        self._stray_counts = {}
        self._clock = 0
        self._obeyed = []

    def deployed(self, deployment: str) -> None:
        """Know one more deployment as this hub's."""
        if self._deployments is not None:
            self._deployments.add(deployment)

    def add(
        self,
        connection: Connection,
        source: Source,
        changed: Mapping[str, bytes | None],
        now: Now,
    ) -> None:
        """Take what changed in one device's document: new values by key, None where one is gone."""
        device, n, _ = source
        for key, value in changed.items():
            if key[:2] == ACK:
                if value is None:
                    continue
                try:
                    entry = _seen(key, value, n, now.ms)
                except BadRecord as error:
                    self._offences.add(device, Offence.BAD_RECORD, str(error), now.mono_s)
                    continue
                if entry.deployment in self._known(connection) or self._admits_stray(source):
                    self._journal.append(entry)
                else:
                    detail = f"acknowledges what was never deployed: {key[:40]}"
                    self._offences.add(device, Offence.TOO_MANY_STRAYS, detail, now.mono_s)
                continue
            row = row_of(n, key, value)
            if row.fault:
                self._offences.add(device, Offence.BAD_RECORD, row.fault, now.mono_s)
            elif key.startswith(LOCAL) and value is not None:
                self._see_clock(key, value)
            elif key.startswith(OBEYED) and row.columns is not None:
                self._obeyed.append((*row.columns, now.ms))
            self._changes.add(row)

    def add_telemetry(self, source: Source, changed: Mapping[str, bytes | None], now: Now) -> None:
        """Take what changed in one device's telemetry."""
        for key, value in changed.items():
            row = row_of_telemetry(source.n, key, value)
            if row.fault:
                self._offences.add(source.device, Offence.BAD_RECORD, row.fault, now.mono_s)
            self._changes.add(row)

    def save(self, connection: Connection, now: Now) -> None:
        """Write down what was gathered."""
        if self._journal:
            # In the order of the table: a third fewer pages are written.
            self._journal.sort()
            journal.save(connection, self._journal)
            self._journal = []
        if self._stray_counts:
            counts = [(count, n) for n, count in self._stray_counts.items()]
            devices.save_stray_counts(connection, counts)
            self._stray_counts = {}
        if self._clock:
            known = load_number(connection, HLC)
            save_number(connection, HLC, observe(known, self._clock, now.ms))
            self._clock = 0
        if self._obeyed:
            kills.save_seen(connection, self._obeyed)
            self._obeyed = []
        self._changes.save(connection)

    def _admits_stray(self, source: Source) -> bool:
        """Count one more acknowledgement of an unknown deployment; False if there are too many."""
        count = self._strays.get(source.n, source.stray_count) + 1
        if count > STRAYS_MAX:
            return False
        if len(self._strays) >= STRAYS_REMEMBERED_MAX:
            self._strays.clear()
        self._strays[source.n] = count
        if count % STRAYS_STEP == 0:
            self._stray_counts[source.n] = count
        return True

    def _known(self, connection: Connection) -> set[str]:
        if self._deployments is None:
            self._deployments = journal.deployments(connection)
        return self._deployments

    def _see_clock(self, key: str, value: bytes) -> None:
        try:
            self._clock = max(self._clock, decode_as(Local, key, value).clock)
        except BadRecord:
            return


def _seen(key: str, value: bytes, n: int, now_ms: int) -> Seen:
    """Return an acknowledgement for the journal.

    Raises:
        BadRecord: Key or value is none of an acknowledgement.
    """
    found = parse_ack_key(key)
    if found is None:
        raise BadRecord(f"{key[:40]!r} is no key of an acknowledgement")
    decode_ack(value)
    return Seen(found[0], n, found[1], value, now_ms)
