"""What changed in devices' documents, on its way into the journal and the projection.

Owns one batch of it, and which acknowledgements are kept. Runs on the writer's thread inside a
transaction.

Rule: every acknowledgement of a deployment of this hub is kept for ever. Those of deployments that
it does not know (it was restored from a backup, or the device makes them up) are kept as well, up
to a number for each device.
"""

from collections.abc import Mapping

from hub.offences import Offence, Offences
from hub.projection import decode_ack, row_of
from hub.store import devices, journal
from hub.store.database import Connection, load_number, save_number
from hub.store.journal import Seen
from hub.store.projection import Changes
from sync.documents import ACK, LOCAL, parse_ack_key
from sync.hlc import observe
from sync.records import BadRecord, Local, decode_as

HLC = "hlc"
"""Name of the number that keeps the hub's hybrid logical clock."""


class Entries:
    """Entries of devices' documents."""

    def __init__(self, offences: Offences) -> None:
        self._offences = offences
        self._deployments: set[str] | None = None
        self._changes = Changes()
        self._journal: list[Seen] = []
        self._stray_counts: dict[int, int] = {}
        self._clock = 0

    def forget(self) -> None:
        """Drop what was not written: its transaction has failed."""
        self._deployments = None
        self._changes = Changes()
        self._journal = []
        self._stray_counts = {}

    def deployed(self, deployment: str) -> None:
        """Know one more deployment as this hub's."""
        if self._deployments is not None:
            self._deployments.add(deployment)

    def add(
        self,
        connection: Connection,
        device: str,
        n: int,
        stray_count: int,
        changed: Mapping[str, bytes | None],
        now_ms: int,
        now_mono: float,
    ) -> None:
        """Take what changed in one device's document.

        Args:
            connection: In a transaction.
            device: Its name.
            n: Its number.
            stray_count: Acknowledgements of unknown deployments that are kept of it already.
            changed: New values by key, None where one is gone.
            now_ms: Hub UTC.
            now_mono: Monotonic seconds.
        """
        for key, value in changed.items():
            if key[:2] == ACK:
                if value is None:
                    continue
                try:
                    entry = _seen(key, value, n, now_ms)
                except BadRecord as error:
                    self._offences.add(device, Offence.BAD_RECORD, str(error), now_mono)
                    continue
                if entry.deployment not in self._known(connection) and not journal.has(
                    connection, *entry[:3]
                ):
                    stray_count += 1
                    if stray_count > journal.STRAYS_MAX:
                        detail = f"acknowledges what was never deployed: {key[:40]}"
                        self._offences.add(device, Offence.TOO_MANY_STRAYS, detail, now_mono)
                        continue
                    self._stray_counts[n] = stray_count
                self._journal.append(entry)
                continue
            row = row_of(n, key, value)
            if row.fault:
                self._offences.add(device, Offence.BAD_RECORD, row.fault, now_mono)
            elif key.startswith(LOCAL) and value is not None:
                self._see_clock(key, value)
            self._changes.add(row)

    def save(self, connection: Connection, now_ms: int) -> None:
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
            save_number(connection, HLC, observe(known, self._clock, now_ms))
            self._clock = 0
        self._changes.save(connection)

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
