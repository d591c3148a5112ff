"""Feed one victim with hostile frames: the program that `test_hostile` runs as a child process.

A process of its own, because what this looks for includes its sudden death. It prints one line of
JSON when it survives. Whatever kills it, the file named by `--trace` holds the frames that led to
it, and `--replay` plays them again.

    python -m tests.properties.hostile --side hub --seed 1 --cases 20000 --trace FILE
    python -m tests.properties.hostile --side hub --seed 1 --cases 20000 --replay FILE
"""

import argparse
import faulthandler
import json
import mmap
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from random import Random

from sync.documents import ACK, CONFLICT, LOCAL, DocumentName, Side
from sync.gate import admit
from sync.messages import BadFrame
from sync.replica import ABSORBED_MAX, DOCUMENT_BYTES_MAX, Holding, Replica, values_of
from sync.vector import VECTOR_CLIENTS_MAX
from tests.fakes.machine import Line, Machine
from tests.fakes.stranger import Stranger
from tests.fakes.world import HUBS, World, desired_document, device_document
from tests.properties.mutants import no_gate

BATCH_CASES = 200
"""Frames against one victim before it is repaired and replaced."""

BATCH_S = 60
"""A batch takes a second; one that takes this long hangs."""

GROWTH_BYTES_MAX = 64 * 2**20
"""How much larger than after its first batches the process may ever become."""

WARM_UP_BATCHES = 5

OWN_WRITE_EVERY = 50

SECONDS_APART = 100.0
"""Time between two frames. Faster, and the limit on upheavals hides most of what is to be tried."""

REPLY_BYTES_MAX = 64 * DOCUMENT_BYTES_MAX
"""Most bytes in answer to one frame: each of its messages may ask for a whole document."""

TRACE_BYTES = 8 * 2**20
"""Room for all frames of a batch; most have 100 bytes, a few 260,000."""
ATTACKED = "d1"
BYSTANDER = "d2"


class LooseWorld(World):
    """A world whose checks at every commit are off: what is merged here nobody honest wrote."""

    checks_always = False


class Trace:
    """The frames of the current batch, where they outlive the process."""

    def __init__(self, path: Path) -> None:
        with path.open("w+b") as file:
            file.truncate(TRACE_BYTES)
            self._map = mmap.mmap(file.fileno(), TRACE_BYTES)
        self._end = 0

    def begin(self, batch: int) -> None:
        self._map[:] = bytes(TRACE_BYTES)
        self._end = 0
        self.note(b"%d" % batch)

    def note(self, payload: bytes) -> None:
        """Add one entry: its length plus one in four bytes, then itself."""
        entry = (len(payload) + 1).to_bytes(4, "big") + payload
        self._map[self._end : self._end + len(entry)] = entry
        self._end += len(entry)


def read_trace(path: Path) -> tuple[int, list[bytes]]:
    """Return the number of the last batch and the frames it came to."""
    left = path.read_bytes()
    entries = []
    while size := int.from_bytes(left[:4], "big"):
        entries.append(left[4 : 3 + size])
        left = left[3 + size :]
    return int(entries[0]), entries[1:]


