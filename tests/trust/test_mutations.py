"""Spoiled metadata, manifests and archives: nothing unsigned is believed, nothing falls over."""

import contextlib
import json
import random
import tarfile
from pathlib import Path
from typing import Any

import pytest

from agent.trust.carried import CannotImport, import_from
from agent.trust.question import GRANTED
from agent.trust.shelf import IMPORTED
from agent.trust.sources import Unreachable
from sync.manifest import BadManifest, parse_manifest
from sync.metadata import Refused
from sync.trust import Chain
from tests.trust.devices import Device
from tests.trust.test_guarantees import carried, stocked
from tests.trust.workshop import NOW_S, Served, Workshop, lamp

CASES = 3_000
SOAK_CASES = 100_000

BITS: tuple[object, ...] = (
    None, True, False, 0, -1, 1.5, 10**30, "", "x" * 300, "\0", "../../etc/passwd", [], {}, [[]],
    {"": {}}, "9999-12-31T23:59:59Z", "0000-00-00T00:00:00Z", float("inf"),
)  # fmt: skip


def spoil_bytes(content: bytes, dice: random.Random) -> bytes:
    """Flip, drop, repeat or insert some bytes."""
    spoiled = bytearray(content)
    for _ in range(dice.choice((1, 1, 1, 2, 8))):
        at = dice.randrange(len(spoiled) + 1)
        match dice.randrange(5):
            case 0 if at < len(spoiled):
                spoiled[at] ^= 1 << dice.randrange(8)
            case 1:
                del spoiled[at : at + dice.randrange(1, 200)]
            case 2:
                spoiled[at:at] = dice.randbytes(dice.randrange(1, 20))
            case 3:
                spoiled[at:at] = spoiled[at : at + dice.randrange(1, 400)]
            case _:
                spoiled[at:at] = dice.choice((b"[" * 5000, b'{"a":' * 3000, b"9" * 5000))
    return bytes(spoiled)


def spoil_json(content: bytes, dice: random.Random) -> bytes:
    """Change, remove, rename or swap a value somewhere in it."""
    tree = json.loads(content)
    for _ in range(dice.choice((1, 1, 2, 5))):
        places = list(_places(tree))
        if not places:
            break
        holder, key = dice.choice(places)
        match dice.randrange(4):
            case 0:
                holder[key] = dice.choice(BITS)
            case 1:
                del holder[key]
            case 2:
                other, its = dice.choice(places)
                holder[key], other[its] = json.loads(json.dumps([other[its], holder[key]]))
            case _ if isinstance(holder, dict):
                holder[dice.choice(("", "_type", "keyids", "sig", "0" * 64))] = holder.pop(key)
    return json.dumps(tree).encode()


def _places(tree: Any) -> Any:
    if isinstance(tree, dict | list):
        keys = list(tree) if isinstance(tree, dict) else range(len(tree))
        for key in keys:
            yield tree, key
            yield from _places(tree[key])


def believed(chain: Chain) -> tuple[object, ...]:
    parts = (chain.root, chain.timestamp, chain.snapshot, chain.targets)
    return tuple(None if each is None else each.to_dict() for each in parts)


@pytest.mark.parametrize(
    "cases_count",
    [CASES, pytest.param(SOAK_CASES, marks=[pytest.mark.soak, pytest.mark.timeout(7200)])],
)
def test_no_spoiled_metadata_is_believed(cases_count: int) -> None:
    """A spoiled file may pass only if what it says is what was signed: spaces, order, escapes."""
    dice = random.Random(8)
    workshop = Workshop(offline_count=2, threshold=2)
    workshop.release(lamp("1.0.0"))
    workshop.rotate("root", "timestamp")
    workshop.release(lamp("1.1.0"), now_s=NOW_S + 20)
    files = workshop.files
    honest = workshop.chain()
    steps = {
        "2.root.json": lambda chain, content: chain.add_root(content),
        "timestamp.json": lambda chain, content: chain.add_timestamp(content),
        f"{workshop.snapshot_version}.snapshot.json": lambda chain, content: chain.add_snapshot(
            content
        ),
        f"{workshop.targets.version}.targets.json": lambda chain, content: chain.add_targets(
            content
        ),
    }
    order = list(steps)
    passed_count = 0
    for number in range(cases_count):
        victim = order[number % len(order)]
        chain = Chain(workshop.pinned)
        for name in order[: order.index(victim)]:
            steps[name](chain, files[name])
        before = believed(chain)
        spoil = spoil_json if dice.random() < 0.5 else spoil_bytes
        spoiled = spoil(files[victim], dice)
        try:
            steps[victim](chain, spoiled)
            passed_count += 1
            allowed = believed(honest)
        except Refused:
            allowed = before
        assert all(
            now is None or now == signed
            for now, signed in zip(believed(chain), allowed, strict=True)
        ), spoiled
    assert passed_count < cases_count / 10


