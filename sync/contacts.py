"""Contacts between a device and the hub, and what they prove about when a stamp was made.

Owns the anchors that are kept of each device, and the mapping from a stamp to an interval of hub
time by causality alone: nothing arrives before it was sent. Never reads a clock.

Rule: wall time never narrows an interval. A device without a battery-backed clock starts in the
past, and one that calls itself synchronised does not say with whom or how well; a bound that is
wrong once makes every figure built on it worthless. It is kept for people to look at.

Method: each frame from the hub that a device received bounds the hub's time at that moment from
below, each frame that the hub received bounds it from above, and between such anchors the device's
clock runs true to within a drift bound. This is the interval form of Cristian, "Probabilistic clock
synchronization" (1989), and Marzullo and Owicki, "Maintaining the time in a distributed system"
(1983), without an exchange of its own: ordinary traffic carries the anchors.
"""

from bisect import bisect_left
from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta

from sync.stamps import BOOT_BYTES, Interval, Stamp, tighter

DRIFT_PPM = 200
"""How far the clocks of device and hub may run apart, in millionths. Crystals on small boards stay
within 100 from -20 to 70 degrees; the rest is for a hub whose clock is being slewed."""

ANCHORS_MAX = 24
"""Anchors kept for each direction of one boot."""

PINS_MAX = 12
"""Stamps of one boot whose anchors are kept when others are dropped; two or three deployments."""

BOOTS_MAX = 8
"""Boots of one device of which contacts are kept."""

TOLERANCE_MS = 10
"""A new anchor that tightens no bound by more is not kept, so a busy device does not cause a write
for each of its frames. At full drift it takes 28 s for an anchor to loosen by this much."""

_MILLION = 1_000_000
_CUT_MS = 1
"""Times are cut to whole milliseconds, so each may be up to this much later than it says."""

Milliseconds = Annotated[int, Meta(ge=0, le=2**53 - 1)]


class Anchor(msgspec.Struct, frozen=True, array_like=True):
    """One frame that crossed: the device's clock at its end of the line, the hub's at the other."""

    boottime_ms: Milliseconds
    hub_ms: Milliseconds


Anchors = Annotated[tuple[Anchor, ...], Meta(max_length=ANCHORS_MAX)]


class Boot(msgspec.Struct, frozen=True, array_like=True):
    """The contacts within one boot of a device, in the order of its clock."""

    boot: Annotated[bytes, Meta(min_length=BOOT_BYTES, max_length=BOOT_BYTES)]
    down: Anchors = ()
    """(arrived at the device, sent by the hub): hub time at arrival >= `hub_ms`."""
    up: Anchors = ()
    """(sent by the device, received by the hub): hub time at sending <= `hub_ms`."""
    pins: Annotated[tuple[Milliseconds, ...], Meta(max_length=PINS_MAX)] = ()

    @property
    def last_known_ms(self) -> int:
        """Return the latest boottime at which the device is known to have been in this boot."""
        edges = [anchors[-1].boottime_ms for anchors in (self.down, self.up) if anchors]
        return max(edges, default=0)

    @property
    def heard_ms(self) -> int:
        """Return the latest hub time at which anything of this boot was known."""
        return max((anchor.hub_ms for anchor in self.down + self.up), default=0)

    def lo_ms(self, boottime_ms: int, drift_ppm: int = DRIFT_PPM) -> int | None:
        """Return the earliest hub time that this boot's own contacts allow for a moment in it."""
        nearest = _nearest(self.down, boottime_ms)
        return max((_lowest(anchor, boottime_ms, drift_ppm) for anchor in nearest), default=None)

    def hi_ms(self, boottime_ms: int, drift_ppm: int = DRIFT_PPM) -> int | None:
        """Return the latest hub time that this boot's own contacts allow for a moment in it."""
        nearest = _nearest(self.up, boottime_ms)
        return min((_highest(anchor, boottime_ms, drift_ppm) for anchor in nearest), default=None)


