"""What devices measured, merged: by metric, release and variant, and device by device.

Owns the shape of the answers. Merging is `sync.sketch`'s, so that the order in which devices tell
changes no figure. Judges nothing: that is `hub.judging`.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import groupby
from statistics import median
from typing import Any, Final

from hub.labels import labels_of
from hub.store import measures as store
from hub.store import queries
from hub.store.database import Connection
from hub.store.measures import Asked, CaseRow, Row
from sync.documents import MEASURE
from sync.records import Measure, decode
from sync.selector import matches
from sync.sketch import HISTOGRAM, Sketch, error_bound, from_record

COUNTER, GAUGE = "c", "g"

KINDS: Final = {COUNTER: "counter", GAUGE: "gauge", HISTOGRAM: "histogram"}

MERGED_MAX_COUNT: Final = 20_000
"""Series of single devices that one answer merges: two seconds of work. For more of them an answer
has counts and no quantiles; name a metric or a release."""

SHOWN_MAX_COUNT: Final = 1000
"""Devices, or lines, that one answer names."""

BARS_MAX_COUNT: Final = 24

QUANTILES: Final = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))

HUMAN: Final = "human"

Chosen = Callable[[str], bool]
"""Whether a device is asked about."""


def chosen(connection: Connection, device: str, where: str) -> Chosen:
    """Return which devices are asked about.

    Raises:
        BadSelector: `where` is no selector.
    """
    matches(where, {})
    if not where:
        return lambda name: not device or name == device
    fitting = {
        name
        for name, _, facts in queries.facts_of_all(connection)
        if matches(where, labels_of(facts))
    }
    return lambda name: name in fitting and (not device or name == device)


def overview(connection: Connection, asked: Asked, is_chosen: Chosen) -> dict[str, Any]:
    """Return every series that is asked for, merged over devices."""
    is_merged = store.count_series(connection, asked) <= MERGED_MAX_COUNT
    rows = (row for row in store.series(connection, asked) if is_chosen(row.device))
    items = [
        _merged(list(group), is_merged=is_merged)
        for _, group in groupby(rows, key=lambda row: row[2:6])
    ]
    return {
        "items": items[:SHOWN_MAX_COUNT],
        "left_out_count": max(0, len(items) - SHOWN_MAX_COUNT),
        "is_merged": is_merged,
        "quantile_error_ratio": round(error_bound(), 4),
    }


def one(connection: Connection, asked: Asked, is_chosen: Chosen) -> dict[str, Any]:
    """Return one metric with the shape of its values, and each device, the highest first."""
    is_merged = store.count_series(connection, asked) <= MERGED_MAX_COUNT
    rows = [row for row in store.series(connection, asked) if is_chosen(row.device)]
    series = []
    for _, group in groupby(rows, key=lambda row: row[2:6]):
        held = list(group)
        merged = _merged(held, is_merged=is_merged)
        if is_merged and held[0].kind == HISTOGRAM:
            merged["bars"] = [
                {"above": low, "to": high, "count": count}
                for low, high, count in sketch_of(held).bars(BARS_MAX_COUNT)
            ]
        series.append(merged)
    devices = [_of_device(row) for row in rows] if is_merged else []
    devices.sort(key=lambda each: (-each["figure"], each["device"]))
    return {
        "metric": asked.metric,
        "series": series,
        "devices": devices[:SHOWN_MAX_COUNT],
        "left_out_count": max(0, len(rows) - SHOWN_MAX_COUNT),
        "is_merged": is_merged,
        "quantile_error_ratio": round(error_bound(), 4),
    }


def events(connection: Connection, code: str, release: str, is_chosen: Chosen) -> dict[str, Any]:
    """Return what went wrong and broke nothing, by code and release."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in store.events(connection, code, release):
        if not is_chosen(row.device):
            continue
        item = found.setdefault(
            (row.code, row.release),
            {"code": row.code, "release": row.release, "count": 0, "devices": {}, "detail": ""},
        )
        item["count"] += row.times_count
        item["devices"][row.device] = item["devices"].get(row.device, 0) + row.times_count
        item["detail"] = item["detail"] or row.detail
    items = [
        {
            **item,
            "devices_count": len(item["devices"]),
            "devices": dict(Counter(item["devices"]).most_common(SHOWN_MAX_COUNT)),
        }
        for item in found.values()
    ]
    items.sort(key=lambda each: (-each["devices_count"], -each["count"], each["code"]))
    return {
        "items": items[:SHOWN_MAX_COUNT],
        "left_out_count": max(0, len(items) - SHOWN_MAX_COUNT),
    }


