"""A hub that sends downloads on to a store, and what the device does when the store is bad."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from random import Random

import pytest

from agent.fetch import FetchFailed, FetchLimits
from agent.line import Line
from agent.transfer import Transfer
from hub.demo.ground import free_port
from sync.stages import Reason
from tests.agent.test_transfer import fetcher
from tests.fakes.bad_link import BLOCK_BYTES, Asked, Deed, Link, linked

CONTENT = Random(9).randbytes(8 * BLOCK_BYTES + 999)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
TAG = '"0f343b0931126a20f133d67c2b018a3b-4"'


@dataclass
class Hub:
    """A hub that has the file as well, and sends to a store whoever does not ask for it there."""

    store_url: str
    sent_on_count: int = 0
    asked_itself: list[str] = field(default_factory=list)
    is_down: bool = False

    def deed(self, asked: Asked) -> None:
        if asked.path.endswith("?via=hub"):
            self.asked_itself.append(asked.headers.get("Range") or "")
            if self.is_down:
                asked.head(HTTPStatus.SERVICE_UNAVAILABLE, 0)
            else:
                asked.send(asked.rest())
            return
        self.sent_on_count += 1
        location = f"{self.store_url}/bucket/{DIGEST}?signature={self.sent_on_count}"
        asked.head(HTTPStatus.TEMPORARY_REDIRECT, 0, Location=location)


@dataclass
class Both:
    """The store behind its link, and the hub before it."""

    store: Link
    hub: Hub
    url: str


Make = Callable[..., Both]


@pytest.fixture
def both() -> Iterator[Make]:
    with ExitStack() as stack:

        def make(deed: Deed, *, has_blocks: bool = True) -> Both:
            store = stack.enter_context(linked(Link(CONTENT, deed)))
            hub = Hub(store.url)
            link = stack.enter_context(linked(Link(CONTENT, hub.deed, has_blocks)))
            return Both(store, hub, link.url)

        yield make


def stored(asked: Asked, *, tag: str = TAG) -> bytes:
    """Answer as a bucket does, and return what is to be sent."""
    wanted, if_range = asked.headers.get("Range"), asked.headers.get("If-Range")
    start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
    if if_range not in (None, tag):
        start = 0
    rest, total = CONTENT[start:], len(CONTENT)
    if start:
        span = f"bytes {start}-{total - 1}/{total}"
        asked.head(HTTPStatus.PARTIAL_CONTENT, len(rest), Content_Range=span, ETag=tag)
    else:
        asked.head(HTTPStatus.OK, len(rest), ETag=tag)
    return rest


def gives(asked: Asked) -> None:
    asked.send(stored(asked))


# What a bad store does.


def answers(status: int) -> Deed:
    return lambda asked: asked.head(HTTPStatus(status), 0)


def sends_too_much(asked: Asked) -> None:
    asked.head(HTTPStatus.OK, len(CONTENT) + 1, ETag=TAG)
    asked.send(CONTENT + b"x")


def sends_another_part(asked: Asked) -> None:
    total = len(CONTENT)
    asked.head(HTTPStatus.PARTIAL_CONTENT, total - 5, Content_Range=f"bytes 5-{total - 1}/{total}")
    asked.send(CONTENT[5:])


def says_nothing(asked: Asked) -> None:
    asked.link.over.wait(30)
    asked.drop()


def breaks_off_at_once(asked: Asked) -> None:
    stored(asked)
    asked.drop()


def sends_on_in_a_circle(asked: Asked) -> None:
    asked.head(HTTPStatus.FOUND, 0, Location=asked.path)


def sends_on_to_a_file(asked: Asked) -> None:
    asked.head(HTTPStatus.FOUND, 0, Location="file:///etc/passwd")


async def test_the_file_comes_from_the_store_and_the_store_hears_nothing_of_the_device(
    tmp_path: Path, both: Make
) -> None:
    heard: list[dict[str, str]] = []

    def notes(asked: Asked) -> None:
        heard.append({name.lower(): value for name, value in asked.headers.items()})
        gives(asked)

    place = both(notes)
    path = await fetcher(place.url, tmp_path).fetch(DIGEST, len(CONTENT))

    assert path.read_bytes() == CONTENT
    assert place.hub.asked_itself == []
    assert place.store.sent_bytes == len(CONTENT)
    assert [set(each) for each in heard] == [
        {"host", "accept-encoding", "connection", "user-agent"}
    ]


@pytest.mark.parametrize("has_blocks", [True, False], ids=["with a list", "without a list"])
@pytest.mark.parametrize(
    "deed",
    [
        *(answers(status) for status in (400, 401, 403, 404, 410, 412, 416, 429, 500, 503, 507)),
        sends_too_much,
        sends_another_part,
        says_nothing,
        breaks_off_at_once,
        sends_on_in_a_circle,
        sends_on_to_a_file,
    ],
)
async def test_what_a_bad_store_does_not_give_comes_from_the_hub_in_the_same_attempt(
    tmp_path: Path, both: Make, deed: Deed, *, has_blocks: bool
) -> None:
    place = both(deed, has_blocks=has_blocks)
    path = await fetcher(place.url, tmp_path, attempts_max=1, stall_s=0.5).fetch(
        DIGEST, len(CONTENT)
    )

    assert path.read_bytes() == CONTENT
    (asked,) = place.hub.asked_itself
    # What came before it was too much was compared with the list, and stays.
    assert bool(asked) is (deed is sends_too_much and has_blocks)
    assert [each.name for each in tmp_path.iterdir()] == [DIGEST]


async def test_a_store_that_cannot_be_reached_is_passed_over(tmp_path: Path, both: Make) -> None:
    place = both(gives)
    place.hub.store_url = f"http://127.0.0.1:{free_port()}"
    path = await fetcher(place.url, tmp_path, attempts_max=1).fetch(DIGEST, len(CONTENT))

    assert path.read_bytes() == CONTENT
    assert place.hub.asked_itself == [""]


async def test_an_address_that_is_too_old_is_asked_for_again(tmp_path: Path, both: Make) -> None:
    def expires(asked: Asked) -> None:
        if asked.path.endswith("signature=1"):
            asked.head(HTTPStatus.FORBIDDEN, 0)
        else:
            gives(asked)

    place = both(expires)
    path = await fetcher(place.url, tmp_path, attempts_max=1).fetch(DIGEST, len(CONTENT))

    assert path.read_bytes() == CONTENT
    assert (place.hub.sent_on_count, place.hub.asked_itself) == (2, [])


@pytest.mark.parametrize("has_blocks", [True, False], ids=["with a list", "without a list"])
async def test_a_download_from_the_store_goes_on_where_it_broke_off_under_the_stores_own_tag(
    tmp_path: Path, both: Make, *, has_blocks: bool
) -> None:
    heard: list[tuple[str | None, str | None]] = []

    def drops(asked: Asked) -> None:
        heard.append((asked.headers.get("Range"), asked.headers.get("If-Range")))
        rest = stored(asked)
        if len(heard) == 1:
            asked.send(rest[: 3 * BLOCK_BYTES])
            asked.drop()
        else:
            asked.send(rest)

    place = both(drops, has_blocks=has_blocks)
    path = await fetcher(place.url, tmp_path).fetch(DIGEST, len(CONTENT))

    assert path.read_bytes() == CONTENT
    assert heard == [(None, None), (f"bytes={3 * BLOCK_BYTES}-", TAG)]
    assert place.store.sent_bytes == len(CONTENT)
    assert place.hub.asked_itself == []


async def test_a_store_that_calls_the_file_differently_now_gives_all_of_it(
    tmp_path: Path, both: Make
) -> None:
    def changes(asked: Asked) -> None:
        count = asked.link.requests_count
        rest = stored(asked, tag=f'"{count}"')
        if count == 1:
            asked.send(rest[:500_000])
            asked.drop()
        else:
            asked.send(rest)

    place = both(changes)
    path = await fetcher(place.url, tmp_path).fetch(DIGEST, len(CONTENT))

    assert path.read_bytes() == CONTENT
    assert place.store.sent_bytes == len(CONTENT) + 500_000


@pytest.mark.parametrize("has_blocks", [True, False], ids=["with a list", "without a list"])
async def test_wrong_bytes_of_the_store_are_not_asked_for_twice(
    tmp_path: Path, both: Make, *, has_blocks: bool
) -> None:
    def flips(asked: Asked) -> None:
        rest = bytearray(stored(asked))
        rest[5 * BLOCK_BYTES + 3] ^= 1
        asked.send(bytes(rest))

    place = both(flips, has_blocks=has_blocks)
    path = await fetcher(place.url, tmp_path).fetch(DIGEST, len(CONTENT))

    assert path.read_bytes() == CONTENT
    assert place.store.requests_count == 1
    # With a list the blocks before the wrong one are kept.
    assert place.hub.asked_itself == ([f"bytes={5 * BLOCK_BYTES}-"] if has_blocks else [""])


def test_when_neither_has_it_both_are_named_and_no_signature_is(tmp_path: Path, both: Make) -> None:
    place = both(answers(500))
    place.hub.is_down = True
    transfer = Transfer(
        place.url, tmp_path, FetchLimits(attempts_max=1, stall_s=5, disk_reserve_bytes=0)
    )
    for _ in range(2):
        with pytest.raises(FetchFailed, match="hub answered 503; before that the store") as caught:
            transfer.attempt(DIGEST, len(CONTENT), Line())

    assert caught.value.reason is Reason.UNREACHABLE
    assert f"{place.store.url} answered 500" in caught.value.detail
    assert "signature" not in caught.value.detail
    # The store is tried again each time: it is the one that is likelier to be back.
    assert place.store.requests_count == 2
