"""Downloads over bad links: finished and right, or ended with the right reason."""

import contextlib
import hashlib
import os
from http import HTTPStatus
from pathlib import Path
from random import Random

import pytest

from agent.fetch import Fetcher, FetchFailed, FetchLimits
from agent.link import SLACK_BYTES, Budget
from agent.media import copy_from_media
from sync.stages import Reason
from tests.fakes.bad_link import BLOCK_BYTES, Asked, Deed, Link, linked

CONTENT = Random(1).randbytes(10 * BLOCK_BYTES + 12_345)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Eager(Random):
    """Never waits between attempts."""

    def uniform(self, a: float, b: float) -> float:
        return 0.0


def fetcher(url: str, folder: Path, random: Random | None = None, **limits: object) -> Fetcher:
    chosen = {"attempts_max": 8, "stall_s": 5.0, "disk_reserve_bytes": 0, **limits}
    return Fetcher(url, folder, FetchLimits(**chosen), random or Eager())  # type: ignore[arg-type]


def whole(asked: Asked) -> None:
    asked.send(asked.rest())


def drops(asked: Asked) -> None:
    rest = asked.rest()
    asked.send(rest[: asked.link.random.randrange(1, 400_000)])
    asked.drop()


def resets(asked: Asked) -> None:
    rest = asked.rest()
    asked.send(rest[: asked.link.random.randrange(200_000, 900_000)])
    asked.reset()


def truncates(asked: Asked) -> None:
    """Says and sends less than there is."""
    start = asked.start
    rest = asked.link.content[start : start + 700_000]
    total = len(asked.link.content)
    if start:
        span = f"bytes {start}-{total - 1}/{total}"
        asked.head(HTTPStatus.PARTIAL_CONTENT, len(rest), Content_Range=span)
    else:
        asked.head(HTTPStatus.OK, len(rest))
    asked.send(rest)


def flips_at_first(asked: Asked) -> None:
    rest = bytearray(asked.rest())
    if asked.link.requests_count == 1:
        rest[5 * BLOCK_BYTES + 77] ^= 4
    asked.send(bytes(rest))


def ignores_the_range(asked: Asked) -> None:
    """Answers 200 to a range, and breaks off at the first two."""
    rest = asked.rest(0)
    if asked.link.requests_count <= 2:
        asked.send(rest[: asked.link.requests_count * 900_000])
        asked.drop()
    else:
        asked.send(rest)


def changes_the_tag(asked: Asked) -> None:
    """Breaks off once; then it is another file under another tag, and at last ours again."""
    if asked.link.requests_count == 1:
        asked.send(asked.rest(0)[:1_000_000])
        asked.drop()
    elif asked.link.requests_count == 2:
        assert asked.headers["If-Range"] == f'"{DIGEST}"'
        asked.head(HTTPStatus.OK, len(CONTENT), ETag='"another"')
        asked.send(bytes(len(CONTENT)))
    else:
        whole(asked)


def is_down_at_first(asked: Asked) -> None:
    if asked.link.requests_count <= 3:
        asked.head(HTTPStatus(500 + asked.link.requests_count), 0)
    else:
        whole(asked)


def stalls_at_first(asked: Asked) -> None:
    rest = asked.rest()
    if asked.link.requests_count > 2:
        asked.send(rest)
        return
    asked.send(rest[:600_000])
    asked.wfile.flush()
    asked.link.over.wait(30)
    asked.drop()


@pytest.mark.parametrize("has_blocks", [True, False], ids=["with a list", "without a list"])
@pytest.mark.parametrize(
    "deed",
    [
        whole,
        drops,
        resets,
        truncates,
        flips_at_first,
        ignores_the_range,
        changes_the_tag,
        is_down_at_first,
        stalls_at_first,
    ],
)
async def test_a_download_over_a_bad_link_finishes_and_is_right(
    tmp_path: Path, deed: Deed, *, has_blocks: bool
) -> None:
    with linked(Link(CONTENT, deed, has_blocks)) as link:
        path = await fetcher(link.url, tmp_path, stall_s=0.3).fetch(DIGEST, len(CONTENT))

    assert path.read_bytes() == CONTENT
    assert [each.name for each in tmp_path.iterdir()] == [DIGEST]