def cases(connection: Connection, release: str, is_chosen: Chosen) -> dict[str, Any]:
    """Return what was intended and what came of it, by release; and each case that failed."""
    rows = [row for row in store.cases(connection, release) if is_chosen(row.device)]
    items = [_cases_of(name, list(group)) for name, group in groupby(rows, lambda row: row.release)]
    failed = [row for row in rows if not is_reached(row)]
    return {
        "items": items,
        "failed": [
            {
                "device": row.device,
                "intent": row.intent,
                "release": row.release,
                "intended": row.intended,
                "reached": row.reached,
                "by": row.by,
                "detail": row.detail,
            }
            for row in failed[:SHOWN_MAX_COUNT]
        ],
        "left_out_count": max(0, len(failed) - SHOWN_MAX_COUNT),
    }


def is_ended(row: CaseRow) -> bool:
    """Tell whether it is known what a case came to."""
    return bool(row.reached or row.by)


def is_reached(row: CaseRow) -> bool:
    """Tell whether a case came to what was intended, without a person; so far, if it goes on."""
    return row.by != HUMAN and (not row.reached or row.reached == row.intended)


def _cases_of(release: str, rows: list[CaseRow]) -> dict[str, Any]:
    ended = [row for row in rows if is_ended(row)]
    return {
        "release": release,
        "count": len(rows),
        "devices_count": len({row.device for row in rows}),
        "ended_count": len(ended),
        "reached_count": sum(is_reached(row) for row in ended),
        "human_count": sum(row.by == HUMAN for row in ended),
    }


def _merged(rows: list[Row], *, is_merged: bool) -> dict[str, Any]:
    first = rows[0]
    totals = [row.total for row in rows]
    count = sum(row.values_count for row in rows)
    found: dict[str, Any] = {
        "metric": first.metric,
        "kind": KINDS.get(first.kind, first.kind),
        "release": first.release,
        "variant": first.variant,
        "devices_count": len({row.device for row in rows}),
        "count": count,
    }
    if first.kind == COUNTER:
        return {**found, "total": sum(totals)}
    if first.kind == GAUGE:
        return {**found, "least": min(totals), "p50": median(totals), "most": max(totals)}
    found["mean"] = sum(totals) / count if count else None
    if is_merged:
        found |= _figures(sketch_of(rows))
    return found


def _of_device(row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {
        "device": row.device,
        "release": row.release,
        "variant": row.variant,
        "count": row.values_count,
    }
    if row.kind != HISTOGRAM:
        return {**found, "total": row.total, "figure": row.total}
    figures = _figures(sketch_of([row]))
    return {**found, **figures, "figure": figures["p95"] or 0.0}


def sketch_of(rows: Iterable[Row]) -> Sketch:
    """Return the observations of all these series of histograms together."""
    whole = Sketch()
    for row in rows:
        record = decode(f"{MEASURE}{row.metric}", row.record)
        assert isinstance(record, Measure)  # noqa: S101 - by its prefix
        whole.merge(from_record(record))
    return whole


def _figures(sketch: Sketch) -> dict[str, float | None]:
    if not sketch.count:
        return {"least": None, "most": None, **{name: None for name, _ in QUANTILES}}
    return {
        "least": sketch.least,
        "most": sketch.most,
        **{name: sketch.quantile(q) for name, q in QUANTILES},
    }
