"""Series of measurements: how they are called, and which records of them can be believed.

Owns the form of keys under `m/` in a device's telemetry. What is in a histogram is `sync.sketch`.
"""

import re
from math import isfinite
from typing import Final, NamedTuple

from sync import sketch
from sync.documents import KEY_BYTES_MAX, MEASURE
from sync.records import BadRecord, Measure
from sync.sketch import HISTOGRAM, TOTAL_MAX, VALUE_MAX

COUNTER: Final = "c"
GAUGE: Final = "g"

NONE: Final = "-"
"""Release of what belongs to the device itself, and variant where no experiment was on."""

METRIC_PATTERN: Final = re.compile(r"[a-z][a-z0-9_.]{0,62}\Z")
RELEASE_PATTERN: Final = re.compile(
    r"(?:-|[a-z0-9][a-z0-9-]{0,62}@[A-Za-z0-9][A-Za-z0-9.+~_-]{0,62})\Z"
)
"""Component and version as releases may be called (`sync.manifest`)."""

VARIANT_PATTERN: Final = re.compile(r"(?:-|[a-z0-9][a-z0-9._-]{0,40}=[A-Za-z0-9._-]{1,30})\Z")


class BadSeries(ValueError):
    """A name that no series can have: the application is to blame; nothing was measured."""


class Series(NamedTuple):
    """One series of a device."""

    metric: str
    release: str = NONE
    """`component@version` of what was measured."""
    variant: str = NONE
    """`flag=variant` of the one experiment that was on."""

    def key(self) -> str:
        """Return the key of its record."""
        return f"{MEASURE}{self.metric}/{self.release}/{self.variant}"


def checked(series: Series) -> Series:
    """Return a series whose names can be used.

    Raises:
        BadSeries: One cannot; says which, and what it must be like.
    """
    if not METRIC_PATTERN.match(series.metric):
        raise BadSeries(f"no metric can be called {series.metric[:64]!r}: use a-z, 0-9, _ and .")
    if not RELEASE_PATTERN.match(series.release):
        raise BadSeries(f"{series.release[:64]!r} is no release: write component@version, or -")
    if not VARIANT_PATTERN.match(series.variant):
        raise BadSeries(f"{series.variant[:64]!r} is no variant: write flag=variant, or -")
    if len(series.key()) > KEY_BYTES_MAX:
        raise BadSeries(f"metric, release and variant have more than {KEY_BYTES_MAX - 4} letters")
    return series


def parse_key(key: str) -> Series:
    """Return the series under a key of a telemetry document.

    Raises:
        BadSeries: It is none.
    """
    try:
        metric, release, variant = key.removeprefix(MEASURE).split("/")
    except ValueError:
        metric = ""
    if not key.startswith(MEASURE) or not metric:
        raise BadSeries(f"{key[:64]!r} is no key of a series")
    return checked(Series(metric, release, variant))


def check(record: Measure) -> Measure:
    """Return a record that does not contradict itself.

    Raises:
        BadRecord: It does, or its kind is not known.
    """
    if record.kind == HISTOGRAM:
        sketch.from_record(record)
        return record
    if record.kind not in (COUNTER, GAUGE):
        raise BadRecord(f"no series is of kind {record.kind!r}")
    limit = VALUE_MAX if record.kind == GAUGE else TOTAL_MAX
    if not all(isfinite(each) for each in (record.total, record.least, record.most)):
        raise BadRecord("a measurement must be finite")
    if max(abs(record.total), abs(record.least), abs(record.most)) > limit:
        raise BadRecord(f"a measurement is at most {limit:g}")
    if record.kind == COUNTER and record.total < 0:
        raise BadRecord("a counter only grows, so it is never below zero")
    if record.kind == GAUGE and not record.least <= record.total <= record.most:
        raise BadRecord("a gauge is between its least and its most")
    if record.buckets or record.zeros:
        raise BadRecord("only a histogram has buckets")
    return record


def later(one: Measure, other: Measure) -> Measure:
    """Return the later of two records of one series, whichever came first.

    Records are cumulative, so under one beginning the larger count is the later one. Of two
    beginnings `other` is taken: only its writer can say which came second.
    """
    if one.start == other.start and one.count > other.count:
        return one
    return other
