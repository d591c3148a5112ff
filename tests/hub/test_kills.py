"""Kill orders: whom they go to, what devices say of them, and what is shown."""

from typing import Any

import pytest

from hub import kill_views
from hub.deployments import Request
from hub.desired import STATE_BYTES_MAX
from hub.errors import Clash, NotFound, Refusal
from hub.flags import Flags
from hub.kills import Kills, parse_what
from hub.store import deployments as deployment_store
from hub.store import devices as device_store
from hub.store import documents, projection
from hub.store import kills as store
from hub.store.kills import Order
from sync.documents import DESIRED, KILL, OBEYED
from sync.records import Desired, Kill, Obeyed, decode_as, encode, select
from sync.replica import values_of
from tests.fakes.fleet import FleetDevice, fact
from tests.hub.core import START_MS, Core, group
from tests.hub.flagged import METADATA, definition, fleet, reads

FLAG = "flag:pump-fast"


def define(core: Core, name: str = "all", **changes: Any) -> None:
    def job(db: Any) -> None:
        each = Flags(db, core.desired, "pump-fast", name, core.now.ms, "ada")
        each.define(definition(**changes))

    core.database.transact(job)


def kill(core: Core, what: str = FLAG, named: str | None = None) -> Order:
    def job(db: Any) -> Order:
        each = Kills(db, core.desired, core.now.ms - 5, core.now.ms, "ada", "it leaks")
        return each.kill(parse_what(what), named)[0]

    return core.database.transact(job)


def undo(core: Core, what: str = FLAG) -> Order:
    def job(db: Any) -> Order:
        each = Kills(db, core.desired, core.now.ms - 5, core.now.ms, "ada")
        return each.undo(parse_what(what))[0]

    return core.database.transact(job)


def obeys(
    core: Core, device: FleetDevice, order: Order, how: str = "order", detail: str = ""
) -> None:
    clock = 0 if how == "lease" else order.clock
    boottime_ms = 1000 + core.now.ms - START_MS
    record = Obeyed(device.boot, boottime_ms, core.now.ms, 2, clock, how, detail)
    entry = {OBEYED + order.what: encode(record)}
    core.talk(device, device.write(entry, core.now.mono_s))


def show(core: Core, what: str = FLAG) -> dict[str, Any]:
    return core.database.transact(lambda db: kill_views.kill_view(db, what, core.now.ms))


def in_document(core: Core, name: str = "all") -> dict[str, Kill]:
    return select(Kill, KILL, values_of(core.held(group(name))))


def is_away(core: Core, device: str) -> None:
    core.database.transact(lambda db: core.watch.begin(db, core.now.ms))
    for birth, online in ((1, "true"), (1, "false")):
        said = f'{{"online": {online}, "birth": {birth}, "keepalive_s": 1}}'
        core.presence(device, said.encode())


@pytest.mark.parametrize(
    "text", ["pump-fast", "flag:", "flag:Bad Name", "thing:x", "deployment:", "deployment:A"]
)
def test_what_names_neither_a_flag_nor_a_deployment_cannot_be_killed(text: str) -> None:
    with pytest.raises(Refusal):
        parse_what(text)


def test_an_order_stands_in_the_document_of_every_group_that_has_the_flag(core: Core) -> None:
    define(core)
    define(core, "greenhouse")
    order = kill(core)
    assert order.groups == ("all", "greenhouse")
    for name in order.groups:
        assert in_document(core, name)[FLAG] == Kill(order.clock, True, "ada", "it leaks")


def test_a_flag_that_nobody_knows_is_taken_for_a_mistake_unless_a_group_is_named(
    core: Core,
) -> None:
    fleet(core, 1)
    with pytest.raises(NotFound, match="is it spelled so"):
        kill(core)
    assert core.held(group()) is None
    assert kill(core, named="all").groups == ("all",)
    assert in_document(core)[FLAG].is_killed


def test_the_agents_own_features_need_no_definition_and_go_to_every_group(core: Core) -> None:
    device = FleetDevice("pump", 1)
    device.write(fact("groups", ["greenhouse"]), core.now.mono_s)
    core.connect(device)
    fleet(core, 1)
    assert kill(core, "flag:agent.delta").groups == ("all", "greenhouse")
    assert show(core, "flag:agent.delta")["targeted_count"] == 2