@pytest.mark.parametrize(
    "cases_count",
    [CASES, pytest.param(SOAK_CASES, marks=[pytest.mark.soak, pytest.mark.timeout(7200)])],
)
def test_no_spoiled_manifest_makes_the_reader_fall_over(cases_count: int) -> None:
    dice = random.Random(9)
    manifest = lamp("1.0.0").model_copy(
        update={"requires": {"base": ("1.*",)}, "unmeasured": "a trial of the reader"}
    )
    content, digest = manifest.canonical(), manifest.digest()
    for _ in range(cases_count):
        spoil = spoil_json if dice.random() < 0.5 else spoil_bytes
        spoiled = spoil(content, dice)
        if spoiled != content:
            with pytest.raises(BadManifest):
                parse_manifest(spoiled, digest=digest)
        with contextlib.suppress(BadManifest):
            parse_manifest(parse_manifest(spoiled).canonical())


@pytest.mark.parametrize(
    "cases_count",
    [300, pytest.param(SOAK_CASES, marks=[pytest.mark.soak, pytest.mark.timeout(7200)])],
)
def test_no_spoiled_archive_gets_anything_unsigned_onto_the_disk(
    cases_count: int, tmp_path: Path
) -> None:
    dice = random.Random(10)
    workshop, files = stocked()
    stick, device = tmp_path / "stick.tar", tmp_path / "device"
    with tarfile.open(stick, "w") as archive:
        for name, content in carried(workshop, files).items():
            path = tmp_path / "part"
            path.write_bytes(content)
            archive.add(path, name)
            path.unlink()
    whole = stick.read_bytes()
    for _ in range(cases_count):
        stick.write_bytes(spoil_archive(whole, dice))
        with contextlib.suppress(CannotImport, Refused):
            import_from(stick, device, workshop.pinned, disk_reserve_bytes=0)
        assert {path.name for path in tmp_path.iterdir()} <= {"stick.tar", "device"}
        kept = device / IMPORTED
        for path in kept.iterdir() if kept.exists() else ():
            assert path.read_bytes() == files[path.name]


def spoil_archive(content: bytes, dice: random.Random) -> bytes:
    """Spoil it where it hurts: in its headers, before them, at its end, or anywhere."""
    if dice.random() < 0.2:
        at = 512 * dice.choice((0, 0, dice.randrange(len(content) // 512)))
        return content[:at] + chained(dice) + content[at:]
    if dice.random() < 0.5:
        spoiled = bytearray(content)
        block = 512 * dice.randrange(len(spoiled) // 512)
        header = bytearray(spoiled[block : block + 512])
        for _ in range(dice.randrange(1, 4)):
            header[dice.choice((0, 100, 124, 130, 148, 156, 156, 157, 257, 345, 482))] = (
                dice.randrange(256)
            )
        header[148:156] = b"        "
        header[148:156] = b"%06o\0 " % sum(header)
        spoiled[block : block + 512] = header
        return bytes(spoiled)
    return spoil_bytes(content, dice)


SPARSE = b"30 GNU.sparse.map=0,1\n"


def chained(dice: random.Random) -> bytes:
    """Return headers that say something of the next one, many in a row, whole or cut short."""
    found = b""
    for _ in range(dice.choice((1, 1, 2, 40, 1500))):
        known = tarfile.TarInfo("x" * dice.choice((1, 99)))
        known.type = dice.choice((b"L", b"K", b"x", b"g", b"S", b"X", b"V", b"M", b"\0"))
        body = dice.choice(
            (b"", b"a/../../b", b"21 path=../../escaped\n", b"30 GNU.sparse.map=0,1\n")
        )
        known.size = dice.choice((len(body), 0, 512, 10**9, 8**11 - 1))
        found += known.tobuf(tarfile.GNU_FORMAT) + body.ljust(-(-len(body) // 512) * 512, b"\0")
    return found


def test_random_answers_of_a_hub_grant_nothing(tmp_path: Path) -> None:
    dice = random.Random(11)
    workshop = Workshop()
    workshop.release(lamp("1.0.0"))
    device = Device(tmp_path / "device", workshop.pinned)
    evil = lamp("6.6.6")

    class Dice:
        def get(self, name: str, bytes_max: int) -> bytes | None:
            if dice.random() < 0.1:
                raise Unreachable("no luck")
            if dice.random() < 0.1:
                return None
            content = workshop.files[dice.choice(list(workshop.files))]
            return content if dice.random() < 0.7 else spoil_bytes(content, dice)

    for _ in range(200):
        assert device.ask(evil, Dice()).verdict != GRANTED
    assert device.ask(lamp("1.0.0"), Served(workshop.files)).verdict == GRANTED
