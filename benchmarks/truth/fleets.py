"""Simulated fleets: what truly happens on each device, and what the hub gets to see of it.

Owns the truth and its shadow. Nothing here judges. A device knows nothing of the hub's time: its
clock starts at each boot and runs up to 150 millionths too fast or slow, its wall clock is right,
an hour off or ten years. The hub sees frames when they arrive, and that a device is gone only when
the broker has missed its keep-alive.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Final

from hub.courses import credited
from hub.outcomes.observations import DeviceCourse, DeviceStage, Receipt
from sync.contacts import Contacts
from sync.stages import Stage
from sync.stamps import ClockSync, Stamp

ZERO_MS: Final = 1_800_000_000_000
"""Hub UTC of the request."""
ACCEPTED_MS: Final = ZERO_MS + 40
PUBLISHED_MS: Final = ZERO_MS + 90

S: Final = 1_000
HOUR: Final = 3_600 * S
DAY: Final = 24 * HOUR
TEN_YEARS: Final = 3_652 * DAY

KEEP_ALIVE_MS: Final = 45 * S
"""How late the broker notices that a device is gone without a word."""
SKEW_PPM: Final = 150
REBOOT_MS: Final = (8 * S, 40 * S)
CHATTER_MS: Final = 300 * S
"""A connected device is heard at least this often."""
CHATTER_MAX: Final = 24

REGIONS: Final = ("eu-east", "eu-west", "us", "apac")
SITES: Final = 8


class Link(StrEnum):
    """How a device is connected."""

    GOOD = "good"
    DARK_FOR_A_WEEK = "dark for a week"
    FLAPPING = "flapping"
    GONE = "gone"
    """Never seen since the deployment."""


class Fate(StrEnum):
    """What the deployment comes to."""

    DONE = "done"
    SILENT = "silent"
    """It is there and never takes the deployment."""
    ROLLED_BACK = "rolled back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is planted in one device."""

    device: str
    link: Link = Link.GOOD
    fate: Fate = Fate.DONE
    wall_skew_ms: int = 0
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Frame:
    """One frame from the device, as it crossed."""

    received_ms: int
    boot: bytes
    sent_boottime_ms: int
    anchor: tuple[int, int]
    is_covering: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One device: the truth, and everything that the hub ever sees of it with the time of it."""

    plan: Plan
    moments: dict[Stage, int]
    """When each stage truly happened, hub UTC."""
    stages: dict[Stage, DeviceStage]
    frames: tuple[_Frame, ...]
    log: tuple[tuple[int, int, bool], ...]
    """(logged at, said to be since, online)."""
    sessions: tuple[tuple[int, int], ...]
    """When it truly was connected."""
    contacts: tuple[tuple[int, Contacts], ...]

    def course(self, now_ms: int) -> DeviceCourse:
        """Return what the hub knows of it at a moment, by the same road as the real hub."""
        stages = {stage: seen for stage, seen in self.stages.items() if seen.seen_at_ms <= now_ms}
        heard = [frame for frame in self.frames if frame.received_ms <= now_ms]
        known = [held for at_ms, held in self.contacts if at_ms <= now_ms]
        hub_stages = {
            Stage.REQUESTED: ZERO_MS,
            Stage.ACCEPTED: ACCEPTED_MS,
            Stage.PUBLISHED: PUBLISHED_MS,
        }
        if Stage.ACKNOWLEDGED in stages:
            hub_stages[Stage.ACK_SEEN] = stages[Stage.ACKNOWLEDGED].seen_at_ms
        return DeviceCourse(
            device=self.plan.device,
            hub_stages=hub_stages,
            device_stages=stages,
            receipts=_receipts(heard),
            presence=credited(
                [(since_ms, online) for at_ms, since_ms, online in self.log if at_ms <= now_ms],
                [(ZERO_MS - 30 * DAY, None)],
                heard=(max((f.received_ms for f in heard), default=0), KEEP_ALIVE_MS),
                now_ms=now_ms,
            ),
            contacts=known[-1] if known else Contacts(),
        )

    def connected_ms(self, until_ms: int) -> int:
        """Return for how long it truly was connected since the deployment was accepted."""
        return sum(
            max(0, min(end, until_ms) - max(begin, ACCEPTED_MS)) for begin, end in self.sessions
        )

    def deadline_ms(self, patience_ms: int) -> int | None:
        """Return when it truly had been connected for so long; None if it never was."""
        left_ms = patience_ms
        for begin, end in self.sessions:
            length_ms = end - max(begin, ACCEPTED_MS)
            if length_ms >= left_ms:
                return max(begin, ACCEPTED_MS) + left_ms
            left_ms -= max(0, length_ms)
        return None


def live(plan: Plan, random: Random, *, until_ms: int, is_chatty: bool = True) -> Life:
    """Return the life of a device from a day before the request.

    Args:
        plan: What is planted.
        random: Where chance comes from.
        until_ms: End of the simulation.
        is_chatty: Without, it says only what it must; quicker, and its times are less certain.
    """
    sessions = _sessions(plan.link, random, until_ms)
    clock = _Clock(random)
    moments = _truth(plan, sessions, random, until_ms)
    applied_ms = moments.get(Stage.APPLIED)
    reboots = [] if applied_ms is None else [applied_ms + 500]
    if Stage.ROLLED_BACK in moments:
        reboots.append(moments[Stage.ROLLED_BACK] - 500)
    delivered_ms = moments.get(Stage.DELIVERED)
    frames: list[_Frame] = []
    stages: dict[Stage, DeviceStage] = {}
    sends: set[int] = set()
    for begin, end in sessions:
        sends.add(begin + random.randrange(20, 80))
        if is_chatty:
            first = max(begin, ZERO_MS - CHATTER_MS)
            last = min(end, first + CHATTER_MAX * CHATTER_MS)
            sends.update(range(first + CHATTER_MS // 2, last, CHATTER_MS))
    for at_ms in moments.values():
        connected_at_ms = _next_connected(sessions, at_ms)
        if connected_at_ms is not None:
            sends.add(connected_at_ms + random.randrange(20, 80))
    # What follows while it is still starting is said afterwards.
    previous_ms = ZERO_MS - 30 * DAY
    for at_ms in sorted(sends):
        if not any(begin <= at_ms < end for begin, end in sessions):
            continue
        up_ms, down_ms = random.randrange(15, 400), random.randrange(15, 400)
        boot, boottime_ms = clock.at(at_ms, reboots)
        started_ms = max((each for each in reboots if each <= at_ms), default=ZERO_MS - 30 * DAY)
        # The last frame that the hub had sent it in this boot: a little before this one.
        echo_ms = max(at_ms - random.randrange(50, 2_000), started_ms + 1)
        _, echo_boottime_ms = clock.at(echo_ms, reboots)
        received_ms = at_ms + up_ms
        frames.append(
            _Frame(
                received_ms,
                boot,
                boottime_ms,
                (echo_ms - down_ms, echo_boottime_ms),
                delivered_ms is not None and delivered_ms <= at_ms,
            )
        )
        for stage, moment_ms in moments.items():
            if previous_ms < moment_ms <= at_ms and stage not in stages:
                own_boot, own_ms = clock.at(moment_ms, reboots)
                wall_ms = moment_ms + plan.wall_skew_ms
                reason = "health_failed" if stage is Stage.ROLLED_BACK else ""
                stages[stage] = DeviceStage(
                    Stamp(own_boot, own_ms, max(0, wall_ms), ClockSync.UNSYNCED),
                    received_ms,
                    reason,
                )
        previous_ms = at_ms
    frames.sort(key=lambda frame: frame.received_ms)
    return Life(
        plan=plan,
        moments={stage: at_ms for stage, at_ms in moments.items() if stage in stages},
        stages=stages,
        frames=tuple(frames),
        log=_log(sessions, random),
        sessions=sessions,
        contacts=_contacts(frames, stages),
    )


def fleet(
    count: int, random: Random, *, planted: Sequence[Plan] = (), name: str = "d"
) -> list[Plan]:
    """Return plans: the planted ones first, then clean devices, of which a few are dark or flap."""
    plans = list(planted)
    for number in range(len(plans), count):
        draw = random.random()
        link = Link.GOOD
        if draw < 0.06:  # noqa: PLR2004 - shares of an ordinary fleet
            link = Link.DARK_FOR_A_WEEK
        elif draw < 0.16:  # noqa: PLR2004
            link = Link.FLAPPING
        elif draw < 0.18:  # noqa: PLR2004
            link = Link.GONE
        plans.append(
            Plan(
                device=f"{name}{number:05}",
                link=link,
                wall_skew_ms=random.choice((0, 0, HOUR, -HOUR, -TEN_YEARS)),
                labels=labels(random),
            )
        )
    return plans


def labels(random: Random) -> dict[str, str]:
    """Return labels of which two go together: most pumps stand in eu-east."""
    region = random.choice(REGIONS)
    is_pump = random.random() < (0.8 if region == "eu-east" else 0.2)
    site = f"s{random.randrange(SITES)}"
    return {"region": region, "class": "pump" if is_pump else "valve", "site": site}


class _Clock:
    """The device's clock across boots."""

    def __init__(self, random: Random) -> None:
        self._rate = 1 + random.uniform(-SKEW_PPM, SKEW_PPM) / 1e6
        self._on_since_ms = ZERO_MS - DAY - random.randrange(HOUR, 40 * DAY)
        self._seed = random.randbytes(5)

    def at(self, at_ms: int, reboots: Sequence[int]) -> tuple[bytes, int]:
        past = [each for each in reboots if each <= at_ms]
        since_ms = past[-1] if past else self._on_since_ms
        return self._seed + bytes([len(past)]), int((at_ms - since_ms) * self._rate)


