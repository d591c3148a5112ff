import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from firmware_hooks.tree import list_tree
from firmware_hooks.unpack import unpack_tree
from hub.artifacts import Artifacts
from hub.pack_worker import work
from hub.packing import CannotPack
from hub.packs import NoPack, Packs, Tree
from hub.release_build import build_release
from sync.manifest import manifest_from
from tests.fakes.fleet import runs
from tests.fakes.packs import Files, lay
from tests.hub.core import Core
from tests.hub.web import check_problem, device_of

NOISE = Random(3).randbytes(40_000)
ONE: Files = {"bin/run": (b"#!/bin/sh\n", 0o755), "blob": NOISE, "text": b"one\n" * 500}
TWO: Files = {**ONE, "text": b"one\n" * 499 + b"two\n"}
THREE: Files = {**ONE, "text": b"three\n" * 400}
MIXED: Files = {**ONE, "text": b"".join(b"%d\n" % (n * n) for n in range(4000))}
OTHER: Files = {"blob": Random(4).randbytes(40_000)}

DESCRIPTION = """
component = "lamp"
version = "{}"
unmeasured = "a tree of the tests"
[health]
command = ["true"]
"""


class Built:
    """A release as `fieldfare release build` makes it, and its tree."""

    def __init__(self, folder: Path, version: str, files: Files) -> None:
        self.root = lay(folder / version, files)
        description = folder / f"{version}.toml"
        description.write_text(DESCRIPTION.format(version))
        with build_release([self.root], description) as built:
            self.manifest = built.manifest
            self.artifact = built.artifact.read_bytes()
        self.digest = self.manifest.digest().hex()
        self.list = list_tree(self.root)

    @property
    def tree(self) -> Tree:
        (artifact,) = self.manifest.artifacts
        digest = hashlib.sha256(self.list).digest()
        return Tree(self.digest, artifact.sha256, artifact.length_bytes, digest)

    def runs_on(self, core: Core, *devices: str) -> None:
        for device in devices:
            made = device_of(core, device)
            version = self.manifest.version
            made.write(runs("lamp", version, bytes.fromhex(self.digest), b"boot-1"), 0.0)
            core.connect(made)


async def published(client: httpx.AsyncClient, *all_built: Built) -> None:
    for built in all_built:
        digest = built.manifest.artifacts[0].sha256
        await client.put(f"/blobs/{digest}", content=built.artifact)
        answer = await client.post("/releases", json=built.manifest.model_dump(mode="json"))
        assert answer.status_code == 201, answer.text