@pytest.mark.parametrize("deed", [drops, truncates])
async def test_when_a_link_only_drops_no_more_than_a_tenth_comes_twice(
    tmp_path: Path, deed: Deed
) -> None:
    with linked(Link(CONTENT, deed)) as link:
        await fetcher(link.url, tmp_path).fetch(DIGEST, len(CONTENT))

    assert link.requests_count > 2
    assert link.sent_bytes <= 1.1 * len(CONTENT)


async def test_flipped_bytes_cost_their_block_and_not_the_file(tmp_path: Path) -> None:
    with linked(Link(CONTENT, flips_at_first)) as link:
        second: list[int] = []

        def deed(asked: Asked) -> None:
            second.append(asked.start)
            flips_at_first(asked)

        link.deed = deed
        await fetcher(link.url, tmp_path).fetch(DIGEST, len(CONTENT))

    assert second == [0, 5 * BLOCK_BYTES]


async def test_a_part_that_the_disk_damaged_is_kept_up_to_the_damage(tmp_path: Path) -> None:
    damaged = bytearray(CONTENT[: 7 * BLOCK_BYTES])
    damaged[3 * BLOCK_BYTES + 5] ^= 1
    (tmp_path / f"{DIGEST}.part").write_bytes(damaged)
    starts: list[int] = []

    def deed(asked: Asked) -> None:
        starts.append(asked.start)
        whole(asked)

    with linked(Link(CONTENT, deed)) as link:
        path = await fetcher(link.url, tmp_path).fetch(DIGEST, len(CONTENT))

    assert starts == [3 * BLOCK_BYTES]
    assert path.read_bytes() == CONTENT


async def test_a_list_that_is_wrong_itself_is_not_believed_for_ever(tmp_path: Path) -> None:
    with linked(Link(CONTENT, whole)) as link:
        digests = bytearray(hashlib.sha256(b"nothing").digest() * 11)
        (tmp_path / f"{DIGEST}.blocks").write_bytes(digests)
        path = await fetcher(link.url, tmp_path).fetch(DIGEST, len(CONTENT))

    assert path.read_bytes() == CONTENT


async def test_a_link_that_loses_too_much_is_given_up_and_says_so(tmp_path: Path) -> None:
    def deed(asked: Asked) -> None:
        asked.send(asked.rest(0)[:2_000_000])
        asked.drop()

    with (
        linked(Link(CONTENT, deed, has_blocks=False)) as link,
        pytest.raises(FetchFailed) as failed,
    ):
        await fetcher(link.url, tmp_path, budget_ratio=3.0).fetch(DIGEST, len(CONTENT))

    assert failed.value.final
    assert failed.value.reason is Reason.DOWNLOAD_FAILED
    assert "given up" in failed.value.detail
    assert link.sent_bytes < 3 * len(CONTENT) + SLACK_BYTES + 2_100_000


def trickles(asked: Asked) -> None:
    """Sends a byte now and then, so that the line is never silent."""
    for byte in asked.rest():
        asked.send(bytes([byte]))
        asked.wfile.flush()
        if asked.link.over.wait(0.01):
            return


async def test_a_link_that_trickles_is_given_up_and_says_so(tmp_path: Path) -> None:
    with linked(Link(CONTENT, trickles)) as link, pytest.raises(FetchFailed) as failed:
        slow = fetcher(link.url, tmp_path, attempts_max=3, least_bytes_per_s=1_000_000, slow_s=0.1)
        await slow.fetch(DIGEST, len(CONTENT))

    assert failed.value.reason is Reason.SLOW
    assert link.requests_count == 3


def trickles_its_head(asked: Asked) -> None:
    for byte in b"HTTP/1.1 200 OK\r\n" + b"X-More: of it\r\n" * 10_000:
        asked.wfile.write(bytes([byte]))
        asked.wfile.flush()
        if asked.link.over.wait(0.01):
            return


