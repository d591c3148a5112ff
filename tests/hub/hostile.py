"""Fires hostile frames at a real ingest and store; run as a process of its own.

python -m tests.hub.hostile FOLDER SEED CASES
"""

import faulthandler
import logging
import resource
import sys
from pathlib import Path
from random import Random

from hub.deployments import Request
from hub.store import projection
from sync.documents import DEPLOYMENT, Side, parse_document
from sync.records import Deployment, Desired, encode, select
from sync.replica import values_of
from sync.transport.port import Delivery
from tests.fakes.fleet import FleetDevice, fact
from tests.fakes.stranger import Stranger
from tests.hub.core import Core, desired, group, own, running

BATCH_S = 60
"""A batch of fifty takes milliseconds; one that takes this long hangs."""

BATCH_COUNT = 50

GROWTH_BYTES_MAX = 64 * 2**20

HONEST_EVERY = 20
"""Batches between two writes of the honest device."""

CHECK_EVERY = 40


def attack(folder: Path, seed: int, cases: int) -> None:
    """Fire `cases` frames on the line of `d1`, and see that `d2` is served all the while."""
    random = Random(seed)
    # The limit on what one device may send would hide most of what is to be tried.
    with running(folder / "hub", rate_per_s=1e9, burst_count=10**9) as core:
        honest = FleetDevice("d2", 2, obeys=True)
        honest.write(fact("class", "lamp"), core.now.mono_s)
        core.connect(honest)
        core.release()
        core.deploy(Request(release="lamp@1.0.0", group="all"))
        core.deploy(Request(release="lamp@1.0.0", devices=["d2"]))
        _wish(core)
        stranger = Stranger(random, "d1", Side.DEVICE, core.held)
        before = 0
        for batch in range(cases // BATCH_COUNT):
            faulthandler.dump_traceback_later(BATCH_S, exit=True)
            core.take(*(_delivery(stranger.frame(), random) for _ in range(BATCH_COUNT)))
            core.pass_time(1)
            if batch % HONEST_EVERY == 0:
                _serve(core, honest, batch)
            if batch % CHECK_EVERY == CHECK_EVERY - 1:
                _check(core, honest)
            if batch == HONEST_EVERY:
                before = _resident_bytes()
        faulthandler.cancel_dump_traceback_later()
        _check(core, honest)
        grown = _resident_bytes() - before
        assert grown < GROWTH_BYTES_MAX, f"grew by {grown} bytes"
        offences = core.offences.total_count
        assert offences > cases * 0.05, f"only {offences} offences: that was no attack"
        changed = core.ingest.counters.update_count
        assert changed > cases * 0.01, f"only {changed} updates got through: that was no attack"
    sys.stdout.write("unharmed\n")


def _wish(core: Core) -> None:
    entries = {"d/mode": encode(Desired(core.now.ms << 16, '"x"'))}
    core.database.transact(lambda db: core.desired.write(db, desired("d1"), entries, core.now.ms))


def _delivery(payload: bytes, random: Random) -> Delivery:
    if random.random() < 0.05:
        return Delivery("ff/1/d1/presence", payload, True, False, 0)
    return Delivery("ff/1/d1/up", payload, False, False, 1)


def _serve(core: Core, honest: FleetDevice, number: int) -> None:
    entries = fact("count", number) | honest.ack(f"dmade{number}", "K")
    core.talk(honest, honest.write(entries, core.now.mono_s))
    assert honest.is_settled()


def _check(core: Core, honest: FleetDevice) -> None:
    held = core.held(own("d2"))
    assert held is not None
    assert values_of(held) == honest.author.values()
    assert core.rows("SELECT * FROM offence WHERE device <> 'd1'") == []
    names = {name for (name,) in core.rows("SELECT name FROM document")}
    known = {"dev/d1", "dev/d2", "des/d1", "des/d2", "grp/all", "tel/d1"}
    assert {name for name in names if name.startswith("dev/")} <= known
    # Whoever says that it obeys a group this hub never wrote gets an empty one, which ends that.
    for name in names - known:
        assert values_of(core.held(parse_document(name))) == {}
    assert values_of(core.held(desired("d1"))).keys() == {"d/mode"}
    for document in (desired("d2"), group()):
        assert len(select(Deployment, DEPLOYMENT, values_of(core.held(document)))) == 1
    live = core.database.transact(projection.dump)
    core.database.transact(projection.rebuild)
    assert core.database.transact(projection.dump) == live
    ((verdict,),) = core.rows("PRAGMA quick_check(1)")
    assert verdict == "ok"


def _resident_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    attack(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
