"""What applications and the device itself have measured: series, events and cases, in memory.

Owns the bounds, what is dropped and the count of it, and the entries of the telemetry document.
Never reads a clock, a socket or a disk.

Rule: every entry is cumulative, so the last one alone is the truth; duplicates and losses of
earlier ones change nothing.
"""

import secrets
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from sync import records
from sync.documents import CASE, EVENT, MEASURE
from sync.records import BadRecord, Case, Event, Measure
from sync.series import COUNTER, GAUGE, BadSeries, Series, check, checked, parse_key
from sync.sketch import HISTOGRAM, VALUE_MAX, Sketch, from_record
from sync.stamps import BOOT_BYTES, Stamp

SERIES_MAX: Final = 200
"""Series that are kept; of more the one that was measured longest ago is closed."""

EVENTS_MAX: Final = 64
CASES_MAX: Final = 256

LIVE_BYTES_MAX: Final = 64 * 1024
"""All entries together; a telemetry document of more could not be sent whole."""

ENTRY_BYTES: Final = 16
"""What a document keeps around one entry."""

COUNT_MAX: Final = 2**53 - 1

BY: Final = ("automatic", "human")

INTENT_LETTERS_MAX: Final = 64
CODE_LETTERS_MAX: Final = 64
STATE_LETTERS_MAX: Final = 64
DETAIL_LETTERS_MAX: Final = 200


class BadMeasure(ValueError):
    """An application said something that cannot be measured; nothing was counted but the drop."""

    def __init__(self, why: str, text: str) -> None:
        """Count it under `why`; `text` says it to a person."""
        super().__init__(text)
        self.why = why


