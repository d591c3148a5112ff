"""What commands do with a release that is made: sign it, send it to the hub, or write it down.

Owns the names of files that are left for `fieldfare release publish`.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from hub.cli.exits import CommandFailed, Exit
from hub.cli.keys import key_folder, now_s, passphrase, require_right_clock, signing
from hub.cli.options import failures
from hub.client import HubClient

if TYPE_CHECKING:
    from sync.manifest import Manifest

LARGE_BYTES: Final = 4 * 1024 * 1024
"""From this size on an upload shows how far it is."""

TARGETS_SUFFIX: Final = ".targets.json"
"""End of the name of a signed list of releases beside a release that was built."""


def sign(
    manifest: "Manifest", keys: Path, client: HubClient | None, *, is_signed: bool
) -> bytes | None:
    """Return the signed list with this release on it; None if it is not to be signed.

    Args:
        manifest: The release.
        keys: Folder of the keys.
        client: The hub that it goes to, None if it goes to none yet.
        is_signed: Whether it is to be signed.

    Raises:
        CommandFailed: The keys cannot sign it, or it may not be signed.
    """
    from hub.trust import signing as office  # noqa: PLC0415 - costs 100 ms

    with signing(), failures():
        if not is_signed:
            office.require_measured(manifest)
            return None
        if client is not None:
            require_right_clock(client)
        return office.list_release(key_folder(keys), manifest, passphrase(), now_s=now_s())


def send(
    manifest: "Manifest",
    artifacts: Mapping[str, Path],
    targets: bytes | None,
    client: HubClient,
    *,
    is_quiet: bool,
) -> None:
    """Upload what the hub lacks of a release, and publish it.

    Args:
        manifest: The release.
        artifacts: Where each of its artifacts lies, by name.
        targets: The signed list with it, if it was signed.
        client: The hub.
        is_quiet: Do not show how far it is.

    Raises:
        HubFailure: The hub refuses it, or does not answer; typed again, the command goes on.
    """
    for described in manifest.artifacts:
        if client.has_blob(described.sha256):
            continue
        path = artifacts[described.name]
        if is_quiet or described.length_bytes < LARGE_BYTES:
            client.put_blob(path, described.sha256)
        else:
            with click.progressbar(length=described.length_bytes, label="Uploading") as bar:
                client.put_blob(path, described.sha256, bar.update)
    if targets is not None:
        _hand_in(targets, client)
    client.publish(manifest)


def write(
    manifest: "Manifest", artifacts: Mapping[str, Path], folder: Path, targets: bytes | None
) -> dict[str, Path]:
    """Write a release to a folder, all of it or nothing, and return where each part lies.

    Raises:
        CommandFailed: The folder cannot be written.
    """
    stem = f"{manifest.component}-{manifest.version}"
    is_one = len(artifacts) == 1
    named = {"artifact" if is_one else name: (name, path) for name, path in artifacts.items()}
    places = {key: folder / f"{stem}.{name}" for key, (name, _) in named.items()}
    places["manifest"] = folder / f"{stem}.json"
    if targets is not None:
        places["targets"] = folder / f"{stem}{TARGETS_SUFFIX}"
    parts = {name: place.with_name(f".{place.name}.part") for name, place in places.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            for key, (_, path) in named.items():
                shutil.copyfile(path, parts[key])
            parts["manifest"].write_bytes(manifest.canonical())
            if targets is not None:
                parts["targets"].write_bytes(targets)
            for name, part in parts.items():
                part.replace(places[name])
        finally:
            for part in parts.values():
                part.unlink(missing_ok=True)
    except OSError as error:
        raise CommandFailed(f"{folder} cannot be written: {error.strerror}", Exit.FILE) from None
    return places


def _hand_in(targets: bytes, client: HubClient) -> None:
    """Hand in a list that is newer than the hub's; one that is older has served its time."""
    mine, served = _version(targets), _served(client)
    if mine > served:
        client.hand_in([], targets)
    elif mine == served and _signed(client.trust_file(f"{served}.targets.json")) != _signed(
        targets
    ):
        raise CommandFailed(
            f"another operator has released meanwhile: the hub has another list of releases {mine} "
            "than this one; take it with `fieldfare keys pull`, then build again",
            Exit.KEYS,
        )


def _version(targets: bytes) -> int:
    version: int = _signed(targets)["version"]
    return version


def _signed(targets: bytes | None) -> Any:
    """Return what is signed of a list: enough of several keys may have signed the same."""
    try:
        return json.loads(targets or b"{}").get("signed")
    except (ValueError, AttributeError):
        return None


def _served(client: HubClient) -> int:
    version: int = client.trust()["roles"].get("targets", {}).get("version", 0)
    return version