async def test_an_answer_whose_head_trickles_is_cut_off(tmp_path: Path) -> None:
    with linked(Link(CONTENT, whole)) as hub, linked(Link(CONTENT, trickles_its_head)) as neighbour:
        near = fetcher(hub.url, tmp_path, neighbours=(neighbour.url,), stall_s=0.5)
        path = await near.fetch(DIGEST, len(CONTENT))

    assert path.read_bytes() == CONTENT
    assert neighbour.requests_count == 1


async def test_a_neighbour_that_trickles_is_left_for_the_hub(tmp_path: Path) -> None:
    with linked(Link(CONTENT, whole)) as hub, linked(Link(CONTENT, trickles)) as neighbour:
        near = fetcher(
            hub.url,
            tmp_path,
            neighbours=(neighbour.url,),
            least_bytes_per_s=10_000,
            slow_s=0.1,
        )
        path = await near.fetch(DIGEST, len(CONTENT))

    assert path.read_bytes() == CONTENT
    assert neighbour.requests_count == 1


async def test_the_budget_counts_what_came_before_a_restart(tmp_path: Path) -> None:
    (tmp_path / f"{DIGEST}.spent").write_text(str(5 * len(CONTENT)))
    with linked(Link(CONTENT, whole)) as link, pytest.raises(FetchFailed, match="given up"):
        await fetcher(link.url, tmp_path, budget_ratio=3.0).fetch(DIGEST, len(CONTENT))

    assert link.requests_count == 0


async def test_a_neighbour_that_has_the_file_saves_the_hub_the_asking(tmp_path: Path) -> None:
    with linked(Link(CONTENT, whole)) as hub, linked(Link(CONTENT, whole)) as neighbour:
        near = fetcher(hub.url, tmp_path, neighbours=(neighbour.url,))
        await near.fetch(DIGEST, len(CONTENT))

    assert (neighbour.requests_count, hub.requests_count) == (1, 0)


def lies(asked: Asked) -> None:
    asked.head(HTTPStatus.OK, len(CONTENT))
    asked.send(bytes(len(CONTENT)))


def has_none(asked: Asked) -> None:
    asked.head(HTTPStatus.NOT_FOUND, 0)


def sends_more(asked: Asked) -> None:
    asked.head(HTTPStatus.OK, 2 * len(CONTENT))
    asked.send(CONTENT * 2)


def never_ends_its_chunks(asked: Asked) -> None:
    asked.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n")
    asked.wfile.write(CONTENT[:4] + b"\r\n0\r\n")
    while not asked.link.over.is_set():
        asked.wfile.write(b"X: " + b"y" * 1000 + b"\r\n")


def knows_no_such_range(asked: Asked) -> None:
    asked.head(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, 0)


@pytest.mark.parametrize("has_blocks", [True, False])
@pytest.mark.parametrize(
    "deed",
    [lies, has_none, sends_more, drops, never_ends_its_chunks, knows_no_such_range],
)
async def test_a_neighbour_that_fails_is_left_for_the_hub(
    tmp_path: Path, deed: Deed, *, has_blocks: bool
) -> None:
    with linked(Link(CONTENT, whole, has_blocks)) as hub, linked(Link(CONTENT, deed)) as neighbour:
        near = fetcher(hub.url, tmp_path, neighbours=(neighbour.url, "http://127.0.0.1:1"))
        path = await near.fetch(DIGEST, len(CONTENT))

    assert path.read_bytes() == CONTENT
    assert (neighbour.requests_count, hub.requests_count) == (1, 1)


def starts_into(found: list[int], sends: Deed = whole) -> Deed:
    """Return a deed that also notes from where on it was asked."""

    def deed(asked: Asked) -> None:
        found.append(asked.start)
        sends(asked)

    return deed


async def test_a_neighbour_that_knows_no_such_range_costs_nothing_of_what_is_here(
    tmp_path: Path,
) -> None:
    here = 9 * BLOCK_BYTES
    (tmp_path / f"{DIGEST}.part").write_bytes(CONTENT[:here])
    starts: list[int] = []
    with (
        linked(Link(CONTENT, starts_into(starts))) as hub,
        linked(Link(CONTENT, knows_no_such_range)) as near,
    ):
        await fetcher(hub.url, tmp_path, neighbours=(near.url,)).fetch(DIGEST, len(CONTENT))
    assert starts == [here]


