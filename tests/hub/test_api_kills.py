"""Kill orders over the API: what is asked, what is answered, what is refused."""

import httpx
import pytest

from sync.documents import OBEYED
from sync.records import Obeyed, encode
from tests.hub.core import Core
from tests.hub.flagged import definition, fleet
from tests.hub.web import check_problem

KILL = "/kills/flag:pump-fast"


async def test_an_order_is_given_followed_and_taken_back(
    client: httpx.AsyncClient, core: Core
) -> None:
    (device,) = fleet(core, 1)
    await client.put("/groups/all/flags/pump-fast", json={"definition": definition()})
    given = (await client.put(KILL, json={"why": "it leaks"})).json()
    assert (given["groups"], given["lease_s"], given["who"]) == (["all"], 86_400, "ada")
    assert (await client.get(KILL)).json()["unknown_count"] == 1
    record = Obeyed(device.boot, 1000, core.now.ms, 2, given["clock"], "order")
    entry = {OBEYED + "flag:pump-fast": encode(record)}
    core.talk(device, device.write(entry, core.now.mono_s))
    assert (await client.get(KILL)).json()["reached_count"] == 1
    again = await client.put(KILL, json={})
    assert again.json()["clock"] == given["clock"]
    undone = (await client.delete(f"{KILL}?why=mended")).json()
    assert (undone["is_killed"], undone["why"]) == (False, "mended")
    (listed,) = (await client.get("/kills")).json()["items"]
    assert (listed["what"], listed["is_killed"]) == ("flag:pump-fast", False)
    outcomes = core.rows("SELECT outcome FROM audit WHERE action = 'kill.order' ORDER BY n")
    assert outcomes == [("done",), ("unchanged",)]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        (KILL, {}, 404, "is it spelled so"),
        ("/kills/pump-fast", {}, 400, "name flag:KEY or deployment:ID"),
        ("/kills/deployment:dnone", {}, 404, "there is no deployment 'dnone'"),
        (KILL, {"group": "up"}, 400, "reserved word"),
        (KILL, {"why": "a\nb"}, 400, "one line"),
    ],
)
async def test_what_cannot_be_killed_is_refused_and_changes_nothing(
    client: httpx.AsyncClient, path: str, body: dict[str, object], status: int, words: str
) -> None:
    check_problem(await client.put(path, json=body), status, words)
    assert (await client.get("/kills")).json() == {"items": []}


async def test_what_was_never_killed_is_not_there(client: httpx.AsyncClient) -> None:
    check_problem(await client.get(KILL), 404, "never killed")
    check_problem(await client.delete(KILL), 404, "never killed")
