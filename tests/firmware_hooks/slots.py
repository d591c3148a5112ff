"""Devices with two slots in files, and images for them."""

import gzip
import hashlib
from pathlib import Path

from firmware_hooks.ab_slots import AbSlotsInstaller
from firmware_hooks.contract import Order
from firmware_hooks.frames import zstd
from sync.manifest import Artifact, Health, Manifest
from tests.fakes.firmware import BOARDS, Options

SLOT_BYTES = 2 * 1024 * 1024
FACTORY = b"what the factory put there"


def make_device(folder: Path, board: str, slot_bytes: int = SLOT_BYTES) -> None:
    for name in ("slot_a", "slot_b"):
        (folder / name).write_bytes(FACTORY.ljust(slot_bytes, b"\xaa"))
    BOARDS[board](folder)


def options(folder: Path, board: str) -> Options:
    slots: Options = {name: str(folder / name) for name in ("slot_a", "slot_b")}
    return {"boot": board, **slots, **BOARDS[board](folder).options}


def installer(folder: Path, board: str, **more: str | float | bool) -> AbSlotsInstaller:
    return AbSlotsInstaller("lamp", folder / "install", {**options(folder, board), **more})


def image(version: str, length_bytes: int = 1_500_001) -> bytes:
    """Return an image that fills no block, each byte depending on the version."""
    begin = f"image {version}\n".encode()
    block = hashlib.shake_256(begin).digest(65_536)
    return (begin + block * (length_bytes // len(block) + 1))[:length_bytes]


def packed_as(content: bytes, how: str) -> bytes:
    if how == "gz":
        return gzip.compress(content, 1, mtime=0)
    return zstd.compress(content) if how == "zst" else content


def order(
    folder: Path,
    content: bytes,
    version: str = "2",
    packed_by: str = "raw",
    parameters: dict[str, str | int | float | bool] | None = None,
) -> Order:
    """Return an order of an image, the artifact lying in `folder`."""
    packed = content if packed_by == "as it is" else packed_as(content, packed_by)
    path = folder / f"image-{version}"
    path.write_bytes(packed)
    artifact = Artifact(
        name="root.img", sha256=hashlib.sha256(packed).hexdigest(), length_bytes=len(packed)
    )
    manifest = Manifest(
        component="lamp",
        version=version,
        installer="ab-slots",
        artifacts=(artifact,),
        parameters=parameters or {},
        health=Health(command=("true",)),
    )
    return Order(manifest, manifest.digest(), {"root.img": path}, 10_000_000)


def booted(folder: Path, board: str) -> bytes:
    """Return what lies in the slot that the board booted."""
    backend = BOARDS[board](folder).backend()
    name = ("slot_a", "slot_b")[backend.slots.index(backend.current())]
    return (folder / name).read_bytes()