def test_a_flag_that_devices_read_though_its_definition_is_gone_can_be_killed(core: Core) -> None:
    (device,) = fleet(core, 1)
    reads(core, device, "pump-fast")
    assert kill(core).groups == ("all",)


def test_a_document_that_is_full_still_takes_an_order(core: Core) -> None:
    define(core)

    def fill(db: Any) -> None:
        number = len(values_of(documents.load(db, group())))
        entry = {f"{DESIRED}k{number}": encode(Desired(1, "x" * 900))}
        core.desired.write(db, group(), entry, core.now.ms)

    with pytest.raises(Clash, match="at most"):
        while True:
            core.database.transact(fill)
    held = core.held(group())
    assert held is not None
    assert len(held.state) > STATE_BYTES_MAX - 2000
    for each in range(20):
        kill(core, f"flag:agent.feature-{each}", "all")
    assert len(in_document(core)) == 20


def test_an_order_given_twice_is_one_order(core: Core) -> None:
    define(core)
    assert kill(core) == kill(core)
    assert core.rows("SELECT count(*) FROM kill_order") == [(1,)]
    define(core, "greenhouse")
    assert kill(core).groups == ("all", "greenhouse")


def test_who_holds_to_an_order_is_counted_with_the_time_it_took(core: Core) -> None:
    devices = fleet(core, 3)
    define(core)
    order = kill(core)
    core.pass_time(2)
    for device in devices[:2]:
        obeys(core, device, order)
    found = show(core)
    assert (found["targeted_count"], found["reached_count"], found["unknown_count"]) == (3, 2, 1)
    assert found["sentence"] == "flag:pump-fast is off on 2 of 3 devices; 1 unknown"
    half = found["time_to_kill"]["p50"]
    assert half["lo_ms"] <= 2005 <= half["hi_ms"] <= 2010
    assert found["time_to_kill"]["p95"]["lo_ms"] is None
    assert [each["device"] for each in found["unknown"]] == ["d02"]


def test_a_word_on_an_order_that_was_never_given_counts_for_nothing(core: Core) -> None:
    (device,) = fleet(core, 1)
    define(core)
    order = kill(core)
    obeys(core, device, order._replace(clock=order.clock + 1))
    obeys(core, device, order._replace(what="flag:other"))
    assert core.rows("SELECT count(*) FROM kill_seen") == [(0,)]
    assert show(core)["reached_count"] == 0


def test_a_later_word_does_not_replace_the_first(core: Core) -> None:
    (device,) = fleet(core, 1)
    define(core)
    order = kill(core)
    obeys(core, device, order)
    before = core.rows("SELECT * FROM kill_seen")
    core.pass_time(600)
    obeys(core, device, order, detail="again")
    assert core.rows("SELECT * FROM kill_seen") == before


def test_a_device_that_is_away_for_longer_than_the_lease_has_fallen_back(core: Core) -> None:
    devices = fleet(core, 2)
    define(core, metadata={**METADATA, "lease_s": 3600})
    is_away(core, devices[0].name)
    order = kill(core)
    obeys(core, devices[1], order)
    core.pass_time(3000)
    found = show(core)
    assert (found["by_lease_count"], found["unknown_count"]) == (0, 1)
    assert found["unknown"][0]["online"] is False
    assert "by lease until" in found["sentence"]
    core.pass_time(700)
    found = show(core)
    assert (found["by_lease_count"], found["unknown_count"]) == (1, 0)
    assert found["sentence"] == "flag:pump-fast is off on 2 of 2 devices, 1 of them by lease"
    assert found["time_to_kill"]["p95"]["hi_ms"] is not None


def test_a_device_that_is_connected_or_whose_lease_never_ends_is_unknown_until_it_says_so(
    core: Core,
) -> None:
    (device,) = fleet(core, 1)
    define(core, metadata={**METADATA, "lease_s": 0})
    is_away(core, device.name)
    order = kill(core)
    assert order.lease_s is None
    core.pass_time(10 * 86_400)
    assert show(core)["unknown_count"] == 1


