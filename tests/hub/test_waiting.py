"""Devices that wait with a deployment, as the hub shows them, and what an operator can order."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hub import terms, views
from hub.deployments import Request, cancel, check
from hub.desired import TERMS_KEPT_MS, prune
from hub.errors import Clash, NotFound, Refusal
from hub.outcomes.silence import Verdict
from hub.store import deployments as store
from hub.terms import Order
from sync import documents as names
from sync.documents import DocumentName
from sync.hlc import COUNTER_BITS
from sync.records import Deployment, Terms, Waiting, encode, select
from sync.replica import values_of
from tests.fakes.fleet import FleetDevice, fact
from tests.hub.core import Core, desired, group, running


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    with running(tmp_path) as started:
        yield started


@pytest.fixture
def pump(core: Core) -> FleetDevice:
    device = FleetDevice("pump", 1)
    device.write(fact("class", "pump"), core.now.mono_s)
    core.connect(device)
    return device


def deploy(core: Core) -> str:
    core.release()
    return core.deploy(Request(release="lamp@1.0.0", group="all")).deployed.id


def say(core: Core, device: FleetDevice, deployment: str, reason: str, detail: str = "") -> None:
    record = Waiting(device.boot, 5_000, 0, reason, detail, 1_800_000_000_000, 600, "go")
    entry = {names.WAITING + deployment: encode(record)}
    core.talk(device, device.write(entry, core.now.mono_s))


def report(core: Core, deployment: str) -> dict[str, Any]:
    def job(db: Any) -> dict[str, Any]:
        deployed = store.load(db, deployment)
        assert deployed is not None
        found = views.report_of(db, deployed, silence_s=60, now_ms=core.now.ms)
        return views.report_view(deployed, found)

    return core.database.transact(job)


def order(core: Core, deployment: str, device: str | None = None, **said: Any) -> None:
    wanted = Order(**said)
    terms.check(wanted)

    def job(db: Any) -> None:
        terms.write(db, core.desired, deployment, wanted, device, core.now.ms)

    core.database.transact(job)


def standing(core: Core, deployment: str) -> list[dict[str, Any]]:
    return core.database.transact(lambda db: terms.view(db, deployment))


def written(core: Core, document: DocumentName, deployment: str) -> Terms | None:
    return select(Terms, names.TERMS, values_of(core.held(document))).get(deployment)


def test_a_device_that_waits_is_deferred_and_says_why_and_until_when(
    core: Core, pump: FleetDevice
) -> None:
    deployment = deploy(core)
    say(core, pump, deployment, "inhibited", "backup holds a lock: it runs")
    told = report(core, deployment)
    (row,) = told["devices"]
    assert row["verdict"] == Verdict.DEFERRED
    assert row["waiting"]["reason"] == row["reason"] == "inhibited"
    assert row["waiting"]["until_ms"] == 1_800_000_000_000
    assert (row["waiting"]["left_s"], row["waiting"]["overdue"]) == (600, "go")
    assert "backup holds a lock: it runs" in row["sentence"]
    assert told["verdicts"]["deferred"] == 1
    assert told["verdicts"]["failed"] == told["verdicts"]["silent"] == 0
    assert "1 waits with it (an application on the device holds a lock)" in told["sentence"]
    assert core.rows("SELECT * FROM offence") == []


def test_a_wait_that_is_over_is_shown_no_more_but_for_what_was_passed_over(
    core: Core, pump: FleetDevice
) -> None:
    deployment = deploy(core)
    say(core, pump, deployment, "inhibited")
    say(core, pump, deployment, "", "an operator said that it must not wait")
    (row,) = report(core, deployment)["devices"]
    assert row["verdict"] != Verdict.DEFERRED
    assert row["waiting"] is None
    assert any("an operator said that it must not wait" in each for each in row["evidence_for"])


def test_an_order_goes_where_the_deployment_went(core: Core, pump: FleetDevice) -> None:
    deployment = deploy(core)
    order(core, deployment, is_now=True, why="a leak")
    found = written(core, group(), deployment)
    assert found is not None
    assert (found.is_now, found.writer, found.why) == (True, "operator", "a leak")


def test_an_order_for_one_device_leaves_the_others_alone(core: Core, pump: FleetDevice) -> None:
    deployment = deploy(core)
    order(core, deployment, "pump", is_now=True)
    assert written(core, group(), deployment) is None
    found = written(core, desired("pump"), deployment)
    assert found is not None
    assert found.is_now


def test_what_is_not_said_stays_as_it_was(core: Core, pump: FleetDevice) -> None:
    deployment = deploy(core)
    order(core, deployment, windows=["Sat 02:00-04:00"], budget_s=3600.0)
    core.pass_time(1)
    order(core, deployment, "pump", overdue="go")
    core.pass_time(1)
    order(core, deployment, "pump", windows=[])
    mine, everybody = standing(core, deployment)
    assert (mine["device"], everybody["group"]) == ("pump", "all")
    assert (mine["windows"], mine["budget_s"], mine["overdue"]) == ([], 3600, "go")
    assert (everybody["windows"], everybody["overdue"]) == (["Sat 02:00-04:00"], None)
    assert mine["ordered_at_ms"] == everybody["ordered_at_ms"] + 2000


def test_terms_can_come_with_the_deployment(core: Core, pump: FleetDevice) -> None:
    core.release()
    asked = Request(release="lamp@1.0.0", devices=["pump"], terms=Order(is_now=True))
    deployment = core.deploy(asked).deployed.id
    found = written(core, desired("pump"), deployment)
    assert found is not None
    assert found.is_now


@pytest.mark.parametrize(
    "said",
    [
        Order(),
        Order(why="nothing else"),
        Order(windows=["Mo 02:00-04:00"]),
        Order(budget_s=-1.0),
        Order(budget_s=float("nan")),
        Order(overdue="explode"),
        Order(is_now=True, why="two\nlines"),
        Order(is_now=True, why="x" * 201),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(said: Order) -> None:
    with pytest.raises(Refusal):
        terms.check(said)
    with pytest.raises(Refusal):
        check(Request(release="lamp@1.0.0", group="all", terms=said))


def test_an_order_must_concern_somebody(core: Core, pump: FleetDevice) -> None:
    deployment = deploy(core)
    with pytest.raises(NotFound, match="no deployment"):
        order(core, "dnone", is_now=True)
    with pytest.raises(NotFound, match="not meant for"):
        order(core, deployment, "nobody", is_now=True)
    core.database.transact(lambda db: cancel(db, core.desired, deployment, core.now.ms))
    with pytest.raises(Clash, match="taken back"):
        order(core, deployment, is_now=True)
    assert standing(core, deployment) == []


def test_terms_go_with_their_deployment_and_a_devices_own_after_a_year(core: Core) -> None:
    ours = encode(Terms(core.now.ms << COUNTER_BITS, is_now=True))
    record = Deployment(1, "lamp", "1.0.0", bytes(32), 100)
    later = Deployment(2, "lamp", "1.1.0", bytes(32), 100)
    values = {
        "r/dold": encode(record),
        "r/dnew": encode(later),
        "t/dold": ours,
        "t/dnew": ours,
        "t/delsewhere": ours,
    }
    kept = prune(values, now_ms=core.now.ms)
    assert set(kept) == {"r/dnew", "t/dnew", "t/delsewhere"}
    assert set(prune(values, now_ms=core.now.ms + 2 * TERMS_KEPT_MS)) == {"r/dnew"}