class Measures:
    """Everything that is measured on this device."""

    def __init__(self, *, series_max: int = SERIES_MAX) -> None:
        """Begin with nothing; `load` takes what is stored."""
        self._series_max = series_max
        self._series: dict[Series, _Line] = {}
        self._events: dict[int, Event] = {}
        self._cases: dict[str, Case] = {}
        self._next_event = 0
        self._dirty: set[str] = set()
        self._sizes: dict[str, int] = {}
        self.dropped: Counter[str] = Counter()
        """What was not kept since the agent started, by reason."""

    # Measuring.

    def count(self, series: Series, number: float = 1.0) -> None:
        """Add to a counter.

        Raises:
            BadMeasure: `number` is negative, or no number.
        """
        if not 0.0 <= number <= VALUE_MAX:
            raise BadMeasure("bad_value", f"a counter cannot grow by {number!r}")
        line = self._line(series, COUNTER)
        line.count += 1
        line.total += float(number)

    def observe(self, series: Series, value: float) -> None:
        """Add one observation to a histogram.

        Raises:
            BadMeasure: `value` is no number that can be measured.
        """
        if not -VALUE_MAX <= value <= VALUE_MAX:
            raise BadMeasure("bad_value", f"{value!r} cannot be measured")
        self._line(series, HISTOGRAM).sketch.add(value)

    def gauge(self, series: Series, value: float) -> None:
        """Set a gauge; its least and most are kept as well.

        Raises:
            BadMeasure: `value` is no number that can be measured.
        """
        if not -VALUE_MAX <= value <= VALUE_MAX:
            raise BadMeasure("bad_value", f"{value!r} cannot be measured")
        line = self._line(series, GAUGE)
        line.total = float(value)
        line.least = line.total if not line.count else min(line.least, line.total)
        line.most = line.total if not line.count else max(line.most, line.total)
        line.count += 1

    def event(self, code: str, now: Stamp, *, detail: str = "", release: str = "") -> None:
        """Keep that something went wrong. The same thing again in a row is counted, not kept anew.

        Raises:
            BadMeasure: There is no code.
        """
        if not code or len(code) > CODE_LETTERS_MAX:
            raise BadMeasure(
                "bad_name", f"an event needs a code of 1 to {CODE_LETTERS_MAX} letters"
            )
        detail, release = detail[:DETAIL_LETTERS_MAX], release[:100]
        number = self._next_event - 1
        last = self._events.get(number)
        if last is not None and (last.code, last.detail, last.release) == (code, detail, release):
            count = last.count + 1
        else:
            number, count = self._next_event, 1
            self._next_event += 1
            if self._events.pop(number - EVENTS_MAX, None) is not None:
                self.dropped["events_overwritten"] += 1
        self._events[number] = Event(
            number, now.boot, now.boottime_ms, now.wall_ms, code, detail, release, count
        )
        self._dirty.add(_event_key(number))

    def case(self, intent: str, now: Stamp, **said: str) -> None:
        """Keep what is said of an intent: `intended`, `reached`, `by`, `release`, `detail`.

        What is not said stays as it was.

        Raises:
            BadMeasure: The intent cannot be named so, or `by` is neither automatic nor human.
        """
        if not intent or len(intent) > INTENT_LETTERS_MAX or not _is_plain(intent):
            raise BadMeasure("bad_name", f"no intent can be called {intent[:80]!r}")
        if said.get("by") and said["by"] not in BY:
            raise BadMeasure("bad_value", f"a case ends by {' or '.join(BY)}, not {said['by']!r}")
        old = self._cases.pop(intent, None) or Case(b"\0" * BOOT_BYTES, 0, 0)
        kept = {name: said.get(name) or getattr(old, name) for name in _CASE_LETTERS}
        self._cases[intent] = Case(
            now.boot,
            now.boottime_ms,
            now.wall_ms,
            **{name: text[: _CASE_LETTERS[name]] for name, text in kept.items()},
        )
        self._dirty.add(CASE + intent)
        while len(self._cases) > CASES_MAX:
            self._drop_case()

    def drop(self, why: str, number: int = 1) -> None:
        """Count something that was not measured."""
        self.dropped[why] += number

    # The document.

    def load(self, values: Mapping[str, bytes]) -> None:
        """Go on from the entries of a telemetry document; what cannot be read is left out."""
        for key, value in values.items():
            try:
                record = records.decode(key, value)
                if isinstance(record, Measure):
                    self._series[parse_key(key)] = _Line.of(check(record))
                elif isinstance(record, Event):
                    self._events[record.number] = record
                elif isinstance(record, Case):
                    self._cases[key[len(CASE) :]] = record
                else:
                    continue
            except (BadRecord, BadSeries):
                self.drop("unreadable")
                continue
            self._sizes[key] = len(key) + len(value) + ENTRY_BYTES
        self._cases = dict(sorted(self._cases.items(), key=lambda each: each[1].wall_ms))
        self._next_event = max(self._events, default=-1) + 1
        for number in [each for each in self._events if each <= self._next_event - 1 - EVENTS_MAX]:
            del self._events[number]

    def take_back(self, values: Mapping[str, bytes]) -> None:
        """Go on from what the hub holds of series and cases that are not known here any more.

        Series that were measured here again meanwhile have begun anew, and stay so.
        """
        live = self._live()
        lost = {key: value for key, value in values.items() if key not in live}
        self.load(lost)
        while len(self._series) > self._series_max:
            self._close_oldest()
        while len(self._cases) > CASES_MAX:
            self._drop_case()

    @property
    def is_changed(self) -> bool:
        """Whether something was measured that no document has yet."""
        return bool(self._dirty)

    def entries(self, now: Stamp) -> dict[str, bytes]:
        """Take what has changed, bounded in bytes together with what has not.

        It counts as written from now on; if it could not be, say so with `unwritten`.
        """
        changed: dict[str, bytes] = {}
        for key in sorted(self._dirty):
            record = self._record(key, now)
            if record is not None:
                changed[key] = records.encode(record)
                self._sizes[key] = len(key) + len(changed[key]) + ENTRY_BYTES
        while sum(self._sizes[key] for key in self._live() if key in self._sizes) > LIVE_BYTES_MAX:
            if len(self._cases) > EVENTS_MAX or not self._series:
                self._drop_case()
            else:
                self._close_oldest()
        live = self._live()
        self._sizes = {key: size for key, size in self._sizes.items() if key in live}
        self._dirty.clear()
        return {key: value for key, value in changed.items() if key in live}

    def unwritten(self, entries: Mapping[str, bytes]) -> None:
        """These entries were refused by the disk: they are still to be written."""
        self._dirty |= entries.keys() & self._live()

    def kept(self, values: Mapping[str, bytes]) -> dict[str, bytes]:
        """Return those entries of a document that are still kept."""
        live = self._live()
        return {key: value for key, value in values.items() if key in live}

    def status(self) -> dict[str, Any]:
        """Return how much there is, and what was dropped."""
        return {
            "series": len(self._series),
            "events": len(self._events),
            "cases": len(self._cases),
            "dropped": dict(sorted(self.dropped.items())),
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return every series as people read it, in the order of their names."""
        return [{**series._asdict(), **line.row()} for series, line in sorted(self._series.items())]

    # Inside.

    def _line(self, series: Series, kind: str) -> "_Line":
        line = self._series.pop(series, None)
        if line is None:
            try:
                checked(series)
            except BadSeries as error:
                raise BadMeasure("bad_name", str(error)) from None
            line = _Line(kind, secrets.token_bytes(BOOT_BYTES))
        self._series[series] = line  # the last measured is the last to be closed
        if line.kind != kind:
            raise BadMeasure("other_kind", f"{series.metric} is measured as {line.kind!r} already")
        self._dirty.add(series.key())
        if len(self._series) > self._series_max:
            self._close_oldest()
        return line

    def _close_oldest(self) -> None:
        series = next(iter(self._series))
        del self._series[series]
        self._dirty.discard(series.key())
        self.drop("series_closed")

    def _drop_case(self) -> None:
        if self._cases:
            intent = next(iter(self._cases))
            del self._cases[intent]
            self._dirty.discard(CASE + intent)
            self.drop("cases_overwritten")

    def _live(self) -> set[str]:
        return {
            *(series.key() for series in self._series),
            *(_event_key(number) for number in self._events),
            *(CASE + intent for intent in self._cases),
        }

    def _record(self, key: str, now: Stamp) -> records.Record | None:
        if key.startswith(MEASURE):
            line = self._series.get(parse_key(key))
            return line.record(now) if line is not None else None
        if key.startswith(CASE):
            return self._cases.get(key[len(CASE) :])
        place = int(key[len(EVENT) :])
        found = [number for number in self._events if number % EVENTS_MAX == place]
        return self._events[max(found)] if found else None


class _Line:
    """One series while it grows."""

    __slots__ = ("count", "kind", "least", "most", "sketch", "start", "total")

    def __init__(self, kind: str, start: bytes) -> None:
        self.kind = kind
        self.start = start
        self.count = 0
        self.total = self.least = self.most = 0.0
        self.sketch = Sketch()

    @classmethod
    def of(cls, record: Measure) -> "_Line":
        line = cls(record.kind, record.start)
        line.count, line.total = record.count, record.total
        line.least, line.most = record.least, record.most
        if record.kind == HISTOGRAM:
            line.sketch = from_record(record)
        return line

    def record(self, now: Stamp) -> Measure:
        if self.kind == HISTOGRAM:
            return self.sketch.to_record(self.start, now.boot, now.boottime_ms)
        return Measure(
            self.kind,
            self.start,
            min(self.count, COUNT_MAX),
            self.total,
            self.least,
            self.most,
            boot=now.boot,
            boottime_ms=now.boottime_ms,
        )

    def row(self) -> dict[str, Any]:
        if self.kind == HISTOGRAM:
            sketch = self.sketch
            p95 = sketch.quantile(0.95) if sketch.count else None
            return {"kind": self.kind, "count": sketch.count, "total": sketch.total, "p95": p95}
        return {"kind": self.kind, "count": self.count, "total": self.total}


_CASE_LETTERS: Final = {
    "intended": STATE_LETTERS_MAX,
    "reached": STATE_LETTERS_MAX,
    "by": 16,
    "release": 100,
    "detail": DETAIL_LETTERS_MAX,
}


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


def _event_key(number: int) -> str:
    return f"{EVENT}{number % EVENTS_MAX}"