@contextlib.asynccontextmanager
async def making(packs: Packs) -> AsyncIterator[None]:
    task = asyncio.create_task(packs.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def offered(packs: Packs, base: Tree, target: Tree, count: int = 1) -> Any:
    while (found := packs.offer(base, target, count)) is None:
        await asyncio.sleep(0.01)
    return found


def packs_of(folder: Path, *, count_max: int = 10) -> tuple[Packs, Artifacts]:
    artifacts = Artifacts(folder / "hub", blob_max_bytes=10_000_000)
    packs = Packs(folder / "hub", artifacts, count_max=count_max, make_s=60, bytes_max=10_000_000)
    return packs, artifacts


async def stored(artifacts: Artifacts, *all_built: Built) -> None:
    for built in all_built:
        await artifacts.keep(built.artifact)


def test_a_built_release_names_the_list_of_its_tree(tmp_path: Path) -> None:
    built = Built(tmp_path, "1", ONE)

    assert built.manifest.parameters == {
        "tree_sha256": hashlib.sha256(built.list).hexdigest(),
        "tree_length_bytes": len(built.list),
    }


async def test_a_pack_is_made_when_it_is_asked_for_and_leads_to_the_tree(tmp_path: Path) -> None:
    one, two = Built(tmp_path, "1", ONE), Built(tmp_path, "2", TWO)
    packs, artifacts = packs_of(tmp_path)
    await stored(artifacts, one, two)

    assert packs.offer(one.tree, two.tree, 1) is None
    async with making(packs):
        found = await offered(packs, one.tree, two.tree)

    content = artifacts.path(found.sha256).read_bytes()
    assert len(content) == found.length_bytes < len(two.artifact) / 50
    (tmp_path / "out").mkdir()
    with artifacts.path(found.sha256).open("rb") as file:
        unpack_tree(
            file,
            base=one.root,
            base_list=one.list,
            into=tmp_path / "out",
            target=two.tree.tree,
            bytes_max=10**6,
        )
    assert list_tree(tmp_path / "out") == two.list


async def test_a_pack_survives_a_restart_of_the_hub_and_is_not_made_again(tmp_path: Path) -> None:
    one, two = Built(tmp_path, "1", ONE), Built(tmp_path, "2", TWO)
    packs, artifacts = packs_of(tmp_path)
    await stored(artifacts, one, two)
    async with making(packs):
        first = await offered(packs, one.tree, two.tree)

    again, _ = packs_of(tmp_path)

    assert again.offer(one.tree, two.tree, 1) == first


@pytest.mark.parametrize("files", [TWO, MIXED])
async def test_a_pack_that_many_need_is_made_again_with_all_effort(
    tmp_path: Path, files: Files
) -> None:
    one, two = Built(tmp_path, "1", ONE), Built(tmp_path, "2", files)
    packs, artifacts = packs_of(tmp_path)
    await stored(artifacts, one, two)
    async with making(packs):
        first = await offered(packs, one.tree, two.tree)
        while (better := await offered(packs, one.tree, two.tree, 1001)).level == first.level:
            await asyncio.sleep(0.01)

    assert better.length_bytes <= first.length_bytes
    assert (better.sha256 == first.sha256) == (files is TWO)
    assert artifacts.length_bytes(first.sha256) is not None


async def test_the_packs_not_asked_for_the_longest_make_room(tmp_path: Path) -> None:
    one, two, three = (Built(tmp_path, v, t) for v, t in (("1", ONE), ("2", TWO), ("3", THREE)))
    packs, artifacts = packs_of(tmp_path, count_max=1)
    await stored(artifacts, one, two, three)
    async with making(packs):
        first = await offered(packs, one.tree, two.tree)
        second = await offered(packs, one.tree, three.tree)

    assert artifacts.length_bytes(first.sha256) is None
    assert artifacts.length_bytes(second.sha256) == second.length_bytes
    assert packs.offer(one.tree, two.tree, 1) is None


async def test_a_pack_that_would_not_be_smaller_is_none(tmp_path: Path) -> None:
    one, other = Built(tmp_path, "1", ONE), Built(tmp_path, "2", OTHER)
    packs, artifacts = packs_of(tmp_path)
    await stored(artifacts, one, other)

    async with making(packs):
        with pytest.raises(NoPack, match="not be smaller"):
            await offered(packs, one.tree, other.tree._replace(artifact_bytes=40_000))


async def test_an_artifact_that_holds_another_tree_than_its_manifest_names_has_no_pack(
    tmp_path: Path,
) -> None:
    one, two = Built(tmp_path, "1", ONE), Built(tmp_path, "2", TWO)
    packs, artifacts = packs_of(tmp_path)
    await stored(artifacts, one, two)
    wrong = two.tree._replace(tree=bytes(32))

    async with making(packs):
        with pytest.raises(NoPack, match="another tree than its manifest names"):
            await offered(packs, one.tree, wrong)


async def test_an_artifact_that_is_no_archive_has_no_pack(tmp_path: Path) -> None:
    one, two = Built(tmp_path, "1", ONE), Built(tmp_path, "2", TWO)
    two.artifact = b"no archive at all" * 100
    packs, artifacts = packs_of(tmp_path)
    await stored(artifacts, one, two)
    wrong = two.tree._replace(artifact=hashlib.sha256(two.artifact).hexdigest())

    async with making(packs):
        with pytest.raises(NoPack):
            await offered(packs, one.tree, wrong)


def test_a_pack_is_made_of_trees_within_their_bound_only(tmp_path: Path) -> None:
    one, two = Built(tmp_path, "1", ONE), Built(tmp_path, "2", TWO)
    (tmp_path / "a").write_bytes(one.artifact)
    (tmp_path / "b").write_bytes(two.artifact)
    (tmp_path / "work").mkdir()

    with pytest.raises(CannotPack, match="more than 1000 bytes"):
        work(
            (tmp_path / "a", one.tree.tree),
            (tmp_path / "b", two.tree.tree),
            tmp_path / "work",
            level=3,
            bytes_max=1000,
        )


async def test_the_api_offers_a_pack_between_what_devices_run_and_what_was_released(
    client: httpx.AsyncClient, core: Core, tmp_path: Path
) -> None:
    one, two = Built(tmp_path, "1", ONE), Built(tmp_path, "2", TWO)
    await published(client, one, two)
    address = f"/packs/{one.digest}/{two.digest}"
    check_problem(await client.get(address), 404, "no device is known to run")
    one.runs_on(core, "d1")

    answer = await client.get(address)

    assert (answer.status_code, answer.json()) == (202, {"state": "making"})
    assert int(answer.headers["retry-after"]) > 0


async def test_the_api_says_why_there_is_no_pack(
    client: httpx.AsyncClient, core: Core, tmp_path: Path
) -> None:
    one = Built(tmp_path, "1", ONE)
    plain = Built(tmp_path, "2", TWO)
    plain.manifest = manifest_from({**plain.manifest.model_dump(mode="json"), "parameters": {}})
    await published(client, one, plain)
    one.runs_on(core, "d1")

    digest = plain.manifest.digest().hex()
    check_problem(await client.get(f"/packs/{one.digest}/{digest}"), 404, "list of its tree")
    check_problem(await client.get(f"/packs/{one.digest}/{'0' * 64}"), 404, "two releases of one")
    check_problem(await client.get(f"/packs/{one.digest}/latest"), 400, "64 lower-case hex")
