import asyncio
import contextlib
import hashlib
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from agent.fetch import Fetcher, FetchFailed, FetchLimits
from sync.stages import Reason

CONTENT = bytes(range(256)) * 400
DIGEST = hashlib.sha256(CONTENT).hexdigest()
LIMITS = FetchLimits(attempts_max=3, stall_s=5.0, disk_reserve_bytes=0)


class NoLongerWantedError(Exception):
    pass


class Hub:
    """A hub that answers each request as scripted: a function of the bytes asked for."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[bytes] = []
        self.answers: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
        writer.close()


def answer(
    body: bytes, *, status: str = "200 OK", length: int | None = None, more: str = ""
) -> bytes:
    count = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Length: {count}\r\n{more}\r\n".encode() + body


def rest(start: int, *, claimed: int | None = None) -> bytes:
    first = start if claimed is None else claimed
    span = f"Content-Range: bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}\r\n"
    return answer(CONTENT[start:], status="206 Partial Content", more=span)


@asynccontextmanager
async def hub(*answers: bytes) -> AsyncIterator[Hub]:
    scripted = Hub()
    scripted.answers = list(answers)
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    scripted.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield scripted


class Eager(Random):
    """Never waits between attempts."""

    def uniform(self, a: float, b: float) -> float:
        return 0.0


def fetcher(url: str, folder: Path, limits: FetchLimits = LIMITS) -> Fetcher:
    return Fetcher(url, folder, limits, Eager())


async def test_a_file_that_came_whole_has_its_final_name(tmp_path: Path) -> None:
    async with hub(answer(CONTENT)) as there:
        path = await fetcher(there.url, tmp_path).fetch(DIGEST, len(CONTENT))

    assert path.read_bytes() == CONTENT
    assert [each.name for each in tmp_path.iterdir()] == [DIGEST]


async def test_a_download_that_broke_off_goes_on_where_it_stopped(tmp_path: Path) -> None:
    async with hub(answer(CONTENT[:1000], length=len(CONTENT)), rest(1000)) as there:
        path = await fetcher(there.url, tmp_path).fetch(DIGEST, len(CONTENT))

    assert path.read_bytes() == CONTENT
    assert b"Range: bytes=1000-" in there.requests[1]
    assert DIGEST.encode() in there.requests[1]


async def test_a_hub_that_ignores_the_range_is_taken_from_the_start(tmp_path: Path) -> None:
    async with hub(answer(CONTENT[:1000], length=len(CONTENT)), answer(CONTENT)) as there:
        path = await fetcher(there.url, tmp_path).fetch(DIGEST, len(CONTENT))

    assert path.read_bytes() == CONTENT


async def test_bytes_that_were_flipped_are_thrown_away_until_the_budget_is_used_up(
    tmp_path: Path,
) -> None:
    flipped = b"x" + CONTENT[1:]
    async with hub(answer(flipped)) as there:
        with pytest.raises(FetchFailed) as failed:
            await fetcher(there.url, tmp_path).fetch(DIGEST, len(CONTENT))

    assert failed.value.reason is Reason.DIGEST_MISMATCH
    assert len(there.requests) == LIMITS.attempts_max
    assert [each.name for each in tmp_path.iterdir()] == [f"{DIGEST}.spent"]


async def test_more_than_was_announced_is_refused_at_once(tmp_path: Path) -> None:
    async with hub(answer(CONTENT + b"more")) as there:
        with pytest.raises(FetchFailed) as failed:
            await fetcher(there.url, tmp_path).fetch(DIGEST, len(CONTENT))

    assert failed.value.reason is Reason.TOO_LARGE
    assert len(there.requests) == 1


@pytest.mark.parametrize(
    ("status", "reason", "count"),
    [("404 Not Found", Reason.NOT_FOUND, 1), ("500 Broken", Reason.DOWNLOAD_FAILED, 3)],
)
async def test_an_error_of_the_hub_ends_the_download_within_its_budget(
    tmp_path: Path, status: str, reason: Reason, count: int
) -> None:
    async with hub(answer(b"", status=status)) as there:
        with pytest.raises(FetchFailed) as failed:
            await fetcher(there.url, tmp_path).fetch(DIGEST, len(CONTENT))

    assert (failed.value.reason, len(there.requests)) == (reason, count)


async def test_a_hub_out_of_reach_costs_no_budget_and_ends_when_nobody_wants_it_any_more(
    tmp_path: Path,
) -> None:
    tries = 0

    def go_on() -> None:
        nonlocal tries
        tries += 1
        if tries > 4 * LIMITS.attempts_max:
            raise NoLongerWantedError

    with pytest.raises(NoLongerWantedError):
        await fetcher("http://127.0.0.1:1", tmp_path).fetch(DIGEST, len(CONTENT), go_on=go_on)

    assert list(tmp_path.iterdir()) == []


async def test_a_nudge_ends_the_wait_for_a_hub_that_was_out_of_reach(tmp_path: Path) -> None:
    class Patient(Random):
        def uniform(self, a: float, b: float) -> float:
            return 3600.0

    async with hub(answer(CONTENT)) as there:
        waiting = Fetcher("http://127.0.0.1:1", tmp_path, LIMITS, Patient())
        attempts = asyncio.Event()
        task = asyncio.create_task(
            waiting.fetch(DIGEST, len(CONTENT), go_on=attempts.set), name="fetch"
        )
        await attempts.wait()
        waiting._transfer.hub_url = there.url
        while not task.done():
            waiting.nudge()
            await asyncio.sleep(0)

    assert task.result().read_bytes() == CONTENT


async def test_no_room_on_the_disk_is_said_before_a_byte_is_asked_for(tmp_path: Path) -> None:
    limits = FetchLimits(attempts_max=3, stall_s=5.0, disk_reserve_bytes=2**62)
    async with hub(answer(CONTENT)) as there:
        with pytest.raises(FetchFailed) as failed:
            await fetcher(there.url, tmp_path, limits).fetch(DIGEST, len(CONTENT))

    assert failed.value.reason is Reason.NO_SPACE
    assert there.requests == []


async def test_a_hub_that_says_not_now_costs_no_budget(tmp_path: Path) -> None:
    busy = [answer(b"", status="503 Busy")] * (2 * LIMITS.attempts_max)
    async with hub(*busy, answer(CONTENT)) as there:
        path = await fetcher(there.url, tmp_path).fetch(DIGEST, len(CONTENT))

    assert path.read_bytes() == CONTENT


async def test_another_range_than_was_asked_for_is_not_appended(tmp_path: Path) -> None:
    broken = answer(CONTENT[:1000], length=len(CONTENT))
    async with hub(broken, rest(1000, claimed=500), rest(1000)) as there:
        path = await fetcher(there.url, tmp_path).fetch(DIGEST, len(CONTENT))

    assert path.read_bytes() == CONTENT
    assert len(there.requests) == 3


async def test_a_file_that_the_disk_has_changed_is_fetched_again(tmp_path: Path) -> None:
    (tmp_path / DIGEST).write_bytes(b"x" + CONTENT[1:])
    async with hub(answer(CONTENT)) as there:
        path = await fetcher(there.url, tmp_path).fetch(DIGEST, len(CONTENT))

    assert path.read_bytes() == CONTENT
    assert len(there.requests) == 1


async def test_a_file_that_is_here_and_right_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / DIGEST).write_bytes(CONTENT)

    path = await fetcher("http://127.0.0.1:1", tmp_path).fetch(DIGEST, len(CONTENT))

    assert path.read_bytes() == CONTENT


async def test_a_blob_that_is_shorter_than_announced_ends_within_the_budget(
    tmp_path: Path,
) -> None:
    nothing_more = answer(b"", status="416 Range Not Satisfiable")
    async with hub(*[answer(CONTENT[:1000]), nothing_more] * LIMITS.attempts_max) as there:
        with pytest.raises(FetchFailed):
            await fetcher(there.url, tmp_path).fetch(DIGEST, len(CONTENT))


async def test_a_hub_whose_name_is_none_is_out_of_reach(tmp_path: Path) -> None:
    tries = 0

    def go_on() -> None:
        nonlocal tries
        tries += 1
        if tries > 3:
            raise NoLongerWantedError

    with pytest.raises(NoLongerWantedError):
        await fetcher(f"http://{'a' * 70}.test", tmp_path).fetch(DIGEST, 10, go_on=go_on)


@pytest.mark.parametrize(
    "answered",
    [b"", b"HTTP/1.1 200 OK\r\nContent-", b"\x16\x03\x01\x00\n", b"GET / HTTP/1.1\r\n\r\n"],
    ids=["nothing", "half a header", "TLS", "a question"],
)
async def test_what_is_no_answer_costs_no_budget(tmp_path: Path, answered: bytes) -> None:
    async with hub(*[answered] * (2 * LIMITS.attempts_max), answer(CONTENT)) as there:
        path = await fetcher(there.url, tmp_path).fetch(DIGEST, len(CONTENT))

    assert path.read_bytes() == CONTENT


async def test_what_comes_in_chunks_is_not_taken_and_costs_no_budget(tmp_path: Path) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunked += b"%x\r\n%b\r\n0\r\n\r\n" % (len(CONTENT), CONTENT)
    async with hub(chunked, answer(CONTENT)) as there:
        path = await fetcher(there.url, tmp_path).fetch(DIGEST, len(CONTENT))

    assert path.read_bytes() == CONTENT


class Slow:
    """A hub that sends this much of an answer, then a byte now and then or nothing more."""

    def __init__(self, beginning: bytes, drips: bytes) -> None:
        self.reached = asyncio.Event()
        self.left = asyncio.Event()
        self._beginning = beginning
        self._drips = drips

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        leaving = asyncio.ensure_future(reader.read())
        writer.write(self._beginning)
        for number in range(len(self._drips)):
            writer.write(self._drips[number : number + 1])
            if number == 3:
                self.reached.set()
            if (await asyncio.wait({leaving}, timeout=0.01))[0]:
                break
        self.reached.set()
        await asyncio.wait({leaving})
        self.left.set()
        writer.close()


WHOLE = answer(CONTENT)
HEADER_BYTES = len(WHOLE) - len(CONTENT)
SLOW = {
    "silent": (b"", b""),
    "silent in the middle": (WHOLE[:5000], b""),
    "dripping the header": (b"", WHOLE[:HEADER_BYTES] * 100),
    "dripping the file": (WHOLE[:HEADER_BYTES], CONTENT),
}


@asynccontextmanager
async def slow(name: str) -> AsyncIterator[tuple[Slow, str]]:
    there = Slow(*SLOW[name])
    server = await asyncio.start_server(there.serve, "127.0.0.1", 0)
    async with server:
        yield there, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


PATIENT = FetchLimits(attempts_max=3, stall_s=3600.0, disk_reserve_bytes=0)


@pytest.mark.parametrize("name", SLOW)
async def test_a_download_that_nobody_wants_any_more_is_cut_off_in_the_middle(
    tmp_path: Path, name: str
) -> None:
    wanted = True

    def go_on() -> None:
        if not wanted:
            raise NoLongerWantedError

    async with slow(name) as (there, url):
        waiting = fetcher(url, tmp_path, PATIENT)
        task = asyncio.create_task(waiting.fetch(DIGEST, len(CONTENT), go_on=go_on))
        await there.reached.wait()
        waiting.nudge()
        wanted = False
        waiting.nudge()
        with pytest.raises(NoLongerWantedError):
            await task
        await there.left.wait()


@pytest.mark.parametrize("name", SLOW)
async def test_a_stopped_download_lets_go_of_its_connection_at_once(
    tmp_path: Path, name: str
) -> None:
    async with slow(name) as (there, url):
        task = asyncio.create_task(fetcher(url, tmp_path, PATIENT).fetch(DIGEST, len(CONTENT)))
        await there.reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await there.left.wait()


@pytest.mark.parametrize("how", ["withdrawn", "stopped"])
async def test_a_hub_that_does_not_even_take_the_connection_is_not_waited_for(
    tmp_path: Path, how: str
) -> None:
    wanted = True

    def go_on() -> None:
        if not wanted:
            raise NoLongerWantedError

    with socket.socket() as full, contextlib.ExitStack() as others:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(2):  # whoever comes after these hears nothing
            other = others.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        waiting = fetcher(url, tmp_path, PATIENT)
        task = asyncio.create_task(waiting.fetch(DIGEST, len(CONTENT), go_on=go_on))
        while not any(thread.name == "download" for thread in threading.enumerate()):
            await asyncio.sleep(0)
        wanted = False
        if how == "withdrawn":
            waiting.nudge()
        else:
            task.cancel()
        with pytest.raises((NoLongerWantedError, asyncio.CancelledError)):
            await task

    assert list(tmp_path.iterdir()) == []


async def test_a_folder_that_cannot_be_written_ends_within_the_budget(tmp_path: Path) -> None:
    (tmp_path / "downloads").write_text("a file where the folder should be")
    with pytest.raises(FetchFailed) as failed:
        await fetcher("http://127.0.0.1:1", tmp_path / "downloads").fetch(DIGEST, len(CONTENT))

    assert failed.value.reason is Reason.DOWNLOAD_FAILED