def _sessions(link: Link, random: Random, until_ms: int) -> tuple[tuple[int, int], ...]:
    start_ms = ZERO_MS - DAY
    if link is Link.GONE:
        return ((start_ms, ZERO_MS - HOUR),)
    if link is Link.DARK_FOR_A_WEEK:
        back_ms = ZERO_MS + 6 * DAY + random.randrange(DAY)
        away = ((start_ms, ZERO_MS - HOUR),)
        return (*away, (back_ms, until_ms)) if back_ms < until_ms else away
    if link is Link.GOOD:
        return ((start_ms, until_ms),)
    found = []
    at_ms = ZERO_MS - HOUR
    # After some hours the link is mended, as somebody goes there.
    while at_ms < min(until_ms, ZERO_MS + 6 * HOUR):
        end_ms = at_ms + random.randrange(3 * S, 120 * S)
        found.append((at_ms, min(end_ms, until_ms)))
        at_ms = end_ms + random.randrange(5 * S, 600 * S)
    if at_ms < until_ms:
        found.append((at_ms, until_ms))
    return tuple(found)


def _truth(
    plan: Plan, sessions: Sequence[tuple[int, int]], random: Random, until_ms: int
) -> dict[Stage, int]:
    if plan.fate is Fate.SILENT:
        return {}
    at_ms = _next_connected(sessions, PUBLISHED_MS)
    # A session that ends at once does not carry the deployment.
    took_ms = random.randrange(100, 4 * S)
    while at_ms is not None:
        end_ms = next(end for begin, end in sessions if begin <= at_ms < end)
        if at_ms + took_ms < end_ms:
            break
        at_ms = _next_connected(sessions, end_ms + 1)
    if at_ms is None:
        return {}
    moments = {Stage.DELIVERED: at_ms + took_ms}
    now_ms = moments[Stage.DELIVERED] + random.randrange(S, 90 * S)
    moments[Stage.VERIFIED] = now_ms
    now_ms += random.randrange(S, 60 * S)
    moments[Stage.APPLIED] = now_ms
    now_ms += random.randrange(*REBOOT_MS)
    if plan.fate is Fate.ROLLED_BACK:
        moments[Stage.ROLLED_BACK] = now_ms + random.randrange(*REBOOT_MS)
    else:
        moments[Stage.HEALTHY] = now_ms + random.randrange(2 * S, 60 * S)
        moments[Stage.ACKNOWLEDGED] = moments[Stage.HEALTHY] + random.randrange(5, 50)
    return {stage: moment_ms for stage, moment_ms in moments.items() if moment_ms < until_ms}


