"""Real hub, agent, broker and bucket: a release whose bytes come out of the bucket."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Iterator
from http import HTTPStatus
from pathlib import Path

import obstore
import pytest

from hub.client import HubClient
from hub.demo.ground import free_port
from hub.errors import ExitCode
from tests.fakes.bad_bucket import Asked, BadBucket, linked_bucket
from tests.system.bucket_server import HUB, BucketServer
from tests.system.programs import AgentProgram, HubProgram, lamp, until

pytestmark = [pytest.mark.broker, pytest.mark.timeout(300)]

SIZE_BYTES = 12_000_000
"""Goes to the bucket in two parts."""


@pytest.fixture
def place(bucket_server: BucketServer) -> str:
    return bucket_server.new_place()


@pytest.fixture
def bucket(bucket_server: BucketServer) -> Iterator[BadBucket]:
    with linked_bucket(bucket_server.url) as link:
        yield link


class Site:
    """A hub with a bucket, and one lamp."""

    def __init__(self, folder: Path, bucket: BadBucket, place: str, **settings: str) -> None:
        secret = folder / "secret"
        secret.write_text(f"{HUB.secret}\n")
        chosen = {
            "artifact_store_url": f"s3://{place}",
            "artifact_store_endpoint": bucket.url,
            "artifact_store_key_id": HUB.id,
            "artifact_store_secret_file": str(secret),
            "artifact_store_keep_bytes": "0",
            "artifact_store_stall_s": "3",
            **settings,
        }
        self.hub = HubProgram(folder, None, **chosen)
        self.agent = AgentProgram(folder, "lamp-1", self.hub.url, self.hub.broker_port)

    def counter(self, name: str) -> int:
        return int(self.hub.ask("GET", "/hub")["counters"][name])

    async def publish(self, version: str) -> tuple[str, bytes]:
        """Publish a release and wait until all of it is in the bucket."""
        manifest, tree = lamp(version, size_bytes=SIZE_BYTES)
        release = self.hub.publish_release(manifest, tree)
        await until(lambda: not self.counter("bucket_waiting_count"), self.hub.tail)
        return release, tree

    def deploy(self, release: str) -> str:
        asked = {"release": release, "group": "all"}
        return str(self.hub.ask("POST", "/deployments", asked)["deployment"])

    async def wait_acknowledged(self, deployment: str) -> None:
        def is_acknowledged() -> bool:
            rows = self.hub.ask("GET", f"/deployments/{deployment}")["devices"]
            return [row["verdict"] for row in rows] == ["acknowledged"]

        await until(is_acknowledged, lambda: self.agent.tail() + self.hub.tail())

    async def start(self) -> None:
        self.hub.start()
        await self.hub.wait_ready()
        self.agent.start()
        await until(lambda: bool(self.hub.ask("GET", "/devices")["items"]), self.agent.tail)


@pytest.fixture
async def sites() -> AsyncIterator[list[Site]]:
    """Take sites, which are stopped at the end."""
    made: list[Site] = []
    yield made
    for site in made:
        site.agent.kill()
        site.hub.kill()


async def test_a_device_installs_what_it_fetched_from_the_bucket(
    tmp_path: Path, bucket: BadBucket, place: str, sites: list[Site]
) -> None:
    site = Site(tmp_path, bucket, place)
    sites.append(site)
    await site.start()
    release, tree = await site.publish("1.0.0")

    await site.wait_acknowledged(site.deploy(release))

    assert site.agent.runs() == "1.0.0"
    assert bucket.device_bytes == len(tree)
    assert {each.path.rpartition("/")[0] for each in bucket.of_devices()} == {f"/{place}/sha256"}
    assert site.counter("bucket_relay_bytes") == 0
    for log in (site.hub.tail(), site.agent.tail()):
        assert HUB.secret not in log
        assert "X-Amz-Signature" not in log


async def test_a_device_that_cannot_reach_the_bucket_has_it_from_the_hub(
    tmp_path: Path, bucket: BadBucket, place: str, sites: list[Site]
) -> None:
    elsewhere = f"http://127.0.0.1:{free_port()}"
    site = Site(tmp_path, bucket, place, artifact_store_device_endpoint=elsewhere)
    sites.append(site)
    await site.start()
    release, tree = await site.publish("1.0.0")

    await site.wait_acknowledged(site.deploy(release))

    assert site.agent.runs() == "1.0.0"
    assert bucket.of_devices() == []
    assert site.counter("bucket_link_count") > 0
    assert site.counter("bucket_relay_bytes") == len(tree)
    # Commands may run where the bucket cannot be reached, and ask the hub for the bytes as well.
    assert HubClient(site.hub.url).get_blob(hashlib.sha256(tree).hexdigest()) == tree


async def test_while_the_bucket_is_down_the_hub_gives_its_copy_and_takes_new_releases(
    tmp_path: Path, bucket: BadBucket, place: str, sites: list[Site]
) -> None:
    site = Site(tmp_path, bucket, place, artifact_store_keep_bytes=str(10**9))
    sites.append(site)
    await site.start()
    release, _ = await site.publish("1.0.0")
    bucket.refuses(503)

    await site.wait_acknowledged(site.deploy(release))
    assert site.agent.runs() == "1.0.0"

    newer = site.hub.publish_release(*lamp("1.1.0", size_bytes=SIZE_BYTES))
    await site.wait_acknowledged(site.deploy(newer))
    assert site.agent.runs() == "1.1.0"
    assert site.counter("bucket_waiting_count") > 0
    bucket.heals()
    await until(lambda: not site.counter("bucket_waiting_count"), site.hub.tail)


async def test_what_only_a_bucket_has_that_is_down_is_waited_for(
    tmp_path: Path, bucket: BadBucket, place: str, sites: list[Site]
) -> None:
    site = Site(tmp_path, bucket, place)
    sites.append(site)
    await site.start()
    release, tree = await site.publish("1.0.0")
    bucket.refuses(503)
    deployment = site.deploy(release)
    # The device was sent there, then asked the hub, which asked in vain.
    await until(lambda: bool(bucket.of_devices()), site.agent.tail)
    await until(lambda: site.counter("bucket_fault_count") > 0, site.hub.tail)
    assert site.agent.runs() is None

    bucket.heals()
    await site.wait_acknowledged(deployment)

    assert site.agent.runs() == "1.0.0"
    assert bucket.device_bytes + site.counter("bucket_relay_bytes") >= len(tree)


async def test_a_hub_killed_while_it_uploads_shows_nothing_half_and_finishes_later(
    tmp_path: Path, bucket: BadBucket, bucket_server: BucketServer, place: str, sites: list[Site]
) -> None:
    site = Site(tmp_path, bucket, place)
    sites.append(site)
    await site.start()
    reached = threading.Event()

    def holds_back(asked: Asked) -> tuple[HTTPStatus, str] | None:
        if "partNumber=2" not in asked.query:
            return None
        reached.set()
        bucket.stalled.wait(60)
        return HTTPStatus.GATEWAY_TIMEOUT, "Stalled"

    bucket.deed = holds_back
    manifest, tree = lamp("1.0.0", size_bytes=SIZE_BYTES)
    release = site.hub.publish_release(manifest, tree)
    assert await asyncio.to_thread(reached.wait, 60)
    site.hub.kill()

    def lengths() -> list[int]:
        pages = obstore.list(bucket_server.store(place))
        return [each["size"] for page in pages for each in page]

    assert len(tree) not in lengths()
    bucket.stalled.set()
    bucket.heals()
    site.hub.start()
    await site.hub.wait_ready()
    await until(lambda: not site.counter("bucket_waiting_count"), site.hub.tail)
    assert len(tree) in lengths()
    await site.wait_acknowledged(site.deploy(release))
    assert bucket.device_bytes == len(tree)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"artifact_store_key_id": "NOBODY"}, "403 InvalidAccessKeyId"),
        ({"artifact_store_url": "s3://not-there"}, "404 NoSuchBucket"),
    ],
)
async def test_a_hub_whose_bucket_is_not_as_the_settings_say_ends_in_one_line(
    tmp_path: Path,
    bucket: BadBucket,
    place: str,
    sites: list[Site],
    change: dict[str, str],
    words: str,
) -> None:
    site = Site(tmp_path, bucket, place, **change)
    sites.append(site)
    site.hub.start()
    await until(lambda: not site.hub.is_running())

    assert site.hub.end() == ExitCode.SETTINGS
    (line,) = site.hub.tail().strip().splitlines()
    assert words in line
    assert "artifact_store_url" in line
    assert HUB.secret not in line


@pytest.mark.parametrize("has_bucket", [True, False])
async def test_only_a_hub_with_a_bucket_loads_what_speaks_to_one(
    tmp_path: Path, bucket: BadBucket, place: str, sites: list[Site], *, has_bucket: bool
) -> None:
    site = Site(tmp_path, bucket, place)
    if not has_bucket:
        site.hub = HubProgram(tmp_path, None)
    sites.append(site)
    site.hub.start()
    await site.hub.wait_ready()

    maps = Path(f"/proc/{site.hub.pid}/maps").read_text()
    assert ("obstore" in maps) == has_bucket
    assert HUB.secret not in Path(f"/proc/{site.hub.pid}/cmdline").read_text()


async def test_a_bucket_that_changes_bytes_delays_a_release_and_the_hub_says_so_in_a_line(
    tmp_path: Path, bucket: BadBucket, place: str, sites: list[Site]
) -> None:
    site = Site(tmp_path, bucket, place, artifact_link_s="0")
    sites.append(site)
    await site.start()
    release, _ = await site.publish("1.0.0")
    bucket.flips = True
    deployment = site.deploy(release)
    await until(lambda: "an answer ended early" in site.hub.tail(), site.hub.tail)
    bucket.heals()
    await site.wait_acknowledged(deployment)

    assert site.agent.runs() == "1.0.0"
    assert site.counter("bucket_wrong_count") > 0
    assert "Traceback" not in site.hub.tail()
