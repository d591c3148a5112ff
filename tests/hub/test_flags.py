"""Flags as the hub keeps them: defined, dealt out to more and more devices, ended."""

from typing import Any

import pytest

from hub import flag_views
from hub.errors import Clash, NotFound, Refusal
from hub.flags import Flags, Share, standing
from hub.store import devices as device_store
from hub.store import flags as store
from hub.store import projection
from hub.store.flags import Step
from sync.documents import FLAG
from sync.flags import evaluate, parse_flag
from sync.records import Flag, decode_as
from sync.replica import values_of
from tests.fakes.fleet import runs
from tests.hub.core import Core, group
from tests.hub.flagged import METADATA, definition, fleet, reads

FLAG_KEY = "pump-fast"


def change(core: Core, make: Any, *, name: str = "all") -> Step:
    def job(db: Any) -> Step:
        each = Flags(db, core.desired, FLAG_KEY, name, core.now.ms, "ada", "because")
        made: Step = make(each)
        return made

    return core.database.transact(job)


def define(core: Core, **changes: Any) -> Step:
    return change(core, lambda each: each.define(definition(**changes)))


def deal(core: Core, share: float, **said: Any) -> Step:
    return change(core, lambda each: each.deal(Share(share=share, **said)))


def on(core: Core, devices: Any) -> set[str]:
    """Return who has the variant, as devices work it out from the document."""
    record = decode_as(Flag, FLAG, values_of(core.held(group()))[FLAG + FLAG_KEY])
    assert record.definition is not None
    flag = parse_flag(record.definition)
    return {
        each.name
        for each in devices
        if evaluate(FLAG_KEY, flag, {"targetingKey": each.name}).variant == "on"
    }


def cohort(core: Core) -> set[str]:
    found = core.database.transact(lambda db: store.cohort(db, FLAG_KEY, "all"))
    return {device for device, _, _ in found}


def show(core: Core) -> dict[str, Any]:
    return core.database.transact(lambda db: flag_views.flag_view(db, FLAG_KEY, core.now.ms))