@pytest.mark.parametrize("name", [DIGEST, f"{DIGEST}.part"])
async def test_a_whole_file_with_one_wrong_block_is_fetched_from_that_block_on(
    tmp_path: Path, name: str
) -> None:
    damaged = bytearray(CONTENT)
    damaged[9 * BLOCK_BYTES + 5] ^= 1
    (tmp_path / name).write_bytes(damaged)
    starts: list[int] = []
    with linked(Link(CONTENT, starts_into(starts))) as hub:
        path = await fetcher(hub.url, tmp_path).fetch(DIGEST, len(CONTENT))
    assert path.read_bytes() == CONTENT
    assert starts == [9 * BLOCK_BYTES]


def test_what_came_is_counted_though_the_attempt_is_killed(tmp_path: Path) -> None:
    killed = Budget(tmp_path / "d.spent", 10_000_000, 1.5)
    for _ in range(100):
        killed.came(10_000)
    assert Budget(tmp_path / "d.spent", 10_000_000, 1.5).spent_bytes > 700_000


async def test_a_neighbour_that_sends_us_on_is_not_followed(tmp_path: Path) -> None:
    def sends_on(asked: Asked) -> None:
        asked.head(HTTPStatus.FOUND, 0, Location=elsewhere.url)

    with (
        linked(Link(CONTENT, whole)) as hub,
        linked(Link(CONTENT, whole)) as elsewhere,
        linked(Link(CONTENT, sends_on)) as near,
    ):
        await fetcher(hub.url, tmp_path, neighbours=(near.url,)).fetch(DIGEST, len(CONTENT))
    assert (hub.requests_count, elsewhere.requests_count) == (1, 0)


async def test_a_link_that_brings_something_each_time_is_asked_soon_again(tmp_path: Path) -> None:
    waits: list[float] = []

    class Noted(Random):
        def uniform(self, a: float, b: float) -> float:
            waits.append(b)
            return 0.0

    def drops_often(asked: Asked) -> None:
        asked.send(asked.rest()[:200_000])
        asked.drop()

    with linked(Link(CONTENT, drops_often)) as link:
        near = fetcher(link.url, tmp_path, Noted())
        await near.fetch(DIGEST, len(CONTENT))
    assert len(waits) > 10
    assert max(waits) == min(waits)


async def test_neighbours_that_lie_spend_nothing_of_what_the_hub_may_cost(tmp_path: Path) -> None:
    with contextlib.ExitStack() as links:
        hub = links.enter_context(linked(Link(CONTENT, whole, has_blocks=False)))
        liars = [links.enter_context(linked(Link(CONTENT, lies))) for _ in range(5)]
        near = fetcher(hub.url, tmp_path, neighbours=tuple(each.url for each in liars))
        path = await near.fetch(DIGEST, len(CONTENT))
    assert path.read_bytes() == CONTENT
    assert hub.requests_count == 1
    assert [each.name for each in tmp_path.iterdir()] == [DIGEST]


async def test_neighbours_that_lie_about_one_block_do_not_discredit_the_list(
    tmp_path: Path,
) -> None:
    def flips(asked: Asked) -> None:
        rest = bytearray(asked.rest())
        rest[10] ^= 1
        asked.send(bytes(rest))

    starts: list[int] = []
    with (
        linked(Link(CONTENT, starts_into(starts, flips_at_first))) as hub,
        linked(Link(CONTENT, flips)) as first,
        linked(Link(CONTENT, flips)) as second,
    ):
        near = fetcher(hub.url, tmp_path, neighbours=(first.url, second.url))
        await near.fetch(DIGEST, len(CONTENT))
    assert len(starts) == 2
    assert starts[1] > 0, "it went on where the block was wrong"


