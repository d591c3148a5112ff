"""Flags over the API: what is asked, what is answered, what is refused."""

import httpx
import pytest

from tests.hub.core import Core
from tests.hub.flagged import definition, fleet, reads
from tests.hub.web import check_problem

FLAG = "/groups/all/flags/pump-fast"


async def test_a_flag_goes_from_nobody_over_some_to_everyone(
    client: httpx.AsyncClient, core: Core
) -> None:
    fleet(core, 10)
    made = await client.put(FLAG, json={"definition": definition(), "why": "slow pumps"})
    assert made.status_code == 200, made.text
    launched = (
        await client.put(
            f"{FLAG}/share", json={"share": 0.05, "at_least": 2, "launch": True, "why": "try"}
        )
    ).json()
    assert launched["action"] == "launch"
    assert (launched["dealt_count"], launched["eligible_count"]) == (2, 10)
    shown = (await client.get("/flags/pump-fast")).json()
    (stands,) = shown["groups"]
    assert (stands["dealt_variant"], stands["share"]) == ("on", 0.05)
    assert len(stands["cohort"]) == 2
    assert [(each["action"], each["who"], each["why"]) for each in stands["steps"]] == [
        ("launch", "ada", "try"),
        ("set", "ada", "slow pumps"),
    ]
    await client.post(f"{FLAG}/finish", json={"for": "everyone"})
    (listed,) = (await client.get("/flags")).json()["items"]
    assert listed["definition"]["defaultVariant"] == "on"
    assert "targeting" not in listed["definition"]
    assert (await client.delete(FLAG)).status_code == 200
    assert (await client.get("/flags")).json()["items"] == []


async def test_a_flag_that_devices_read_is_taken_away_only_by_force(
    client: httpx.AsyncClient, core: Core
) -> None:
    (device,) = fleet(core, 1)
    await client.put(FLAG, json={"definition": definition()})
    reads(core, device, "pump-fast")
    check_problem(await client.delete(FLAG), 409, r"still read by 1 devices \(d00\)")
    assert (await client.get("/flags")).json()["items"] != []
    assert (await client.delete(f"{FLAG}?force=true")).status_code == 200
    found = (await client.get("/flags/pump-fast")).json()
    assert (found["groups"], found["is_safe_to_delete"]) == ([], False)


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        (FLAG, {"definition": {}}, 400, "state must be"),
        (FLAG, {"definition": definition(), "no": 1}, 400, "no"),
        ("/groups/all/flags/Bad%20Name", {"definition": definition()}, 400, "cannot name a flag"),
        ("/groups/up/flags/f", {"definition": definition()}, 400, "reserved word"),
        (FLAG, {"definition": definition(), "why": "a\nb"}, 400, "one line"),
        (f"{FLAG}/share", {"share": 2}, 400, "from 0 to 1"),
        (f"{FLAG}/share", {"share": 0.5, "at_least": 0}, 400, "at_least"),
        (f"{FLAG}/share", {"share": 0.5}, 409, "no device of group all"),
        ("/groups/all/flags/none/share", {"share": 0.5}, 404, "no flag 'none' is defined"),
    ],
)
async def test_what_makes_no_sense_is_refused_and_changes_nothing(
    client: httpx.AsyncClient, path: str, body: dict[str, object], status: int, words: str
) -> None:
    await client.put(FLAG, json={"definition": definition()})
    before = (await client.get("/flags")).json()
    check_problem(await client.put(path, json=body), status, words)
    assert (await client.get("/flags")).json() == before


async def test_a_flag_ends_for_everyone_or_nobody_and_for_nobody_else(
    client: httpx.AsyncClient,
) -> None:
    await client.put(FLAG, json={"definition": definition()})
    check_problem(await client.post(f"{FLAG}/finish", json={"for": "some"}), 400, "for everyone or")
    check_problem(await client.get("/flags/none"), 404, "no flag 'none'")
