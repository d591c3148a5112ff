"""A release that comes as a pack: when it does, when it does not, and what is said about it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from random import Random

import pytest

from firmware_hooks.tree import Tree, list_tree
from hub.packing import make_pack
from sync.manifest import Artifact, Health, Manifest
from tests.agent.agents import ALL_STAGES, Device
from tests.fakes.blobs import Blobs
from tests.fakes.links import eventually
from tests.fakes.packs import lay
from tests.fakes.small_hub import SmallHub
from tests.firmware_hooks.trees import file, tar

NOISE = Random(1).randbytes(50_000)


class Made:
    """A release that names the list of its tree, and that tree."""

    def __init__(self, folder: Path, version: str, files: Mapping[str, bytes]) -> None:
        files = {"VERSION": version.encode() + b"\n", **files}
        self.root = lay(folder / version, files)
        self.tree = tar(*(file(name, content) for name, content in files.items()))
        self.list = Tree(list_tree(self.root))
        digest = hashlib.sha256(self.tree).hexdigest()
        self.manifest = Manifest(
            component="lamp",
            version=version,
            parameters={
                "tree_sha256": self.list.sha256.hex(),
                "tree_length_bytes": len(self.list.text),
            },
            artifacts=(Artifact(name="tree.tar", sha256=digest, length_bytes=len(self.tree)),),
            health=Health(command=("grep", "-qx", version, "VERSION"), deadline_s=0.3),
        )

    @property
    def address(self) -> str:
        return self.manifest.digest().hex()


@pytest.fixture
def one(tmp_path: Path) -> Made:
    return Made(tmp_path, "1.0.0", {"noise": NOISE})


@pytest.fixture
def two(tmp_path: Path) -> Made:
    return Made(tmp_path, "2.0.0", {"noise": NOISE, "more": b"new"})


def pack_of(base: Made, target: Made) -> bytes:
    path = base.root.parent / "pack"
    make_pack(base.list, base.root, target.list, target.root, path, level=3)
    return path.read_bytes()


def offer(blobs: Blobs, base: Made, target: Made, pack: bytes) -> str:
    digest = blobs.put(pack)
    ready = json.dumps({"state": "ready", "sha256": digest, "length_bytes": len(pack)}).encode()
    blobs.packs[f"{base.address}/{target.address}"] = [(200, ready)]
    return digest


async def both(device: Device, hub: SmallHub, blobs: Blobs, one: Made, two: Made) -> str:
    """Install both; return what the second one's acknowledgement says."""
    for made in (one, two):
        blobs.publish(made.manifest, made.tree)
    async with device.up(pack_wait_s=1.5):
        await hub.deployed("done", one.manifest)
        await hub.deployed("dtwo", two.manifest)
        # Cleared away after the end was acknowledged; an agent that stops leaves it for later.
        await eventually(lambda: not any((device.folder / "state" / "downloads").iterdir()))
    assert hub.stages("dtwo") == ALL_STAGES
    assert device.runs() == "2.0.0"
    assert list_tree(device.folder / "install/lamp/current") == two.list.text
    return hub.acks("dtwo")["dtwo/V"].detail


def asked(blobs: Blobs, digest: str) -> int:
    return sum(digest == each for each, _ in blobs.requests)


async def test_a_release_comes_as_a_pack_from_the_one_that_runs(
    device: Device, hub: SmallHub, blobs: Blobs, one: Made, two: Made
) -> None:
    pack = pack_of(one, two)
    digest = offer(blobs, one, two, pack)

    said = await both(device, hub, blobs, one, two)

    assert said == (f"pack from 1.0.0: {len(pack)} of {len(two.tree)} bytes, 1 files kept, 2 made")
    assert asked(blobs, digest) == 1
    assert asked(blobs, two.manifest.artifacts[0].sha256) == 0
    assert hub.acks("dtwo")["dtwo/K"].detail == ""


async def test_a_pack_leads_on_from_a_release_that_came_as_a_pack(
    device: Device, hub: SmallHub, blobs: Blobs, one: Made, two: Made, tmp_path: Path
) -> None:
    offer(blobs, one, two, pack_of(one, two))
    await both(device, hub, blobs, one, two)
    three = Made(tmp_path, "3.0.0", {"noise": NOISE, "more": b"newer"})
    blobs.publish(three.manifest, three.tree)
    offer(blobs, two, three, pack_of(two, three))

    async with device.up():
        await hub.deployed("dthree", three.manifest)

    assert hub.acks("dthree")["dthree/V"].detail.startswith("pack from 2.0.0")
    assert device.runs() == "3.0.0"


