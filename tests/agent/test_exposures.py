"""What flags came to, as it is told: when it changes, and not more often."""

from dataclasses import replace

from agent.deciding import Decision
from agent.exposures import EXPOSURES_MAX, Exposures
from sync.flags import Why
from sync.records import Exposure
from sync.stamps import ClockSync, Stamp

NOW = Stamp(b"boot-1", 1000, 5000, ClockSync.UNKNOWN)
LATER = replace(NOW, boottime_ms=9000, wall_ms=13_000)
REBOOTED = Stamp(b"boot-2", 100, 20_000, ClockSync.UNKNOWN)
ON = Decision(value=True, variant="on", reason=Why.SPLIT, clock=7)
OFF = Decision(value=False, variant="off", reason=Why.STALE, clock=7)
UNDEFINED = Decision(value=None, variant="", reason=Why.DEFAULT)


def written(exposures: Exposures, known: dict[str, Exposure]) -> None:
    """Write what is due."""
    due = exposures.due()
    known.update(due)
    exposures.written(due)


def test_the_first_reading_is_told_and_the_same_again_is_not() -> None:
    exposures, known = Exposures(), dict[str, Exposure]()
    assert exposures.read("f", ON, "app@1", known=known, now=NOW)
    written(exposures, known)
    assert known == {"f": Exposure(b"boot-1", 1000, 5000, "on", "SPLIT", 7, "app@1", 1)}
    assert not exposures.read("f", ON, "app@1", known=known, now=LATER)
    assert exposures.due() == {}


def test_another_variant_is_told_and_counted_with_the_time_of_the_first_reading() -> None:
    exposures, known = Exposures(), dict[str, Exposure]()
    for decision in (ON, OFF, ON, OFF):
        assert exposures.read("f", decision, "app@1", known=known, now=NOW)
        written(exposures, known)
    assert (known["f"].variant, known["f"].variants_count) == ("off", 2)
    assert exposures.read("f", replace(ON, clock=8), "app@1", known=known, now=LATER)
    written(exposures, known)
    assert (known["f"].boottime_ms, known["f"].variants_count) == (1000, 1)


def test_each_boot_that_reads_it_tells_so_and_the_count_outlives_it() -> None:
    known = dict[str, Exposure]()
    for exposures, now in ((Exposures(), NOW), (Exposures(), REBOOTED)):
        exposures.read("f", ON, "app@1", known=known, now=now)
        written(exposures, known)
    assert (known["f"].boot, known["f"].boottime_ms) == (b"boot-2", 100)
    assert known["f"].variants_count == 1
    again = Exposures()
    again.read("f", OFF, "app@1", known=known, now=REBOOTED)
    assert again.due()["f"].variants_count == 2


def test_another_reader_is_told_once_so_that_two_that_alternate_cost_nothing() -> None:
    exposures, known = Exposures(), dict[str, Exposure]()
    told = 0
    for reader in ("app@1", "app@2") * 5:
        told += exposures.read("f", ON, reader, known=known, now=NOW)
        written(exposures, known)
    assert told == 2
    assert known["f"].reader == "app@2"


def test_a_flag_that_nobody_defined_leaves_no_trace_unless_it_left_one_before() -> None:
    exposures, known = Exposures(), dict[str, Exposure]()
    assert not exposures.read("f", UNDEFINED, "app@1", known=known, now=NOW)
    exposures.read("f", ON, "app@1", known=known, now=NOW)
    written(exposures, known)
    assert exposures.read("f", UNDEFINED, "app@1", known=known, now=NOW)
    assert exposures.due()["f"].clock == 0


def test_what_is_told_is_bounded() -> None:
    exposures = Exposures()
    for number in range(2 * EXPOSURES_MAX):
        exposures.read(f"f{number}", ON, "app@1", known={}, now=NOW)
    assert len(exposures.due()) == EXPOSURES_MAX
