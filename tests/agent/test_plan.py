from collections.abc import Mapping

from agent.desired import Wish, wishes
from agent.plan import Act, end_of, plan
from sync import records
from sync.documents import DocumentName, Kind
from sync.records import Deployment
from sync.stages import Stage

DES = DocumentName(Kind.DESIRED, "lamp-1")
GROUP = DocumentName(Kind.GROUP, "all")
HUB_MS = 1_000_000


def record(
    order: int,
    *,
    component: str = "lamp",
    cancelled: bool = False,
    expires_ms: int = 0,
    where: str = "",
) -> Deployment:
    return Deployment(order, component, f"1.{order}", bytes(32), 100, where, cancelled, expires_ms)


def steps(
    *all_wishes: Wish, known: Mapping[str, set[Stage]] | None = None, hub_ms: int = HUB_MS
) -> list[tuple[Act, str, Stage]]:
    found = plan(all_wishes, lambda name: (known or {}).get(name, set()), hub_ms)
    return [(step.act, step.wish.deployment, step.stage) for step in found]


def test_a_new_deployment_is_acknowledged_as_delivered_and_then_installed() -> None:
    assert steps(Wish("done", record(1))) == [
        (Act.ACKNOWLEDGE, "done", Stage.DELIVERED),
        (Act.INSTALL, "done", Stage.ACKNOWLEDGED),
    ]


def test_one_that_was_begun_goes_on_without_being_delivered_again() -> None:
    assert steps(Wish("done", record(1)), known={"done": {Stage.DELIVERED, Stage.VERIFIED}}) == [
        (Act.INSTALL, "done", Stage.ACKNOWLEDGED)
    ]


def test_one_that_has_ended_in_any_way_is_never_touched_again() -> None:
    for end in (Stage.ACKNOWLEDGED, Stage.FAILED, Stage.ROLLED_BACK, Stage.SUPERSEDED):
        assert steps(Wish("done", record(1)), known={"done": {Stage.DELIVERED, end}}) == []


def test_only_the_latest_of_a_component_is_installed_and_older_ones_are_superseded() -> None:
    assert steps(Wish("done", record(1)), Wish("dtwo", record(2))) == [
        (Act.ACKNOWLEDGE, "done", Stage.DELIVERED),
        (Act.ACKNOWLEDGE, "done", Stage.SUPERSEDED),
        (Act.ACKNOWLEDGE, "dtwo", Stage.DELIVERED),
        (Act.INSTALL, "dtwo", Stage.ACKNOWLEDGED),
    ]


def test_components_do_not_supersede_each_other() -> None:
    acts = steps(Wish("done", record(1)), Wish("dtwo", record(2, component="pump")))
    assert [name for act, name, _ in acts if act is Act.INSTALL] == ["done", "dtwo"]


def test_after_the_latest_was_cancelled_the_one_before_counts_again() -> None:
    acts = steps(Wish("done", record(1)), Wish("dtwo", record(2, cancelled=True)))
    assert (Act.INSTALL, "done", Stage.ACKNOWLEDGED) in acts
    assert (Act.ACKNOWLEDGE, "dtwo", Stage.CANCELLED) in acts


def test_a_deployment_expires_only_when_the_hub_clock_has_certainly_passed_its_time() -> None:
    due = Wish("done", record(1, expires_ms=HUB_MS))
    assert steps(due, hub_ms=HUB_MS)[-1] == (Act.ACKNOWLEDGE, "done", Stage.EXPIRED)
    assert steps(due, hub_ms=HUB_MS - 1)[-1] == (Act.INSTALL, "done", Stage.ACKNOWLEDGED)
    assert steps(due, hub_ms=0)[-1] == (Act.INSTALL, "done", Stage.ACKNOWLEDGED)


def test_cancelled_counts_before_superseded_and_superseded_before_expired() -> None:
    latest = Wish("dtwo", record(2))
    assert end_of(Wish("done", record(1, cancelled=True)), latest, HUB_MS) is Stage.CANCELLED
    assert end_of(Wish("done", record(1, expires_ms=1)), latest, HUB_MS) is Stage.SUPERSEDED


def stored(**deployments: Deployment) -> dict[str, bytes]:
    return {f"r/{name}": records.encode(each) for name, each in deployments.items()}


def test_wishes_of_all_documents_come_in_the_order_in_which_they_were_asked_for() -> None:
    values = {DES: stored(dtwo=record(5)), GROUP: stored(done=record(3), dnine=record(9))}

    assert [wish.deployment for wish in wishes(values, {})] == ["done", "dtwo", "dnine"]


def test_a_deployment_that_selects_other_devices_is_not_ours() -> None:
    values = {GROUP: stored(ours=record(1, where="site=s7"), theirs=record(2, where="site=s8"))}

    assert [wish.deployment for wish in wishes(values, {"site": "s7"})] == ["ours"]


def test_a_selector_that_this_agent_cannot_read_selects_nothing() -> None:
    values = {GROUP: stored(done=record(1, where="site ~ [from the future]"))}

    assert wishes(values, {"site": "s7"}) == []


def test_a_deployment_whose_names_are_no_names_or_whose_record_is_broken_is_left_out() -> None:
    values = {
        DES: {
            **stored(fine=record(1)),
            "r/../../etc": records.encode(record(2)),
            "r/path": records.encode(record(3, component="../../etc")),
            "r/broken": b"\xc1",
        }
    }

    assert [wish.deployment for wish in wishes(values, {})] == ["fine"]
