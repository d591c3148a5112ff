import pytest

from agent.desired import conflicts, desired_settings, standing, wishes
from sync import records
from sync.documents import DocumentName, Kind
from sync.records import Conflict, Deployment, Desired, Local, Record

OWN = DocumentName(Kind.DESIRED, "lamp-1")
GROUP = DocumentName(Kind.GROUP, "all")
LABELS = {"site": "s7", "class": "generic"}


def held(**entries: Record) -> dict[str, bytes]:
    return {f"r/{name}": records.encode(record) for name, record in entries.items()}


def deployment(order: int, *, where: str = "", component: str = "lamp") -> Deployment:
    return Deployment(order, component, "1.0.0", bytes(32), 100, where=where)


def test_wishes_of_the_device_and_its_groups_come_in_the_order_they_were_made() -> None:
    found = wishes(
        {OWN: held(b=deployment(2)), GROUP: held(c=deployment(3), a=deployment(1))}, LABELS
    )
    assert [wish.deployment for wish in found] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("where", "applies"),
    [
        ("", True),
        ("site=s7", True),
        ("site=s8", False),
        ("site!=s8,class=generic", True),
        ("site >= s7", False),
    ],
)
def test_a_group_s_wish_applies_to_those_it_selects_and_not_where_it_cannot_be_read(
    where: str, applies: bool
) -> None:
    assert bool(wishes({GROUP: held(a=deployment(1, where=where))}, LABELS)) is applies


@pytest.mark.parametrize(
    ("name", "component"),
    [("../../etc", "lamp"), ("a/b", "lamp"), ("good", "../lamp"), ("good", "La mp"), ("good", "")],
)
def test_what_would_make_a_bad_key_or_path_is_no_wish(name: str, component: str) -> None:
    assert wishes({GROUP: held(**{name: deployment(1, component=component)})}, LABELS) == []


def test_a_record_that_cannot_be_read_hides_no_other() -> None:
    entries = {**held(a=deployment(1)), "r/b": b"\xc1", "r/c": b"\x91\x01"}
    assert [wish.deployment for wish in wishes({OWN: entries}, LABELS)] == ["a"]


def test_the_latest_wish_for_a_component_counts() -> None:
    found = wishes({OWN: held(b=deployment(2), a=deployment(1))}, LABELS)
    assert standing(found)["lamp"].deployment == "b"


def test_of_the_wishes_for_a_setting_the_latest_counts_whoever_it_was_for() -> None:
    for_group = {"d/mode": records.encode(Desired(2, '"eco"'))}
    for_device = {"d/mode": records.encode(Desired(1, '"full"'))}
    assert desired_settings({OWN: for_device, GROUP: for_group})["mode"].value == '"eco"'


LOCAL = {"mode": Local(5, '"eco"')}
DESIRED = {"mode": Desired(6, '"full"')}


def test_two_values_of_which_neither_side_knew_are_a_conflict() -> None:
    due = conflicts(LOCAL, DESIRED, {}, 9)
    assert due["mode"] == Conflict(9, '"eco"', '"full"', '"full"', "desired", 5, 6)


def test_a_conflict_is_recorded_once() -> None:
    recorded = conflicts(LOCAL, DESIRED, {}, 9)
    assert conflicts(LOCAL, DESIRED, recorded, 10) == {}


def test_a_conflict_is_recorded_anew_when_a_side_writes_again_without_knowing() -> None:
    recorded = conflicts(LOCAL, DESIRED, {}, 9)
    due = conflicts({"mode": Local(7, '"off"')}, DESIRED, recorded, 10)
    assert (due["mode"].local, due["mode"].winner) == ('"off"', "local")


@pytest.mark.parametrize(
    ("local", "desired"),
    [
        ({"mode": Local(7, '"off"', saw=6)}, DESIRED),
        (LOCAL, {"mode": Desired(8, '"on"', saw=5)}),
        ({"mode": Local(7, '"full"')}, DESIRED),
        ({"mode": Local(7, None, saw=6)}, DESIRED),
        (LOCAL, {}),
    ],
    ids=["device saw", "hub saw", "they agree", "taken back", "wish gone"],
)
def test_a_conflict_is_settled_when_either_side_knew_or_no_longer_wants(
    local: dict[str, Local], desired: dict[str, Desired]
) -> None:
    recorded = conflicts(LOCAL, DESIRED, {}, 9)
    settled = conflicts(local, desired, recorded, 10)
    assert settled["mode"].winner == ""
    assert conflicts(local, desired, settled, 11) == {}
