import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.client import BadAddress, HubClient, HubFault, NoHub, Refused
from tests.hub.cli.canned_hub import CannedHub, canned_hub


def listed(device: str) -> dict[str, object]:
    return {"device": device, "online": None, "first_seen_at_ms": 1, "last_uplink_at_ms": 2}


@pytest.fixture
def hub() -> Iterator[CannedHub]:
    with canned_hub() as server:
        yield server


def test_where_no_hub_answers_the_address_and_the_way_out_are_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(NoHub) as caught:
            HubClient(url).hub()
    assert url in str(caught.value)
    assert "fieldfare hub" in str(caught.value)


def test_a_refusal_says_in_one_line_what_the_hub_said(hub: CannedHub) -> None:
    problem = {"type": "about:blank", "title": "No", "status": 409, "detail": "one\n two"}
    hub.answer("GET", "/fleet", problem, 409)
    with pytest.raises(Refused) as caught:
        HubClient(hub.url).fleet()
    assert (caught.value.status, str(caught.value)) == (409, "one two")


@pytest.mark.parametrize("answer", [b"<html>hello</html>", [1, 2], b"", None])
def test_something_else_than_a_hub_is_recognised(hub: CannedHub, answer: object) -> None:
    hub.answer("GET", "/fleet", answer)
    with pytest.raises(HubFault, match="is no hub of Fieldfare"):
        HubClient(hub.url).fleet()


def test_what_speaks_no_http_is_recognised() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        from threading import Thread

        def talk() -> None:
            caller, _ = listener.accept()
            with caller:
                caller.recv(1000)
                caller.sendall(b"\x10\x20 this is something else\r\n\r\n")

        thread = Thread(target=talk)
        thread.start()
        with pytest.raises(HubFault, match="speaks no HTTP"):
            HubClient(f"http://127.0.0.1:{listener.getsockname()[1]}").hub()
        thread.join()


def test_a_fault_of_the_hub_is_told_apart_from_a_refusal(hub: CannedHub) -> None:
    hub.answer("GET", "/hub", {"title": "The disk of the hub is full", "status": 507}, 507)
    with pytest.raises(HubFault, match="disk of the hub is full"):
        HubClient(hub.url).hub()


@pytest.mark.parametrize(
    "url", ["", "hub", "ftp://hub", "http://", "http://hub:port", "http://hub/?a=b", "http://[x"]
)
def test_what_is_no_address_is_refused_before_anything_is_asked(url: str) -> None:
    with pytest.raises(BadAddress):
        HubClient(url)


def test_devices_are_asked_for_page_by_page(hub: CannedHub) -> None:
    hub.answer("GET", "/devices?limit=2", {"items": [listed("a"), listed("b")], "next": "b"})
    hub.answer("GET", "/devices?limit=2&after=b", {"items": [listed("c")], "next": None})
    found = [each.device for each in HubClient(hub.url).devices(limit=2)]
    assert found == ["a", "b", "c"]


def test_a_file_is_sent_whole_and_its_progress_is_told(hub: CannedHub, tmp_path: Path) -> None:
    file = tmp_path / "artifact"
    file.write_bytes(bytes(1_000_000))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    hub.answer("PUT", f"/blobs/{digest}", status=201)
    told: list[int] = []

    HubClient(hub.url).put_blob(file, digest, told.append)

    ((_, _, body),) = hub.asked
    assert body == file.read_bytes()
    assert sum(told) == len(body)
    assert len(told) > 2


def test_a_blob_that_the_hub_lacks_is_no_failure(hub: CannedHub) -> None:
    assert not HubClient(hub.url).has_blob("0" * 64)
    hub.answer("HEAD", f"/blobs/{'0' * 64}")
    assert HubClient(hub.url).has_blob("0" * 64)


def test_names_are_escaped_so_that_they_cannot_become_another_address(hub: CannedHub) -> None:
    with pytest.raises(Refused):
        HubClient(hub.url).device("../hub?x=1")
    assert hub.asked[0][1] == "/api/v1/devices/..%2Fhub%3Fx%3D1"


def test_a_wish_travels_with_its_policy_and_without_one_if_none_was_given(hub: CannedHub) -> None:
    hub.answer("PUT", "/devices/pump-7/settings/mode", {})
    hub.answer("PUT", "/groups/all/settings/mode", {})
    client = HubClient(hub.url)
    client.set_value("pump-7", "mode", "eco", is_group=False)
    client.set_value("all", "mode", None, is_group=True, policy="operator")
    assert hub.wishes("PUT", "/devices/pump-7/settings/mode") == [{"value": "eco"}]
    assert hub.wishes("PUT", "/groups/all/settings/mode") == [{"value": None, "policy": "operator"}]