def test_a_flag_stands_in_the_document_of_its_group(core: Core) -> None:
    define(core)
    held = core.database.transact(lambda db: standing(db, FLAG_KEY, "all"))
    assert held is not None
    assert (held.definition.owner, held.who) == ("fleet-core", "ada")
    assert core.database.transact(lambda db: standing(db, FLAG_KEY, "other")) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state": "MAYBE"}, "state must be"),
        ({"metadata": {**METADATA, "expires": "2020-01-01"}}, "that day is past"),
        ({"metadata": {"owner": "a"}}, "metadata lacks cleanup"),
        ({"targeting": {"no": []}}, "operator 'no'"),
    ],
)
def test_a_definition_that_cannot_be_changes_nothing(
    core: Core, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(Refusal, match=words):
        define(core, **changes)
    assert core.held(group()) is None


def test_a_share_is_exactly_so_many_devices_and_the_devices_agree(core: Core) -> None:
    devices = fleet(core, 20)
    define(core)
    step = deal(core, 0.05, at_least=2, is_launch=True)
    assert (step.action, step.dealt_count, step.eligible_count) == ("launch", 2, 20)
    assert len(on(core, devices)) == 2
    assert on(core, devices) == cohort(core)


def test_a_ramp_keeps_who_is_in_and_since_when(core: Core) -> None:
    devices = fleet(core, 20)
    define(core)
    deal(core, 0.1)
    first, began_ms = on(core, devices), core.now.ms
    core.pass_time(3600)
    assert deal(core, 0.5).action == "ramp"
    assert first < on(core, devices)
    assert len(on(core, devices)) == 10
    rows = core.database.transact(lambda db: store.cohort(db, FLAG_KEY, "all"))
    assert {device for device, _, since_ms in rows if since_ms == began_ms} == first


def test_a_share_does_not_shrink_unless_an_operator_says_so(core: Core) -> None:
    devices = fleet(core, 20)
    define(core)
    deal(core, 0.5)
    with pytest.raises(Clash, match="a share does not shrink by itself"):
        deal(core, 0.25)
    assert len(on(core, devices)) == 10
    before = on(core, devices)
    assert deal(core, 0.25, may_shrink=True).dealt_count == 5
    assert on(core, devices) < before


def test_who_is_in_stays_in_when_devices_come_that_would_come_before_them(core: Core) -> None:
    devices = fleet(core, 10)
    define(core)
    deal(core, 0.2)
    before = on(core, devices)
    more = fleet(core, 40, first=10)
    # The weight did not move: newcomers are dealt out by it, and are not on the list.
    assert on(core, devices) == before == cohort(core)
    deal(core, 0.2)
    assert before <= on(core, devices + more) == cohort(core)


def test_a_share_of_one_is_everybody_also_who_comes_later(core: Core) -> None:
    devices = fleet(core, 3)
    define(core)
    deal(core, 1)
    assert len(on(core, devices + fleet(core, 5, first=3))) == 8


def test_only_devices_of_the_group_are_counted(core: Core) -> None:
    fleet(core, 4)
    change(core, lambda each: each.define(definition()), name="other")
    with pytest.raises(Clash, match="no device of group other is registered"):
        change(core, lambda each: each.deal(Share(share=0.5)), name="other")


def test_a_launch_needs_a_guard_and_happens_once(core: Core) -> None:
    fleet(core, 10)
    define(core, metadata={key: METADATA[key] for key in METADATA if key != "guard"})
    with pytest.raises(Clash, match="has no metadata.guard"):
        deal(core, 0.1, is_launch=True)
    define(core)
    deal(core, 0.1, is_launch=True)
    with pytest.raises(Clash, match="is launched in all already"):
        deal(core, 0.2, is_launch=True)


def test_a_definition_without_targeting_keeps_the_share(core: Core) -> None:
    devices = fleet(core, 20)
    define(core)
    deal(core, 0.1)
    before = on(core, devices)
    define(core, metadata={**METADATA, "owner": "somebody-else"})
    assert on(core, devices) == before == cohort(core)
    with pytest.raises(Clash, match="is at 0.1 in all"):
        deal(core, 0.05)


def test_a_definition_that_would_take_a_variant_back_is_refused(core: Core) -> None:
    devices = fleet(core, 20)
    define(core)
    deal(core, 0.1)
    before = on(core, devices)
    with pytest.raises(Clash, match="would take it from some"):
        define(core, targeting={})
    assert on(core, devices) == before
    change(core, lambda each: each.define(definition(targeting={}), may_shrink=True))
    assert on(core, devices) == cohort(core) == set()


def test_a_targeting_that_a_person_wrote_is_not_overwritten(core: Core) -> None:
    fleet(core, 4)
    define(core, targeting={"fractional": [["on", 5], ["off", 95]]})
    with pytest.raises(Clash, match="written by hand"):
        deal(core, 0.5)


@pytest.mark.parametrize(("whom", "count"), [("everyone", 20), ("nobody", 0)])
def test_an_experiment_ends_for_everyone_or_nobody(core: Core, whom: str, count: int) -> None:
    devices = fleet(core, 20)
    define(core)
    deal(core, 0.1)
    tried = cohort(core)
    assert change(core, lambda each: each.finish(whom)).action == "finish"
    assert len(on(core, devices)) == count
    assert cohort(core) == tried


def test_which_of_three_variants_is_dealt_out_must_be_said(core: Core) -> None:
    fleet(core, 4)
    define(core, variants={"slow": 1, "fast": 2, "off": 0})
    with pytest.raises(Refusal, match="say which variant is meant: slow, fast"):
        deal(core, 0.5)
    with pytest.raises(Refusal, match="'off' is not a variant beside the default"):
        deal(core, 0.5, variant="off")
    assert deal(core, 0.5, variant="fast").variant == "fast"
    with pytest.raises(Clash, match="'fast' is dealt out already"):
        deal(core, 0.6, variant="slow")


def test_a_flag_that_is_taken_away_is_gone_from_lists_and_devices(core: Core) -> None:
    fleet(core, 4)
    define(core)
    deal(core, 0.5)
    change(core, lambda each: each.remove())
    value = values_of(core.held(group()))[FLAG + FLAG_KEY]
    assert decode_as(Flag, FLAG, value).definition is None
    assert core.database.transact(lambda db: flag_views.list_view(db, core.now.ms)) == []
    assert cohort(core) == set()
    with pytest.raises(NotFound):
        change(core, lambda each: each.remove())


def test_what_was_taken_away_leaves_the_document_after_a_month(core: Core) -> None:
    define(core)
    change(core, lambda each: each.remove())
    core.pass_time(31 * 86_400)
    core.database.transact(lambda db: core.desired.reset(db, group(), core.now.ms))
    assert values_of(core.held(group())) == {}


def test_what_flags_came_to_on_devices_is_counted(core: Core) -> None:
    devices = fleet(core, 3)
    define(core)
    for device in devices[:2]:
        reads(core, device, FLAG_KEY, "on")
    reads(core, devices[2], FLAG_KEY, "off", variants_count=2)
    found = show(core)
    assert [(each["variant"], each["devices_count"]) for each in found["exposures"]] == [
        ("on", 2),
        ("off", 1),
    ]
    assert found["several_variants_count"] == 1


def test_a_flag_that_runs_nowhere_any_more_is_safe_to_delete_and_the_tail_is_named(
    core: Core,
) -> None:
    devices = fleet(core, 3)
    define(core)
    for device in devices:
        reads(core, device, FLAG_KEY)
    assert [each["device"] for each in show(core)["reading"]] == ["d00", "d01", "d02"]
    for device in devices[:2]:
        device.restart()
        say_hello(core, device, sent_ms=700_000)
    devices[2].restart()
    say_hello(core, devices[2], sent_ms=20_000)  # too soon: its applications are starting
    found = show(core)
    assert (found["is_safe_to_delete"], found["reading_count"]) == (False, 1)
    assert found["reading"][0]["device"] == "d02"
    core.pass_time(680)
    say_hello(core, devices[2], sent_ms=700_000)
    assert show(core)["is_safe_to_delete"]


def test_an_application_that_gave_way_to_another_version_reads_no_more(core: Core) -> None:
    (device,) = fleet(core, 1)
    define(core)
    reads(core, device, FLAG_KEY, reader="app@1.4.0")
    entry = runs("app", "1.5.0", b"m" * 32, device.boot)
    core.talk(device, device.write(entry, core.now.mono_s))
    assert not show(core)["is_safe_to_delete"]
    core.pass_time(700)
    (ran,) = core.rows("SELECT boottime_ms FROM p_version")
    say_hello(core, device, sent_ms=ran[0] + 700_000)
    assert show(core)["is_safe_to_delete"]


def say_hello(core: Core, device: Any, *, sent_ms: int) -> None:
    core.say(device.name, *device.opened(core.now.mono_s), boot=device.boot, sent_ms=sent_ms)


def test_nothing_is_known_of_a_flag_that_nobody_ever_named(core: Core) -> None:
    with pytest.raises(NotFound, match="no flag 'pump-fast' is defined"):
        show(core)


def test_what_devices_say_of_flags_can_be_rebuilt_from_their_documents(core: Core) -> None:
    (device,) = fleet(core, 1)
    reads(core, device, FLAG_KEY)
    before = core.database.transact(projection.dump)
    assert before["p_exposure"]
    core.database.transact(projection.rebuild)
    assert core.database.transact(projection.dump) == before


def test_a_device_that_is_forgotten_leaves_every_cohort(core: Core) -> None:
    (device, *_) = fleet(core, 2)
    define(core)
    deal(core, 1)
    n = core.database.transact(lambda db: device_store.number_of(db, device.name))
    assert n is not None
    core.database.transact(lambda db: device_store.remove(db, device.name, n))
    assert cohort(core) == {"d01"}