class Contacts(msgspec.Struct, frozen=True, array_like=True):
    """What is kept of the contacts with one device: a few hundred bytes, whatever its age.

    An immutable value; equal contacts in equal order give equal bytes.
    Dropping an anchor can only loosen a bound, never make it wrong.
    """

    boots: Annotated[tuple[Boot, ...], Meta(max_length=BOOTS_MAX)] = ()

    def find(self, boot: bytes) -> Boot | None:
        """Return the contacts of one boot, None if there are none."""
        return next((known for known in self.boots if known.boot == boot), None)

    def heard(
        self,
        *,
        boot: bytes,
        sent_ms: int,
        received_ms: int,
        anchor: tuple[int, int] | None = None,
    ) -> "Contacts":
        """Return the contacts after one frame arrived from the device.

        Args:
            boot: The frame's sender. Anything but six bytes changes nothing.
            sent_ms: CLOCK_BOOTTIME of the device when it sent the frame.
            received_ms: Hub UTC when the frame arrived.
            anchor: (`sent_ms` of a hub frame, CLOCK_BOOTTIME at its arrival), as the device echoes
                it. One from the future of either clock is impossible and is left out.

        Returns:
            This very object if the frame taught nothing worth keeping, so `is` tells whether there
            is anything to store.
        """
        if len(boot) != BOOT_BYTES:
            return self
        known = self.find(boot)
        before = known if known is not None else Boot(boot)
        up = _with(before.up, Anchor(sent_ms, received_ms), before.pins, _tight_above)
        down = before.down
        if anchor is not None and anchor[0] <= received_ms and anchor[1] <= sent_ms:
            down = _with(down, Anchor(anchor[1], anchor[0]), before.pins, _tight_below)
        if known is not None and up is before.up and down is before.down:
            return self
        return self._replaced(msgspec.structs.replace(before, up=up, down=down))

    def pinned(self, stamp: Stamp) -> "Contacts":
        """Return the contacts with the anchors that bound `stamp` kept before all others.

        Pin the stamps that figures are made of, when they are first seen: then a figure does not
        grow vaguer as its device stays up. The twelve latest pins of a boot count.
        """
        known = self.find(stamp.boot)
        if known is None or stamp.boottime_ms in known.pins:
            return self
        pins = (*known.pins, stamp.boottime_ms)[-PINS_MAX:]
        return self._replaced(msgspec.structs.replace(known, pins=pins))

    def _replaced(self, changed: Boot) -> "Contacts":
        boots = [known for known in self.boots if known.boot != changed.boot] + [changed]
        while len(boots) > BOOTS_MAX:
            # A device in a boot loop must not push out the boot in which it installed something.
            boots.remove(min(boots[:-1], key=lambda each: (bool(each.pins), each.heard_ms)))
        return Contacts(tuple(boots))


def interval_of(
    stamp: Stamp, contacts: Contacts, *, seen_at_ms: int | None, drift_ppm: int = DRIFT_PPM
) -> Interval:
    """Return when `stamp` was made, by the hub's clock.

    Within a boot both bounds come from its anchors. Across a reboot only order survives: a moment
    is after all that is known of an earlier boot and before all that is known of a later one, where
    the contacts prove which was earlier. Without a contact in its boot there is only `seen_at_ms`.

    Args:
        stamp: The moment by the device's clocks. Its wall time is not looked at.
        contacts: Contacts with the device that made the stamp.
        seen_at_ms: Hub UTC when the hub first held the stamp, None if it is not known.
        drift_ppm: How far the two clocks may run apart.

    Returns:
        An interval that holds the truth if the drift bound holds, the hub's clock was not set and
        the device echoes honestly. If these contradict each other (a virtual machine was put back
        to a snapshot, the hub's clock stepped), the contacts count for nothing.
    """
    fallback = Interval(None, seen_at_ms)
    own = contacts.find(stamp.boot)
    if own is None:
        return fallback
    lo_ms = own.lo_ms(stamp.boottime_ms, drift_ppm)
    hi_ms = tighter(min, own.hi_ms(stamp.boottime_ms, drift_ppm), seen_at_ms)
    for other in contacts.boots:
        if other.boot == own.boot:
            continue
        if _precedes(other, own, drift_ppm):
            end_ms = other.lo_ms(other.last_known_ms, drift_ppm)
            if end_ms is not None:
                since_boot_ms = stamp.boottime_ms * (_MILLION - drift_ppm) // _MILLION
                lo_ms = tighter(max, lo_ms, end_ms + since_boot_ms)
        elif _precedes(own, other, drift_ppm):
            hi_ms = tighter(min, hi_ms, other.hi_ms(0, drift_ppm))
    if lo_ms is not None and hi_ms is not None and lo_ms > hi_ms:
        return fallback
    return Interval(lo_ms, hi_ms)


def _precedes(earlier: Boot, later: Boot, drift_ppm: int) -> bool:
    """Tell whether one boot is proven to be before another.

    Boots do not overlap, so one moment of each is enough. The order in which the hub received
    frames proves nothing: a broker may keep one back.
    """
    start_hi_ms = earlier.hi_ms(0, drift_ppm)
    end_lo_ms = later.lo_ms(later.last_known_ms, drift_ppm)
    return start_hi_ms is not None and end_lo_ms is not None and start_hi_ms < end_lo_ms