def test_a_device_that_told_of_the_end_of_its_lease_is_safe(core: Core) -> None:
    (device,) = fleet(core, 1)
    define(core)
    order = kill(core)
    obeys(core, device, order, how="lease")
    found = show(core)
    assert (found["by_lease_count"], found["reached_count"]) == (1, 0)


def test_an_order_that_is_taken_back_is_followed_to_the_same_devices(core: Core) -> None:
    devices = fleet(core, 2)
    define(core)
    kill(core)
    fleet(core, 1, first=2)
    core.pass_time(1)
    order = undo(core)
    assert not in_document(core)[FLAG].is_killed
    obeys(core, devices[0], order, how="back")
    found = show(core)
    assert (found["is_killed"], found["targeted_count"], found["reached_count"]) == (False, 2, 1)
    assert found["sentence"].startswith("flag:pump-fast is no longer killed on 1 of 2 devices")
    assert undo(core) == order


def test_what_was_never_killed_cannot_be_taken_back_or_shown(core: Core) -> None:
    with pytest.raises(NotFound, match="never killed"):
        undo(core)
    with pytest.raises(NotFound, match="never killed"):
        show(core)


def test_a_deployment_that_is_killed_is_taken_back_too(core: Core) -> None:
    devices = fleet(core, 2)
    core.release()
    deployed = core.deploy(Request(release="lamp@1.0.0", group="all")).deployed
    order = kill(core, f"deployment:{deployed.id}")
    after = core.database.transact(lambda db: deployment_store.load(db, deployed.id))
    assert after is not None
    assert after.cancelled_ms == core.now.ms
    obeys(core, devices[0], order, detail="rolled back")
    found = show(core, order.what)
    assert found["details"] == [{"detail": "rolled back", "devices_count": 1}]
    assert found["lease_s"] is None
    with pytest.raises(NotFound, match="there is no deployment"):
        kill(core, "deployment:dnone")


def test_devices_that_were_named_are_reached_through_a_group_they_are_in(core: Core) -> None:
    pump = FleetDevice("pump", 1)
    pump.write(fact("groups", ["greenhouse", "all"]), core.now.mono_s)
    core.connect(pump)
    fleet(core, 2)
    core.release()
    request = Request(release="lamp@1.0.0", devices=["pump", "d00"])
    order = kill(core, f"deployment:{core.deploy(request).deployed.id}")
    assert set(order.groups) == {"all"} or set(order.groups) == {"greenhouse", "all"}
    assert show(core, order.what)["targeted_count"] == 2
    assert order.what in in_document(core, "all")


def test_what_devices_say_of_orders_can_be_rebuilt_and_is_forgotten_with_them(core: Core) -> None:
    (device,) = fleet(core, 1)
    define(core)
    obeys(core, device, kill(core))
    before = core.database.transact(projection.dump)
    assert before["p_obeyed"]
    core.database.transact(projection.rebuild)
    assert core.database.transact(projection.dump) == before
    n = core.database.transact(lambda db: device_store.number_of(db, device.name))
    assert n is not None
    core.database.transact(lambda db: device_store.remove(db, device.name, n))
    assert show(core)["targeted_count"] == 0
    assert core.rows("SELECT count(*) FROM kill_seen") == [(0,)]


def test_an_order_outlives_new_epochs_and_one_taken_back_goes_after_a_year(core: Core) -> None:
    define(core)
    kill(core)
    core.pass_time(500 * 86_400)
    core.database.transact(lambda db: core.desired.reset(db, group(), core.now.ms))
    assert in_document(core)[FLAG].is_killed
    undo(core)
    core.pass_time(500 * 86_400)
    core.database.transact(lambda db: core.desired.reset(db, group(), core.now.ms))
    assert in_document(core) == {}


def test_every_order_that_counts_is_listed_the_latest_first(core: Core) -> None:
    devices = fleet(core, 2)
    define(core)
    obeys(core, devices[0], kill(core))
    kill(core, "flag:agent.delta")
    listed = core.database.transact(kill_views.list_view)
    assert [(each["what"], each["targeted_count"], each["reached_count"]) for each in listed] == [
        ("flag:agent.delta", 2, 0),
        (FLAG, 2, 1),
    ]
    assert core.database.transact(store.groups) == ["all"]
    value = values_of(core.held(group()))[KILL + FLAG]
    assert decode_as(Kill, KILL, value).why == "it leaks"
