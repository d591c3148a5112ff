"""A histogram with logarithmic buckets: small, mergeable, the same in whatever order it is made.

Owns the shape, the merge, and the way to and from `sync.records.Measure`. The shape is that of
OTLP's ExponentialHistogram (OpenTelemetry metrics data model): bucket i of scale s holds the values
in (2**(i / 2**s), 2**((i + 1) / 2**s)].

Rule: what a sketch is follows from the multiset of its values alone. Its scale is the finest, up to
`SCALE`, at which all its values fit into `BUCKETS_MAX` buckets; its sum is kept exactly and rounded
once. So merging is commutative and associative to the last bit.
"""

from collections.abc import Iterable
from math import ceil, fsum, inf, isfinite, log2
from sys import float_info
from typing import Final

from sync.records import BUCKETS_MAX, BadRecord, Measure

SCALE: Final = 4
"""Finest scale: buckets 4.4 % wide, so that a quantile is wrong by at most 2.2 %. At this scale 320
buckets cover a factor of a million; a wider sketch halves its resolution, as OTLP's do."""

SCALES: Final = range(-10, 21)
"""Those of OTLP. At the coarsest two buckets hold every float."""

VALUE_MAX: Final = 1e150
"""Largest absolute value: sums of as many as can be counted stay finite."""

TOTAL_MAX: Final = 1e170
"""Largest absolute sum in a record, for the same reason."""

HISTOGRAM: Final = "h"

_SLACK: Final = 1e-9
"""What rounding may do to a sum or to the edge of a bucket, relatively."""


def error_bound(scale: int = SCALE) -> float:
    """Return the largest relative error of a quantile at this scale: 0.0217 at the finest."""
    base = _edge(1, scale)
    return 1.0 if base == inf else (base - 1) / (base + 1)


