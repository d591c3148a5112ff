"""How large a device's document gets in a year of honest use.

Plays 365 days of writes, acknowledgements and daily restarts through `sync.author` alone.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random

from benchmarks.result import Result
from sync.author import Author
from sync.client_ids import client_id
from sync.documents import FACT, LOCAL, VERSION, Side, ack_key, parse_ack_key
from sync.hlc import tick
from sync.records import Ack, Fact, Local, Record, Running, encode
from sync.replica import Holding
from sync.vector import encode_vector

WRITES_COUNT = 100_000
"""Local writes in a year, one every five minutes."""

ACKS_COUNT = 3_650
"""Acknowledgements in a year: two deployments a day, five stages each."""

STAGES = "DVIHK"
DEPLOYMENTS_KEPT = 40
"""Newest deployments whose acknowledgements an agent keeps; the hub has the others."""

DAYS_PER_YEAR = 365

DAY_S = 86_400

SAMPLE_EVERY = 10
"""Writes between two looks at the size."""

KEYS = (
    *(f"{LOCAL}sensor.{number}.limit" for number in range(8)),
    *(f"{FACT}{name}" for name in ("class", "labels", "groups", "agent", "uptime", "disk", "net")),
    *(f"{FACT}temperature.{number}" for number in range(3)),
    *(f"{VERSION}{component}" for component in ("pump-app", "base-image")),
)
"""Twenty keys that are overwritten in no particular order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Year:
    """What a year left behind."""

    document_max_bytes: int
    document_final_bytes: int
    vector_max_bytes: int
    live_final_bytes: int
    """Keys and values alone, without the engine's share."""
    epochs_count: int


def simulate(days: int = DAYS_PER_YEAR, *, seed: int = 1) -> Year:
    """Play `days` days and return what they left behind.

    Each start of the device loads the document anew and writes under a new client id.
    """
    random = Random(seed)
    deployments: deque[str] = deque(maxlen=DEPLOYMENTS_KEPT)

    def prune(values: Mapping[str, bytes]) -> dict[str, bytes]:
        return {
            key: value
            for key, value in values.items()
            if (ack := parse_ack_key(key)) is None or ack[0] in deployments
        }

    holding: Holding | None = None
    live: Mapping[str, bytes] = {}
    document_bytes, vector_bytes = [0], [0]
    for day in range(days):
        author = Author(
            holding,
            client_id=client_id(Side.DEVICE, day + 1, random.getrandbits(16)),
            prune=prune,
        )
        boot = random.randbytes(6)
        for number, entries in enumerate(_one_day(random, boot, deployments, day)):
            author.write(entries)
            if number % SAMPLE_EVERY == 0:
                document_bytes.append(len(author.holding().state))
            author.upkeep()
        holding, live = author.holding(), author.values()
        vector_bytes.append(len(encode_vector(holding.vector)))
    return Year(
        document_max_bytes=max(document_bytes),
        document_final_bytes=len(holding.state) if holding is not None else 0,
        vector_max_bytes=max(vector_bytes),
        live_final_bytes=sum(len(key) + len(value) for key, value in live.items()),
        epochs_count=holding.epoch if holding is not None else 0,
    )


def _one_day(
    random: Random, boot: bytes, deployments: deque[str], day: int
) -> Iterator[dict[str, bytes]]:
    """Yield the writes of one day in the order in which they happen."""
    writes: list[dict[str, bytes]] = []
    for second in sorted(random.sample(range(DAY_S), WRITES_COUNT // DAYS_PER_YEAR)):
        key = random.choice(KEYS)
        writes.append({key: encode(_record(random, key, boot, day * DAY_S + second))})
    acks_count = ACKS_COUNT // DAYS_PER_YEAR
    for number in range(acks_count // len(STAGES)):
        deployment = "d" + "".join(random.choices("abcdefghijklmnopqrstuvwxyz234567", k=8))
        at = (number + 1) * len(writes) // (acks_count // len(STAGES) + 1)
        for offset, stage in enumerate(STAGES):
            ack = Ack(boot, 3_600_000 * number + offset, _wall_ms(day * DAY_S), 2)
            writes.insert(at + offset, {ack_key(deployment, stage): encode(ack)})
        deployments.append(deployment)
    yield from writes


def _record(random: Random, key: str, boot: bytes, second: int) -> Record:
    if key.startswith(LOCAL):
        clock = tick(0, _wall_ms(second))
        return Local(clock, str(random.randrange(1000)), 0, "pump-app")
    if key.startswith(VERSION):
        version = f"2.{random.randrange(100)}.{random.randrange(10)}"
        return Running(version, random.randbytes(32), boot, second * 1000, healthy=True)
    return Fact(f'"{random.randbytes(random.randrange(2, 20)).hex()}"')


def _wall_ms(second: int) -> int:
    return 1_790_000_000_000 + second * 1000


def run(days: int = DAYS_PER_YEAR) -> list[Result]:
    """Play a year and hold what is left against the aims."""
    year = simulate(days)
    return [
        Result(
            name="document.device_year_bytes",
            value=year.document_max_bytes,
            unit="bytes",
            aim="< 16384",
            note=f"the largest it ever was; {year.document_final_bytes} bytes in the end, of which "
            f"{year.live_final_bytes} are keys and values; {year.epochs_count} epochs",
        ),
        Result(
            name="document.state_vector_bytes",
            value=year.vector_max_bytes,
            unit="bytes",
            aim="< 512",
            note="the largest it ever was",
        ),
    ]