async def test_a_device_waits_for_a_pack_that_is_being_made(
    device: Device, hub: SmallHub, blobs: Blobs, one: Made, two: Made
) -> None:
    offer(blobs, one, two, pack_of(one, two))
    blobs.packs[f"{one.address}/{two.address}"].insert(0, (202, b"{}"))

    assert (await both(device, hub, blobs, one, two)).startswith("pack from 1.0.0")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((404, b'{"detail": "there is no pack from a to b: nobody made one"}'), "nobody made one"),
        ((404, b"not json"), "the hub answered 404 when asked for a pack"),
        ((500, b"{}"), "the hub answered 500 when asked for a pack"),
        ((202, b"{}"), "the pack was not made within 1.5 s"),
        ((200, b"{}"), "what the hub says about the pack cannot be read"),
        ((200, b'{"sha256": "../../x", "length_bytes": 5}'), "cannot be read"),
        ((200, b'{"sha256": "%b", "length_bytes": 1e999}' % (b"a" * 64)), "cannot be read"),
        ((200, b'{"sha256": "%b", "length_bytes": true}' % (b"a" * 64)), "cannot be read"),
        ((200, b'{"sha256": 5, "length_bytes": 5}'), "cannot be read"),
        ((200, b'{"sha256": "' + b"0" * 64 + b'", "length_bytes": 5}'), "the hub answered 404"),
        ((200, b'{"sha256": "' + b"0" * 64 + b'", "length_bytes": 99999999}'), "no smaller"),
    ],
)
async def test_without_a_pack_the_whole_release_comes_and_it_says_why(
    device: Device,
    hub: SmallHub,
    blobs: Blobs,
    one: Made,
    two: Made,
    answer: tuple[int, bytes],
    why: str,
) -> None:
    blobs.packs[f"{one.address}/{two.address}"] = [answer]

    said = await both(device, hub, blobs, one, two)

    assert said.startswith("whole: ")
    assert why in said


async def test_a_pack_that_makes_something_else_is_dropped_for_the_whole_release(
    device: Device, hub: SmallHub, blobs: Blobs, one: Made, two: Made, tmp_path: Path
) -> None:
    other = Made(tmp_path, "9.0.0", {"noise": NOISE, "evil": b"unsigned"})
    offer(blobs, one, two, pack_of(one, other))

    said = await both(device, hub, blobs, one, two)

    assert said == (
        "whole: the pack could not be applied: "
        "the pack leads to another tree than the release names"
    )


async def test_a_tree_that_was_tampered_with_is_replaced_by_the_whole_release(
    device: Device, hub: SmallHub, blobs: Blobs, one: Made, two: Made
) -> None:
    offer(blobs, one, two, pack_of(one, two))
    for made in (one, two):
        blobs.publish(made.manifest, made.tree)
    async with device.up():
        await hub.deployed("done", one.manifest)
        noise = device.folder / "install/lamp/current/noise"
        noise.write_bytes(bytes(len(NOISE)))
        await hub.deployed("dtwo", two.manifest)

    assert "'noise' is not what was installed" in hub.acks("dtwo")["dtwo/V"].detail
    assert list_tree(device.folder / "install/lamp/current") == two.list.text


async def test_a_first_release_comes_whole(
    device: Device, hub: SmallHub, blobs: Blobs, one: Made
) -> None:
    blobs.publish(one.manifest, one.tree)
    async with device.up():
        await hub.deployed("done", one.manifest)

    assert hub.acks("done")["done/V"].detail == "whole: no proven release runs to start from"
    assert sorted(each.name for each in (device.folder / "install/lamp/trees").iterdir()) == [
        one.address
    ]


async def test_going_back_to_a_release_that_still_lies_here_fetches_nothing_of_it(
    device: Device, hub: SmallHub, blobs: Blobs, one: Made, two: Made
) -> None:
    offer(blobs, one, two, pack_of(one, two))
    await both(device, hub, blobs, one, two)
    blobs.requests.clear()

    async with device.up():
        await hub.deployed("dback", one.manifest)

    assert hub.acks("dback")["dback/V"].detail == "it was here already"
    assert [digest for digest, _ in blobs.requests] == [one.address]
    assert device.runs() == "1.0.0"