class Sketch:
    """Counts of observations in logarithmic buckets. Zero and less are counted apart."""

    __slots__ = ("_buckets", "_partials", "count", "least", "most", "scale", "zeros")

    def __init__(self) -> None:
        """Begin with no observation."""
        self.count = 0
        self.zeros = 0
        self.least = 0.0
        self.most = 0.0
        self.scale = SCALE
        self._buckets: dict[int, int] = {}
        self._partials: list[float] = []

    # Growing.

    def add(self, value: float) -> None:
        """Count one observation.

        Raises:
            ValueError: It is no number, or beyond `VALUE_MAX`; nothing was counted.
        """
        if not -VALUE_MAX <= value <= VALUE_MAX:
            raise ValueError(f"{value!r} cannot be measured: numbers up to {VALUE_MAX:g} can")
        value = float(value)
        if value > 0.0:
            index = index_of(value, self.scale)
            self._buckets[index] = self._buckets.get(index, 0) + 1
            if len(self._buckets) > 1:
                self._fit()
        else:
            self.zeros += 1
        if self.count:
            self.least = min(self.least, value)
            self.most = max(self.most, value)
        else:
            self.least = self.most = value
        self.count += 1
        _grow(self._partials, value)

    def merge(self, other: "Sketch") -> None:
        """Take in all observations of `other`, which stays as it is."""
        if not other.count:
            return
        if self.count:
            self.least = min(self.least, other.least)
            self.most = max(self.most, other.most)
        else:
            self.least, self.most = other.least, other.most
        self.count += other.count
        self.zeros += other.zeros
        self._coarsen(min(self.scale, other.scale))
        shift = other.scale - self.scale
        for index, number in other.buckets().items():
            here = index >> shift
            self._buckets[here] = self._buckets.get(here, 0) + number
        self._fit()
        for partial in other._partials:  # noqa: SLF001 - of its own kind
            _grow(self._partials, partial)

    # Reading.

    @property
    def total(self) -> float:
        """Return the sum of all observations, rounded once."""
        return fsum(self._partials)

    def quantile(self, q: float) -> float:
        """Return the value below which a share `q` lies, in the middle of its bounds.

        At the finest scale it is at most 2.2 % away from the observation of that rank.

        Raises:
            ValueError: There is no observation, or `q` is not between 0 and 1.
        """
        low, high = self.quantile_bounds(q)
        if low > 0.0:
            return 2.0 * low * (high / (low + high))  # as far from both ends, relatively
        return high if low == high else (low + high) / 2

    def quantile_bounds(self, q: float) -> tuple[float, float]:
        """Return the bounds within which the observation of rank `ceil(q * count)` lies.

        Raises:
            ValueError: There is no observation, or `q` is not between 0 and 1.
        """
        if not 0.0 <= q <= 1.0:
            raise ValueError(f"{q!r} is no share: it must be between 0 and 1")
        if not self.count:
            raise ValueError("a sketch without observations has no quantiles")
        rank = min(self.count, max(1, ceil(q * self.count - _SLACK)))
        passed = self.zeros
        if rank <= passed:
            return self.least, min(0.0, self.most)
        for index in sorted(self._buckets):
            passed += self._buckets[index]
            if rank <= passed:
                low, high = _edge(index, self.scale), _edge(index + 1, self.scale)
                # Rounding may put a value at the very edge of the bucket beside its own.
                low, high = max(low, self.least), min(high, self.most)
                return (low, high) if low <= high else (high, high)
        return self.most, self.most

    def share_above(self, limit: float) -> tuple[float, float]:
        """Return bounds of the share of observations above `limit`.

        Raises:
            ValueError: There is no observation.
        """
        if not self.count:
            raise ValueError("a sketch without observations has no shares")
        if limit >= self.most:
            return 0.0, 0.0
        if limit < self.least:
            return 1.0, 1.0
        surely = perhaps = 0
        for index, number in self._buckets.items():
            if _edge(index, self.scale) >= limit:
                surely += number
            elif _edge(index + 1, self.scale) > limit:
                perhaps += number
        if limit < 0.0:
            perhaps += self.zeros
        return surely / self.count, (surely + perhaps) / self.count

    def buckets(self) -> dict[int, int]:
        """Return the counts by index at `scale`."""
        return dict(self._buckets)

    def bars(self, bars_max: int) -> list[tuple[float, float, int]]:
        """Return the shape in so many steps at most: (above, up to, count), the empty ones too.

        Zero and less are the first step, if there are any.
        """
        coarse = self.copy()
        while coarse._buckets and max(coarse._buckets) - min(coarse._buckets) >= bars_max - 1:  # noqa: SLF001 - of its own kind
            coarse._coarsen(coarse.scale - 1)  # noqa: SLF001 - the same
        found = [(self.least, 0.0, self.zeros)] if self.zeros else []
        held = coarse.buckets()
        if held:
            found += [
                (_edge(index, coarse.scale), _edge(index + 1, coarse.scale), held.get(index, 0))
                for index in range(min(held), max(held) + 1)
            ]
        return found

    def copy(self) -> "Sketch":
        """Return a sketch of the same observations."""
        twin = Sketch()
        twin.merge(self)
        return twin

    def __eq__(self, other: object) -> bool:
        """Tell whether both are the same to the last bit."""
        if not isinstance(other, Sketch):
            return NotImplemented
        return self._identity() == other._identity()

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        """Return what a person wants to see of it."""
        return f"<Sketch of {self.count} from {self.least:g} to {self.most:g}>"

    def _identity(self) -> tuple[object, ...]:
        return (
            self.count,
            self.zeros,
            self.least,
            self.most,
            self.scale,
            self.total,
            sorted(self._buckets.items()),
        )

    # Shape.

    def _fit(self) -> None:
        """Halve the resolution until all buckets fit."""
        if not self._buckets:
            return
        first, last = min(self._buckets), max(self._buckets)
        scale = self.scale
        while last - first >= BUCKETS_MAX:
            first, last, scale = first >> 1, last >> 1, scale - 1
        self._coarsen(scale)

    def _coarsen(self, scale: int) -> None:
        if scale == self.scale:
            return
        shift = self.scale - scale
        coarse: dict[int, int] = {}
        for index, number in self._buckets.items():
            here = index >> shift
            coarse[here] = coarse.get(here, 0) + number
        self._buckets = coarse
        self.scale = scale

    # Records.

    def to_record(self, start: bytes, boot: bytes, boottime_ms: int) -> Measure:
        """Return the record of the series that began as `start`, written at this boot and time."""
        first = min(self._buckets, default=0)
        last = max(self._buckets, default=-1)
        return Measure(
            HISTOGRAM,
            start,
            self.count,
            self.total,
            self.least,
            self.most,
            self.zeros,
            self.scale,
            first,
            tuple(self._buckets.get(index, 0) for index in range(first, last + 1)),
            boot,
            boottime_ms,
        )


def from_record(record: Measure) -> Sketch:
    """Return the sketch in a record, which may be anybody's.

    Raises:
        BadRecord: It is no histogram, or contradicts itself.
    """
    if record.kind != HISTOGRAM:
        raise BadRecord(f"a series of kind {record.kind!r} is no histogram")
    _check(record)
    sketch = Sketch()
    sketch.count, sketch.zeros = record.count, record.zeros
    sketch.least, sketch.most = record.least, record.most
    sketch.scale = record.scale
    sketch._buckets = {  # noqa: SLF001 - its own
        record.first + place: number for place, number in enumerate(record.buckets) if number
    }
    if record.count:
        sketch._partials = [record.total]  # noqa: SLF001 - its own
    sketch._coarsen(min(SCALE, record.scale))  # noqa: SLF001 - its own
    _check_edges(sketch)
    return sketch