async def test_a_pipe_on_a_stick_holds_nobody(tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    os.mkfifo(stick / DIGEST)
    with linked(Link(CONTENT, whole)) as hub:
        near = fetcher(hub.url, tmp_path / "d", media_dirs=(stick,))
        assert (await near.fetch(DIGEST, len(CONTENT))).read_bytes() == CONTENT


def test_a_wrong_file_on_a_stick_is_read_once_and_never_written(tmp_path: Path) -> None:
    stick, part = tmp_path / "stick", tmp_path / "d.part"
    stick.mkdir()
    (stick / DIGEST).write_bytes(CONTENT[:-1] + b"?")
    wrong: set[tuple[str, ...]] = set()
    copy_from_media([stick], DIGEST, len(CONTENT), part, wrong)
    assert len(wrong) == 1
    (stick / DIGEST).chmod(0)  # whoever reads it again fails, root apart
    copy_from_media([stick], DIGEST, len(CONTENT), part, wrong)
    assert not list(tmp_path.glob("d.*"))

    (stick / DIGEST).unlink()
    (stick / DIGEST).write_bytes(CONTENT)
    copy_from_media([stick], DIGEST, len(CONTENT), part, wrong)
    assert part.read_bytes() == CONTENT


async def test_a_stick_that_has_the_file_saves_the_link(tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    (stick / DIGEST).write_bytes(CONTENT)
    offline = fetcher("http://127.0.0.1:1", tmp_path / "d", media_dirs=(tmp_path / "none", stick))

    path = await offline.fetch(DIGEST, len(CONTENT))

    assert path.read_bytes() == CONTENT
    assert (stick / DIGEST).exists()


async def test_a_stick_with_another_file_of_that_name_is_passed_over(tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    (stick / DIGEST).write_bytes(CONTENT[:-1] + b"?")
    with linked(Link(CONTENT, whole)) as link:
        path = await fetcher(link.url, tmp_path / "d", media_dirs=(stick,)).fetch(
            DIGEST, len(CONTENT)
        )

    assert path.read_bytes() == CONTENT
    assert [each.name for each in (tmp_path / "d").iterdir()] == [DIGEST]


async def test_a_store_that_the_hub_sends_on_to_is_followed_and_resumed(tmp_path: Path) -> None:
    tags: list[str | None] = []

    def stores(asked: Asked) -> None:
        tags.append(asked.headers.get("If-Range"))
        drops(asked) if asked.link.requests_count == 1 else whole(asked)

    with linked(Link(CONTENT, stores)) as store:

        def sends_on(asked: Asked) -> None:
            asked.head(HTTPStatus.FOUND, 0, Location=f"{store.url}/bucket/{DIGEST}?signature=1")

        with linked(Link(CONTENT, sends_on)) as hub:
            path = await fetcher(hub.url, tmp_path).fetch(DIGEST, len(CONTENT))

    assert path.read_bytes() == CONTENT
    assert tags == [None, None]
    assert store.sent_bytes == len(CONTENT)


@pytest.mark.parametrize("location", ["", "file:///etc/passwd", "ftp://127.0.0.1/x", "http://["])
async def test_a_place_that_is_none_is_not_followed(tmp_path: Path, location: str) -> None:
    def sends_on(asked: Asked) -> None:
        asked.head(HTTPStatus.FOUND, 0, Location=location)

    with linked(Link(CONTENT, sends_on)) as hub, pytest.raises(FetchFailed, match="no place"):
        await fetcher(hub.url, tmp_path).fetch(DIGEST, len(CONTENT))


async def test_a_circle_of_places_ends(tmp_path: Path) -> None:
    def sends_on(asked: Asked) -> None:
        asked.head(HTTPStatus.FOUND, 0, Location=asked.path)

    with (
        linked(Link(CONTENT, sends_on)) as hub,
        pytest.raises(FetchFailed, match="sent on more than"),
    ):
        await fetcher(hub.url, tmp_path, attempts_max=1).fetch(DIGEST, len(CONTENT))

    assert hub.requests_count == 4


async def test_a_long_file_waits_for_a_link_that_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    links = iter(["wwan0", "wwan0", None])
    monkeypatch.setattr("agent.transfer.metered_link", lambda _: next(links))
    with linked(Link(CONTENT, whole)) as hub:
        metered = fetcher(hub.url, tmp_path, metered_bytes_max=1000, attempts_max=1)
        path = await metered.fetch(DIGEST, len(CONTENT))

    assert path.read_bytes() == CONTENT
    assert hub.requests_count == 1
