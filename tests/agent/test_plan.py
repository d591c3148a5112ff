from collections.abc import Callable, Mapping, Sequence

import pytest

from agent.desired import Wish
from agent.install import STORED, State
from agent.journal import Journal
from agent.plan import Act, Runs, astray, end_of, end_of_again, gone, plan
from sync.records import Deployment
from sync.stages import Stage

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


def test_a_wish_that_the_hub_no_longer_holds_ends_as_superseded_or_as_taken_back() -> None:
    before = {
        "done": Wish("done", record(1)),
        "dpump": Wish("dpump", record(2, component="pump")),
        "dstays": Wish("dstays", record(3)),
    }
    ends = gone(before, [before["dstays"]])

    assert [(step.wish.deployment, step.stage) for step in ends] == [
        ("done", Stage.SUPERSEDED),
        ("dpump", Stage.CANCELLED),
    ]


ONE, TWO = b"1" * 32, b"2" * 32
ACKED = {Stage.DELIVERED, Stage.ACKNOWLEDGED}
UNDONE = {Stage.DELIVERED, Stage.ROLLED_BACK}
AGAIN_MAX = 3


def wish(name: str, order: int, release: bytes, *, cancelled: bool = False) -> Wish:
    return Wish(name, Deployment(order, "lamp", "1.0", release, 100, cancelled=cancelled))


FIRST, SECOND = wish("dfirst", 1, ONE), wish("dsecond", 2, TWO)


def last(
    deployment: str, state: State = State.COMMITTED, again: int = 0, boot: bytes = b"boot-1"
) -> Journal:
    return Journal(deployment, "lamp", "1.0", ONE, b"", STORED[state], again=again, boot=boot)


def again(
    wishes: Sequence[Wish],
    known: Mapping[str, set[Stage]],
    runs: Runs,
    later: Callable[[str, str], bool] = lambda _one, _other: False,
) -> list[str]:
    found = astray(
        wishes,
        lambda name: known.get(name, set()),
        {"lamp": runs},
        is_later=later,
        again_max=AGAIN_MAX,
        boot=b"boot-1",
    )
    return [each.deployment for each in found]


BOTH = {"dfirst": ACKED, "dsecond": ACKED}


@pytest.mark.parametrize(
    ("wishes", "known", "runs", "due"),
    [
        ([FIRST, SECOND], BOTH, Runs(TWO, "dsecond"), []),
        ([FIRST, SECOND], BOTH, Runs(TWO, ""), []),
        ([FIRST, SECOND], BOTH, Runs(ONE, "dfirst"), ["dsecond"]),
        ([FIRST, SECOND], BOTH, Runs(b"", ""), ["dsecond"]),
        ([FIRST, SECOND], {"dfirst": ACKED, "dsecond": UNDONE}, Runs(ONE, "dfirst"), []),
        ([FIRST, SECOND], {"dfirst": ACKED, "dsecond": UNDONE}, Runs(TWO, ""), ["dfirst"]),
        ([FIRST, SECOND], {"dsecond": UNDONE}, Runs(b"", ""), []),
        ([FIRST], {}, Runs(b"", ""), []),
        ([], {}, Runs(ONE, "dgone"), []),
    ],
    ids=[
        "the newest runs",
        "the newest runs, brought by nobody knows whom",
        "an older one runs",
        "nothing runs",
        "the newest failed and the one before runs",
        "the newest failed and runs all the same",
        "none was ever acknowledged",
        "the only one is yet to be installed",
        "nothing is wished",
    ],
)
def test_the_newest_acknowledged_deployment_is_installed_again_when_something_else_runs(
    wishes: list[Wish], known: dict[str, set[Stage]], runs: Runs, due: list[str]
) -> None:
    assert again(wishes, known, runs) == due


@pytest.mark.parametrize(
    ("running", "due"), [(TWO, []), (ONE, []), (b"", ["dfirst"])], ids=["it", "older", "nothing"]
)
def test_cancelling_an_acknowledged_deployment_touches_nothing_that_runs_and_it_never_comes_back(
    running: bytes, due: list[str]
) -> None:
    wishes = [FIRST, wish("dsecond", 2, TWO, cancelled=True)]

    assert again(wishes, BOTH, Runs(running, "")) == due


@pytest.mark.parametrize(
    ("journal", "due"),
    [
        (last("dfirst"), ["dfirst"]),
        (last("dfirst", again=AGAIN_MAX - 1), ["dfirst"]),
        (last("dfirst", again=AGAIN_MAX), []),
        (last("dfirst", State.WITHDRAWN, again=1), ["dfirst"]),
        (last("dfirst", State.FAILED, again=1), []),
        (last("dfirst", State.ROLLED_BACK, again=1), []),
        (last("dfirst", State.STUCK, again=1), []),
        (last("dfirst", State.TRIAL, again=1), []),
        (last("dother", State.ROLLED_BACK), ["dfirst"]),
        (last("dother", State.TRIAL), []),
    ],
)
def test_what_ended_badly_or_was_done_too_often_is_not_installed_again(
    journal: Journal, due: list[str]
) -> None:
    assert again([FIRST], {"dfirst": ACKED}, Runs(TWO, "", journal)) == due


@pytest.mark.parametrize("is_later", [True, False])
def test_what_a_forgotten_deployment_brought_stays_if_it_is_the_later_one(
    *, is_later: bool
) -> None:
    due = again([FIRST], {"dfirst": ACKED}, Runs(TWO, "dgone"), lambda _mine, _other: is_later)

    assert due == ([] if is_later else ["dfirst"])


@pytest.mark.parametrize(
    ("wishes", "known", "end"),
    [
        ([FIRST], {}, None),
        ([FIRST, SECOND], {}, Stage.SUPERSEDED),
        ([FIRST, SECOND], {"dsecond": {Stage.DELIVERED}}, Stage.SUPERSEDED),
        ([FIRST, SECOND], {"dsecond": UNDONE}, None),
        ([FIRST, wish("dsecond", 2, TWO, cancelled=True)], {}, None),
        ([wish("dfirst", 1, ONE, cancelled=True)], {}, Stage.CANCELLED),
    ],
)
def test_an_install_that_is_done_again_gives_way_only_to_one_that_is_yet_to_come(
    wishes: list[Wish], known: dict[str, set[Stage]], end: Stage | None
) -> None:
    found = end_of_again(wishes[0], wishes, lambda name: known.get(name, set()), HUB_MS)

    assert found is end


def test_an_install_that_is_done_again_does_not_expire() -> None:
    old = Wish("done", record(1, expires_ms=1))

    assert end_of_again(old, [old], lambda _name: ACKED, HUB_MS) is None
