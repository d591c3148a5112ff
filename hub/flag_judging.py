"""From the tables to the judgements on a flag: whether its arms can be compared, and how they do.

Owns what is fed to `hub.outcomes`, and the shape of the answer. Judges nothing.

The arms are those who were dealt the variant, and the others of the group at that time. A device
counts once it has read the flag: what it would do later says nothing about what it does.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from hub.errors import NotFound
from hub.flags import members, read
from hub.looks import Looks
from hub.measures import sketch_of
from hub.outcomes.exposures import Ran, judge_exposures
from hub.outcomes.normal_range import HOLD
from hub.outcomes.progress import Limits
from hub.outcomes.ratio_mismatch import judge_counted
from hub.outcomes.regression import P95, Change, judge_p95
from hub.outcomes.verdicts import Judgement, overall
from hub.store import flags as store
from hub.store import looks as look_store
from hub.store import measures
from hub.store.database import Connection
from hub.store.measures import Asked, Row
from sync.sketch import HISTOGRAM

METRICS_MAX_COUNT: Final = 20
"""Metrics that are compared, each with so much less alpha that together they have `HOLD`."""

ANOTHER: Final = "another"
"""Stands for whatever a device ran before the variant that it runs now."""

REST: Final = "the others"


def flag_verdicts(
    connection: Connection, flag: str, *, limits: Limits, now_ms: int
) -> tuple[dict[str, Any], list[Looks]]:
    """Return every judgement on a flag, for each group that it is dealt out in, and the looks.

    Raises:
        NotFound: It is dealt out nowhere.
    """
    groups = []
    made = []
    for _, group, value in store.defined(connection, flag):
        if read(flag, value) is None:
            continue
        dealt = store.cohort(connection, flag, group)
        if dealt:
            dealt_ms = store.steps(connection, flag, group, 1)[0].at_ms
            about = f"flag:{group}/{flag}/{dealt_ms}"
            looks = Looks(
                about=about,
                since_ms=dealt_ms,
                after_ms=limits.look_after_ms,
                now_ms=now_ms,
                devices_min=limits.devices_min,
                kept=look_store.load(connection, about),
            )
            groups.append(_group(connection, flag, group, dealt, looks))
            made.append(looks)
    if not groups:
        raise NotFound(
            f"the flag {flag[:64]!r} is dealt out nowhere, so there is nothing to compare"
        )
    return {"flag": flag, "at_ms": now_ms, "groups": groups}, made


def _group(
    connection: Connection,
    flag: str,
    group: str,
    dealt: Sequence[tuple[str, str, int]],
    looks: Looks,
) -> dict[str, Any]:
    variant = dealt[0][1]
    chosen = {device for device, _, _ in dealt}
    # Who came later was dealt its arm by itself, and was counted by nobody.
    eligible = members(connection, group).keys() & store.known_at(connection, looks.since_ms)
    reads = [each for each in store.reads(connection, flag) if each.device in eligible]
    arms = {each.device: variant if each.device in chosen else REST for each in reads}
    judged: list[Judgement] = []
    rest_count = len(eligible - chosen)
    if rest_count:
        wanted = {variant: float(len(chosen)), REST: float(rest_count)}
        judged.append(judge_counted(Counter(arms.values()), wanted))
    ran = [Ran(device=each.device, variant=each.variant) for each in reads]
    ran += [Ran(device=each.device, variant=ANOTHER) for each in reads if each.variants_count > 1]
    judged.append(judge_exposures(ran))
    mixed = {each.device for each in reads if each.variants_count > 1}
    compared = {device: arm for device, arm in arms.items() if device not in mixed}
    series = measures.series(connection, Asked(variant=flag))
    judged += map(looks.take, compare(series, compared, variant))
    verdict, said = overall(judged)
    plain: list[dict[str, Any]] = msgspec.json.decode(msgspec.json.encode(judged))
    return {
        "group": group,
        "variant": variant,
        "dealt_count": len(chosen),
        "rest_count": rest_count,
        "read_count": len(reads),
        "verdict": verdict.value,
        "sentence": said,
        "judgements": plain,
    }


def compare(rows: Iterable[Row], arms: Mapping[str, str], variant: str) -> list[Judgement]:
    """Return whether devices of the arm are slower than the others, metric by metric.

    The unit is the device: the 95th percentile of each, in the one variant that it ran. Who is in
    which arm was dealt by chance, so the arms need no time before to be compared with.

    Args:
        rows: Series that were measured under a variant of the flag.
        arms: Arm of each device that can be compared.
        variant: The arm that is new.
    """
    held: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.kind == HISTOGRAM and row.device in arms:
            held[row.metric][row.device].append(row)
    names = sorted(held)[:METRICS_MAX_COUNT]
    return [
        judge_p95(
            [
                Change(
                    device=device,
                    is_canary=arms[device] == variant,
                    before=1.0,
                    after=sketch_of(series).quantile(P95),
                )
                for device, series in held[name].items()
                if any(row.values_count for row in series)
            ],
            alpha=HOLD / len(names),
            name=f"p95_{name}",
        )
        for name in names
    ]
