from agent.prune import DEPLOYMENTS_MAX, TOLD_MAX, prune
from sync.records import Ack, Conflict, Exposure, Local, Obeyed, Waiting, encode


def ended(number: int, code: str = "K") -> dict[str, bytes]:
    ack = encode(Ack(b"boot-1", 1, 1000 + number, 0))
    return {f"a/d{number}/D": ack, f"a/d{number}/{code}": ack}


def test_a_small_document_keeps_everything() -> None:
    values = {**ended(1), "s/a": b"x", "c/k": encode(Local(1, "1"))}

    assert prune(values) == values


def test_of_finished_deployments_the_newest_stay() -> None:
    values: dict[str, bytes] = {}
    for number in range(DEPLOYMENTS_MAX + 5):
        values |= ended(number)

    kept = prune(values)

    assert len(kept) == 2 * DEPLOYMENTS_MAX
    assert "a/d4/K" not in kept
    assert "a/d5/K" in kept


def test_a_deployment_under_way_stays_however_old_it_is() -> None:
    values = ended(0, code="V")
    for number in range(1, DEPLOYMENTS_MAX + 5):
        values |= ended(number)

    assert {"a/d0/D", "a/d0/V"} <= prune(values).keys()


def test_of_deployments_that_never_ended_and_that_nobody_wishes_for_the_newest_stay() -> None:
    values: dict[str, bytes] = {}
    for number in range(DEPLOYMENTS_MAX + 5):
        values |= ended(number, code="V")

    kept = prune(values, wished={"d0"})

    assert {"a/d0/D", "a/d0/V"} <= kept.keys()
    assert not {"a/d1/V", "a/d4/V"} & kept.keys()
    assert "a/d5/V" in kept


def test_a_finished_deployment_that_the_hub_still_wishes_for_stays_or_it_would_look_new() -> None:
    values: dict[str, bytes] = {}
    for number in range(DEPLOYMENTS_MAX + 5):
        values |= ended(number)

    kept = prune(values, wished={"d0"})

    assert [key for key in kept if key.startswith("a/d0/")] == ["a/d0/K"]
    assert prune(kept, wished={"d0"}) == kept


def test_settings_taken_back_and_conflicts_that_are_settled_go() -> None:
    gone = {
        "c/old": encode(Local(1, None)),
        "x/old": encode(Conflict(1, None, None, None, "")),
        "c/broken": b"\xc1",
    }
    stays = {
        "c/new": encode(Local(1, "1")),
        "x/new": encode(Conflict(1, "1", "2", "2", "desired")),
    }

    assert prune({**gone, **stays}) == stays


def test_waits_go_when_they_are_over_and_with_their_deployment() -> None:
    waits, over = (encode(Waiting(b"boot-1", 1, 1, reason)) for reason in ("inhibited", ""))
    values = {"w/d1": waits, "w/d2": over, "w/d1000": waits}
    for number in range(1000, 1000 + DEPLOYMENTS_MAX):
        values |= ended(number)
    values |= ended(1)
    kept = prune(values)
    assert [key for key in kept if key.startswith("w/")] == ["w/d1000"]


def test_of_readings_and_orders_obeyed_the_newest_stay() -> None:
    values: dict[str, bytes] = {}
    for number in range(TOLD_MAX + 5):
        values[f"e/f{number}"] = encode(Exposure(b"boot-1", 1, number, "on", "STATIC"))
        values[f"q/flag:f{number}"] = encode(Obeyed(b"boot-1", 1, number, 0, 1, "order"))

    kept = prune(values)

    assert len(kept) == 2 * TOLD_MAX
    assert not {"e/f4", "q/flag:f4"} & kept.keys()
    assert {"e/f5", "q/flag:f5"} <= kept.keys()