class Batch:
    """One victim and its stranger."""

    def __init__(self, side: Side, random: Random) -> None:
        self.side = side
        self.world = LooseWorld(2)
        for device in self.world.devices:
            self.write(device, "s/class", b"pump")
            self.write(device, "a/d0/D", b"delivered")
            self.write(HUBS[0], f"d/{device}", b"wish")
        for name, machine in self.world.machines.items():
            for line in machine.lines:
                self.world.connect(name, line)
        self.world.deliver_all()
        self.victim: Machine = self.world.machines[HUBS[0] if side is Side.HUB else ATTACKED]
        self.line: Line = (ATTACKED if side is Side.HUB else HUBS[0], ATTACKED)
        attacker = Side.DEVICE if side is Side.HUB else Side.HUB
        self.stranger = Stranger(random, ATTACKED, attacker, self.victim.shelf)

    def write(self, name: str, key: str, value: bytes) -> None:
        about = name if name in self.world.devices else key[2:]
        document = device_document(name) if name == about else desired_document(about)
        self.world.write(name, document, {key: value})

    def play(self, payloads: Iterable[bytes], counts: Counter[str]) -> None:
        """Hand over the frames, checking after each; then repair everything and check again."""
        for number, payload in enumerate(payloads):
            self.world.now_s += SECONDS_APART
            self._case(payload, counts)
            if number % OWN_WRITE_EVERY == OWN_WRITE_EVERY - 1:
                self._own_write()
        self.world.offences.clear()
        self.world.quiesce()
        self.world.check_equality()

    def _own_write(self) -> None:
        if self.side is Side.HUB:
            self.write(HUBS[0], f"d/{ATTACKED}", b"%d" % self.world.event)
        else:
            self.write(ATTACKED, "s/class", b"%d" % self.world.event)
        self.world.flying.clear()

    def _case(self, payload: bytes, counts: Counter[str]) -> None:
        before = dict(self.victim.disk.image.holdings)
        offences_count = len(self.world.offences)
        try:
            self.world.run(self.victim, self.victim.receive(self.line, payload))
        except BadFrame:
            decodes = False
        else:
            decodes = True
        counts["cases"] += 1
        counts["not a frame"] += not decodes
        counts["offences"] += len(self.world.offences) - offences_count
        after = self.victim.disk.image.holdings
        for document in after:
            if after[document] is not before.get(document):
                counts[f"{document.kind.value} changed"] += 1
                check_sound(document, after[document])
        self._check_own(before)
        if self.side is Side.HUB:
            bystander = device_document(BYSTANDER)
            assert after[bystander] is before[bystander], "another device's document changed"
        reply_bytes = sum(len(flight.payload) for flight in self.world.flying)
        assert reply_bytes <= REPLY_BYTES_MAX, f"{reply_bytes} bytes in answer to one frame"
        counts["reply bytes"] += reply_bytes
        self.world.flying.clear()

    def _check_own(
        self,
        before: Mapping[DocumentName, Holding],
    ) -> None:
        """Check that what the victim writes is still what it wrote."""
        for document in self.victim.writes:
            was, now = values_of(before.get(document)), values_of(self.victim.shelf(document))
            assert now == self.victim.authors[document].values(), "memory differs from disk"
            if self.side is Side.HUB:
                assert now == was, f"{document} changed by a stranger"
            for key, value in was.items():
                assert key in now, f"{key} is gone from {document}"
                if not key.startswith((ACK, LOCAL, CONFLICT)):
                    assert now[key] == value, f"{key} of {document} changed by a stranger"


def check_sound(document: DocumentName, holding: Holding) -> None:
    """Check that `holding` can be loaded, passed on and fetched, and that it is bounded."""
    replica = Replica(client_id=1, state=holding.state)
    assert replica.vector() == holding.vector, "the state has another vector than is noted"
    assert replica.entries_count() == len(replica.values()), "something other than bytes was merged"
    assert admit(holding.state, {}, document.writer).forecast == holding.vector
    assert len(holding.state) <= DOCUMENT_BYTES_MAX
    assert len(holding.vector) <= VECTOR_CLIENTS_MAX
    assert len(holding.absorbed) <= ABSORBED_MAX


def recorded(stranger: Stranger, cases: int, trace: Trace) -> Iterator[bytes]:
    """Yield `cases` frames of `stranger`, noting each before it is played."""
    for _ in range(cases):
        payload = stranger.frame()
        trace.note(payload)
        yield payload


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=Side, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--cases", type=int, required=True)
    parser.add_argument("--trace", type=Path, help="keep the frames of the current batch here")
    parser.add_argument("--replay", type=Path, help="play the frames of this trace")
    parser.add_argument("--no-gate", action="store_true", help="show that the attack is one")
    options = parser.parse_args()
    faulthandler.enable()
    counts: Counter[str] = Counter()
    with no_gate() if options.no_gate else nullcontext():
        if options.replay:
            number, payloads = read_trace(options.replay)
            batch_of(options, number).play(payloads, counts)
        else:
            play_all(options, counts)
    sys.stdout.write(json.dumps(counts) + "\n")


def batch_of(options: argparse.Namespace, number: int) -> Batch:
    return Batch(options.side, Random(f"{options.side.value}/{options.seed}/{number}"))


def play_all(options: argparse.Namespace, counts: Counter[str]) -> None:
    trace = Trace(options.trace)
    warm_bytes = 0
    started_s = time.process_time()
    for number in range((options.cases + BATCH_CASES - 1) // BATCH_CASES):
        # Ends the process with a traceback even where it hangs outside of Python.
        faulthandler.dump_traceback_later(BATCH_S, exit=True)
        trace.begin(number)
        batch = batch_of(options, number)
        cases = min(BATCH_CASES, options.cases - number * BATCH_CASES)
        batch.play(recorded(batch.stranger, cases, trace), counts)
        if number <= WARM_UP_BATCHES:
            warm_bytes = peak_bytes()
        grown_bytes = peak_bytes() - warm_bytes
        assert grown_bytes <= GROWTH_BYTES_MAX, f"batch {number}: grew by {grown_bytes} bytes"
    faulthandler.cancel_dump_traceback_later()
    counts["grown bytes"] = peak_bytes() - warm_bytes
    counts["cpu ms"] = round((time.process_time() - started_s) * 1000)


if __name__ == "__main__":
    main()