def since(later: Measure, earlier: Measure) -> Sketch | None:
    """Return what was observed between two records of one series.

    A series that began anew in between holds only what came after, so all of it counts. None if
    they contradict each other, as after a device was put back.

    Raises:
        BadRecord: As `from_record`.
    """
    whole = from_record(later)
    if later.start != earlier.start:
        return whole
    before = from_record(earlier)
    if before.count > whole.count or before.zeros > whole.zeros:
        return None
    scale = min(whole.scale, before.scale)
    whole._coarsen(scale)  # noqa: SLF001 - its own
    before._coarsen(scale)  # noqa: SLF001 - its own
    held = {
        index: number - before._buckets.get(index, 0)  # noqa: SLF001 - its own
        for index, number in whole._buckets.items()  # noqa: SLF001 - its own
    }
    if any(number < 0 for number in held.values()) or before._buckets.keys() - held.keys():  # noqa: SLF001 - its own
        return None
    found = Sketch()
    found.scale = scale
    found.count, found.zeros = whole.count - before.count, whole.zeros - before.zeros
    found._buckets = {index: number for index, number in held.items() if number}  # noqa: SLF001 - its own
    if not found.count:
        return found
    found._partials = [whole.total - before.total]  # noqa: SLF001 - its own
    # The least and the most of the time between are known by their buckets alone.
    filled = found._buckets  # noqa: SLF001 - its own
    found.most = min(whole.most, _edge(max(filled) + 1, scale)) if filled else min(0.0, whole.most)
    found.least = (
        min(0.0, whole.least) if found.zeros else max(whole.least, _edge(min(filled), scale))
    )
    return found


def merged(sketches: Iterable[Sketch]) -> Sketch:
    """Return one sketch of all observations of all; the order makes no difference."""
    whole = Sketch()
    for sketch in sketches:
        whole.merge(sketch)
    return whole


def index_of(value: float, scale: int) -> int:
    """Return the bucket of a positive value: `ceil(log2(value) * 2**scale) - 1`.

    The finest index is found first and the coarser ones follow from it by halving, so that a value
    is in the same bucket whether the sketch was coarse before or after it came.
    """
    return (ceil(log2(value) * (1 << SCALE)) - 1) >> (SCALE - scale)


def _check(record: Measure) -> None:
    numbers = (record.total, record.least, record.most)
    if not all(isfinite(number) for number in numbers):
        raise BadRecord("a histogram's sum, least and most must be finite")
    if abs(record.total) > TOTAL_MAX or max(abs(record.least), abs(record.most)) > VALUE_MAX:
        raise BadRecord(f"a histogram holds values up to {VALUE_MAX:g}")
    if record.count < 0 or record.zeros < 0 or any(number < 0 for number in record.buckets):
        raise BadRecord("a histogram counts from zero up")
    if record.scale not in SCALES or abs(record.first) > 2**20:
        raise BadRecord(f"a histogram has no scale {record.scale} from bucket {record.first}")
    if len(record.buckets) > BUCKETS_MAX:
        raise BadRecord(f"{len(record.buckets)} buckets, at most {BUCKETS_MAX} allowed")
    inside = sum(record.buckets)
    if record.count != record.zeros + inside:
        raise BadRecord(
            f"{record.count} observations, but {record.zeros} zeros and {inside} in buckets"
        )
    if not record.count and any(numbers):
        raise BadRecord("no observation, but a sum")
    if record.least > record.most:
        raise BadRecord(f"the least {record.least!r} is above the most {record.most!r}")
    if record.count and not (
        _at_most(record.least * record.count, record.total)
        and _at_most(record.total, record.most * record.count)
    ):
        raise BadRecord("the sum is not between the least and the most of as many")


def _check_edges(sketch: Sketch) -> None:
    """Refuse least and most that are in other buckets than those which are filled."""
    filled = sketch._buckets  # noqa: SLF001 - its own
    if not sketch.count:
        return
    if bool(filled) != (sketch.most > 0.0) or bool(sketch.zeros) != (sketch.least <= 0.0):
        raise BadRecord("least and most do not agree with the buckets")
    if filled and abs(index_of(sketch.most, sketch.scale) - max(filled)) > 1:
        raise BadRecord("the most is not in the last bucket")
    if filled and not sketch.zeros and abs(index_of(sketch.least, sketch.scale) - min(filled)) > 1:
        raise BadRecord("the least is not in the first bucket")


def _at_most(low: float, high: float) -> bool:
    return low <= high + _SLACK * max(abs(low), abs(high))


def _edge(index: int, scale: int) -> float:
    """Return the lower edge of a bucket; infinite beyond the floats."""
    exponent = index * 2.0**-scale
    return inf if exponent >= float_info.max_exp else 2.0**exponent


def _grow(partials: list[float], value: float) -> None:
    """Add to a sum that is kept exactly, as numbers without common bits (Shewchuk, 1997)."""
    kept = 0
    for partial in partials:
        if abs(value) < abs(partial):
            value, partial = partial, value  # noqa: PLW2901 - the algorithm exchanges them
        high = value + partial
        low = partial - (high - value)
        if low:
            partials[kept] = low
            kept += 1
        value = high
    partials[kept:] = [value]
