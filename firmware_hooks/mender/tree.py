"""The folder that an update module works in: what the protocol says lies there.

Owns its layout. Modes are those of Mender's client: nobody but the owner reads it.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Final

from firmware_hooks.contract import InstallerError, Order
from firmware_hooks.durable import CHUNK_BYTES
from firmware_hooks.mender.payload import HEADER_INFO, META_DATA, TYPE_INFO, Payload
from sync.stages import Reason

PROTOCOL_VERSION: Final = "3"


def make_tree(
    tree: Path,
    payload: Payload,
    headers: Mapping[str, bytes],
    *,
    current_artifact_name: str,
    current_device_type: str,
) -> None:
    """Make the tree of one install, without the payload itself; `tree` must not be there.

    Raises:
        OSError: The disk is full or fails.
    """
    tree.parent.mkdir(parents=True, exist_ok=True)
    for folder in (tree, tree / "header", tree / "tmp"):
        folder.mkdir(0o700)
    # What the client writes here ends with a line feed since its version 5, as files of text do.
    for name, text in {
        "version": PROTOCOL_VERSION,
        "current_artifact_name": current_artifact_name,
        "current_artifact_group": "",
        "current_device_type": current_device_type,
    }.items():
        _write(tree / name, f"{text}\n".encode())
    for name, content in {
        "artifact_group": payload.artifact_group.encode(),
        "artifact_name": payload.artifact_name.encode(),
        "payload_type": payload.kind.encode(),
        HEADER_INFO: headers.get(HEADER_INFO, b""),
        TYPE_INFO: headers.get(TYPE_INFO, b""),
        META_DATA: headers.get(META_DATA, b"") or b"null",
    }.items():
        _write(tree / "header" / name, content)


def put_files(tree: Path, files: Mapping[str, tuple[Path, str]], order: Order) -> None:
    """Lay the payload into `files/`, for a module that wants no streams.

    Args:
        tree: Of the module.
        files: Where each file lies, and the digest of what it must be.
        order: Says how much they may be together.

    Raises:
        InstallerError: They are too large, or the disk has spoilt one.
        OSError: The disk is full or fails.
    """
    if sum(path.stat().st_size for path, _ in files.values()) > order.bytes_max:
        raise order.too_large()
    (tree / "files").mkdir(0o700)
    for name, (path, sha256) in files.items():
        _copy(path, tree / "files" / name, sha256)


def _copy(source: Path, to: Path, sha256: str) -> None:
    digest = hashlib.sha256()
    with source.open("rb") as content, _created(to) as copy:
        while chunk := content.read(CHUNK_BYTES):
            digest.update(chunk)
            copy.write(chunk)
    if digest.hexdigest() != sha256:
        raise InstallerError(Reason.DIGEST_MISMATCH, f"{source} changed while it was read")


def _write(path: Path, content: bytes) -> None:
    with _created(path) as file:
        file.write(content)


def _created(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
