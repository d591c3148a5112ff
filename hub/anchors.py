"""What frames prove about the clocks of devices, kept as it comes in.

Owns a cheap pre-check, so that the contacts of a device are loaded only if a frame could tighten
them, and their upkeep; `sync.contacts` decides what they prove. Lives on the writer's thread, and
forgets whenever it wants to.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from hub.projection import decode_ack
from hub.store import devices, journal
from hub.store.database import Connection
from sync.contacts import (
    ANCHORS_MAX,
    BOOTS_MAX,
    DRIFT_PPM,
    PINS_MAX,
    BadContacts,
    Boot,
    Contacts,
    decode_contacts,
    encode_contacts,
)
from sync.messages import Frame
from sync.records import BadRecord

WORTH_MS: Final = 50
"""A frame that tightens a bound by less is passed over. Two clocks may drift this far apart in 125
to 250 s, so a device causes one write of its contacts in about that time, and a bound is never
looser than it could be by more."""

REMEMBERED_MAX: Final = 100_000
"""Devices remembered, at some 200 bytes each."""

_MILLION: Final = 1_000_000


class _Bounds(NamedTuple):
    """What the stored contacts say of one moment of a boot."""

    boot: bytes
    boottime_ms: int
    lo_ms: int | None
    hi_ms: int | None


class Anchors:
    """What is remembered of each device's clock."""

    def __init__(self) -> None:
        self._bounds: dict[int, _Bounds] = {}

    def could_tighten(self, device: int, frame: Frame, received_ms: int) -> bool:
        """Tell whether the frame could tighten the bounds by more than `WORTH_MS`.

        Between two moments of a boot both clocks ran, and apart by no more than they may drift;
        so a bound that is known of one is known of the other, a little looser.
        """
        bounds = self._bounds.get(device)
        if bounds is None or bounds.boot != frame.sender or bounds.hi_ms is None:
            return True
        elapsed_ms = frame.sent_ms - bounds.boottime_ms
        drift_ms = abs(elapsed_ms) * DRIFT_PPM // _MILLION
        if received_ms + WORTH_MS < bounds.hi_ms + elapsed_ms + drift_ms:
            return True
        anchor = frame.anchor
        if anchor is None:
            return False
        if bounds.lo_ms is None:
            return True
        elapsed_ms = anchor[1] - bounds.boottime_ms
        drift_ms = abs(elapsed_ms) * DRIFT_PPM // _MILLION
        return anchor[0] - WORTH_MS > bounds.lo_ms + elapsed_ms - drift_ms

    def remember(self, device: int, boot: Boot, boottime_ms: int) -> None:
        """Note what the stored contacts of a boot say of one moment in it."""
        if len(self._bounds) >= REMEMBERED_MAX:
            del self._bounds[next(iter(self._bounds))]
        self._bounds[device] = _Bounds(
            boot.boot, boottime_ms, boot.lo_ms(boottime_ms), boot.hi_ms(boottime_ms)
        )

    def keep(
        self, connection: Connection, heard: Sequence[tuple[int, Frame]], received_ms: int
    ) -> None:
        """Store what frames of devices, given by number, prove about their clocks."""
        if not heard:
            return
        stored = devices.load_contacts(connection, {device for device, _ in heard})
        changed: dict[int, Contacts] = {}
        for device, frame in heard:
            before = changed.get(device)
            if before is None:
                before = contacts_in(stored.get(device))
            if wants_pins(before, frame.sender):
                before = pinned(before, journal.records_of(connection, device))
            contacts = before.heard(
                boot=frame.sender,
                sent_ms=frame.sent_ms,
                received_ms=received_ms,
                anchor=frame.anchor,
            )
            if contacts is not before:
                changed[device] = contacts
            boot = contacts.find(frame.sender)
            if boot is not None:
                self.remember(device, boot, frame.sent_ms)
        encoded = {device: encode_contacts(contacts) for device, contacts in changed.items()}
        devices.save_contacts(connection, encoded)

    def forget(self) -> None:
        """Forget everything: what is stored may be less."""
        self._bounds.clear()


def contacts_in(column: bytes | None) -> Contacts:
    """Return the contacts in a column; none if there is nothing or it cannot be read."""
    if column is None:
        return Contacts()
    try:
        return decode_contacts(column)
    except BadContacts:
        return Contacts()


def wants_pins(contacts: Contacts, boot: bytes) -> bool:
    """Tell whether one more frame of `boot` could push anchors or whole boots out."""
    known = contacts.find(boot)
    if known is None:
        return len(contacts.boots) >= BOOTS_MAX
    return len(known.up) >= ANCHORS_MAX or len(known.down) >= ANCHORS_MAX


def pinned(contacts: Contacts, records: Iterable[bytes]) -> Contacts:
    """Return `contacts` with the stamps of acknowledgements pinned, the latest of each boot."""
    stamps_ms: dict[bytes, list[int]] = defaultdict(list)
    for record in records:
        try:
            ack = decode_ack(record)
        except BadRecord:
            continue
        stamps_ms[ack.boot].append(ack.boottime_ms)
    return Contacts(
        tuple(
            Boot(each.boot, each.down, each.up, tuple(sorted(stamps_ms[each.boot])[-PINS_MAX:]))
            for each in contacts.boots
        )
    )