def _nearest(anchors: tuple[Anchor, ...], boottime_ms: int) -> tuple[Anchor, ...]:
    """Return the anchors on either side of a moment.

    Where none outdoes another, one of these two bounds the moment best; if the next one further out
    did, it would outdo its neighbour everywhere. In any case each is a bound that holds.
    """
    position = bisect_left(anchors, boottime_ms, key=_boottime_ms)
    return anchors[max(0, position - 1) : position + 1]


def _boottime_ms(anchor: Anchor) -> int:
    return anchor.boottime_ms


def _lowest(anchor: Anchor, boottime_ms: int, drift_ppm: int) -> int:
    elapsed_ms = boottime_ms - anchor.boottime_ms - _CUT_MS
    rate = _MILLION - drift_ppm if elapsed_ms >= 0 else _MILLION + drift_ppm
    return anchor.hub_ms + elapsed_ms * rate // _MILLION


def _highest(anchor: Anchor, boottime_ms: int, drift_ppm: int) -> int:
    elapsed_ms = boottime_ms - anchor.boottime_ms + _CUT_MS
    rate = _MILLION + drift_ppm if elapsed_ms >= 0 else _MILLION - drift_ppm
    return anchor.hub_ms + _CUT_MS - (-elapsed_ms * rate // _MILLION)


def _tight_below(anchor: Anchor, boottime_ms: int) -> int:
    return _lowest(anchor, boottime_ms, DRIFT_PPM)


def _tight_above(anchor: Anchor, boottime_ms: int) -> int:
    return -_highest(anchor, boottime_ms, DRIFT_PPM)


def _with(
    anchors: tuple[Anchor, ...],
    new: Anchor,
    pins: tuple[int, ...],
    tightness: Callable[[Anchor, int], int],
) -> tuple[Anchor, ...]:
    """Return `anchors` with `new` among them if it tightens a bound, the same object if not.

    `tightness(anchor, boottime_ms)` is larger the closer the anchor bounds that moment. What one
    anchor adds to another is greatest at its own moment, so that is where they are compared.
    """
    at_ms = new.boottime_ms
    worth = tightness(new, at_ms) - TOLERANCE_MS
    if any(tightness(held, at_ms) >= worth for held in _nearest(anchors, at_ms)):
        return anchors
    kept = [
        held
        for held in anchors
        if tightness(new, held.boottime_ms) < tightness(held, held.boottime_ms)
    ]
    kept.append(new)
    kept.sort(key=_boottime_ms)
    while len(kept) > ANCHORS_MAX:
        kept.remove(_least_missed(kept, pins, tightness))
    return tuple(kept)


def _least_missed(
    anchors: list[Anchor], pins: tuple[int, ...], tightness: Callable[[Anchor, int], int]
) -> Anchor:
    """Return the anchor whose loss loosens the bounds least: not an end, not under a pinned stamp.

    What one anchor alone rules out is a parallelogram in the plane of device time and hub time,
    between its own two bounding lines and the nearer one of each neighbour. Its area goes as the
    product taken here, which thins crowds and leaves the edges of long gaps alone; by the loss at
    the anchor's own moment, gaps would be nibbled away, each step cheap.
    """
    resting = {id(max(anchors, key=lambda anchor: tightness(anchor, pin))) for pin in pins}
    losses: list[tuple[int, int]] = []
    for position in range(1, len(anchors) - 1):
        anchor = anchors[position]
        if id(anchor) in resting:
            continue
        at_ms = anchor.boottime_ms
        own = tightness(anchor, at_ms)
        over_earlier = own - tightness(anchors[position - 1], at_ms)
        over_later = own - tightness(anchors[position + 1], at_ms)
        losses.append((over_earlier * over_later, position))
    return anchors[min(losses)[1]]


class BadContacts(ValueError):
    """Stored contacts cannot be read.

    The store is to blame; stamps are still bounded by when they were seen.
    """


_DECODER = msgspec.msgpack.Decoder(Contacts)
_ENCODER = msgspec.msgpack.Encoder()


def encode_contacts(contacts: Contacts) -> bytes:
    """Return the bytes of `contacts` as they are stored."""
    return _ENCODER.encode(contacts)


def decode_contacts(encoded: bytes) -> Contacts:
    """Return the contacts in `encoded`.

    Raises:
        BadContacts: They cannot be read.
    """
    try:
        return _DECODER.decode(encoded)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadContacts(f"stored contacts: {str(error)[:200]}") from None