def _next_connected(sessions: Sequence[tuple[int, int]], at_ms: int) -> int | None:
    for begin, end in sessions:
        if end - S > at_ms:
            return max(begin, at_ms)
    return None


def _log(sessions: Sequence[tuple[int, int]], random: Random) -> tuple[tuple[int, int, bool], ...]:
    """Return the presence as the hub hears of it: every other end comes late, without a word."""
    found: list[tuple[int, int, bool]] = []
    for number, (begin, end) in enumerate(sessions):
        found.append((begin, begin, True))
        following_ms = sessions[number + 1][0] if number + 1 < len(sessions) else end + DAY
        late_ms = end + (random.randrange(KEEP_ALIVE_MS) if random.random() < 0.5 else 0)  # noqa: PLR2004
        if late_ms < following_ms:
            found.append((late_ms, late_ms, False))
    return tuple(found)


def _receipts(heard: Sequence[_Frame]) -> tuple[Receipt, ...]:
    """Return the latest vector without the deployment, and the first with it."""
    found = []
    after = [frame for frame in heard if frame.received_ms > PUBLISHED_MS]
    lacking = [frame for frame in after if not frame.is_covering]
    if lacking:
        last = lacking[-1]
        found.append(Receipt(last.received_ms, covers=False, sent_lo_ms=last.anchor[0]))
    covering = next((frame for frame in after if frame.is_covering), None)
    if covering is not None:
        found.append(Receipt(covering.received_ms, covers=True))
    return tuple(found)


def _contacts(
    frames: Sequence[_Frame], stages: dict[Stage, DeviceStage]
) -> tuple[tuple[int, Contacts], ...]:
    held, found = Contacts(), []
    unpinned = sorted(stages.values(), key=lambda seen: seen.seen_at_ms)
    for frame in frames:
        held = held.heard(
            boot=frame.boot,
            sent_ms=frame.sent_boottime_ms,
            received_ms=frame.received_ms,
            anchor=frame.anchor,
        )
        while unpinned and unpinned[0].seen_at_ms <= frame.received_ms:
            held = held.pinned(unpinned.pop(0).stamp)
        found.append((frame.received_ms, held))
    return tuple(found)
