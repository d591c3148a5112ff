"""What a stick carries: signed metadata, manifests and artifacts, from a hub to a folder or file.

Owns the form that `fieldfare-agent import` reads. Believes nothing: the device verifies.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from hub.cli.exits import CommandFailed, Exit
from hub.client import HubClient

ROOTS_MAX: Final = 1024


def export(client: HubClient, releases: Sequence[str], output: Path) -> list[str]:
    """Write these releases, or the latest of each component, with all signed metadata.

    Returns:
        The releases written.

    Raises:
        CommandFailed: The hub has no root, or not such a release, or `output` cannot be written.
    """
    chosen = _chosen(client, releases)
    metadata = dict(_metadata(client))
    try:
        if output.suffix == ".tar":
            with tarfile.open(output, "w") as archive:
                _write(client, chosen, metadata, lambda name, got: _add(archive, name, got))
        else:
            _write(client, chosen, metadata, lambda name, got: _place(output, name, got))
    except OSError as error:
        raise CommandFailed(f"{output} cannot be written: {error.strerror}", Exit.FILE) from None
    return [str(each["release"]) for each in chosen]


def _chosen(client: HubClient, releases: Sequence[str]) -> list[dict[str, Any]]:
    known = client.plain("/releases")["items"]
    if not releases:
        latest = {each["component"]: each for each in reversed(known)}
        return list(latest.values())
    by_name = {each["release"]: each for each in known}
    missing = [name for name in releases if name not in by_name]
    if missing:
        raise CommandFailed(
            f"the hub has no release {missing[0]!r}: fieldfare release list", Exit.REFUSED
        )
    return [by_name[name] for name in releases]


def _metadata(client: HubClient) -> Iterator[tuple[str, bytes]]:
    timestamp = client.trust_file("timestamp.json")
    if timestamp is None:
        raise CommandFailed(
            "the hub has no signed list of releases: fieldfare keys init", Exit.REFUSED
        )
    for version in range(1, ROOTS_MAX):
        root = client.trust_file(f"{version}.root.json")
        if root is None:
            break
        yield f"{version}.root.json", root
    yield "timestamp.json", timestamp
    snapshot_version = json.loads(timestamp)["signed"]["meta"]["snapshot.json"]["version"]
    snapshot = client.trust_file(f"{snapshot_version}.snapshot.json") or b""
    yield f"{snapshot_version}.snapshot.json", snapshot
    targets_version = json.loads(snapshot)["signed"]["meta"]["targets.json"]["version"]
    yield (
        f"{targets_version}.targets.json",
        client.trust_file(f"{targets_version}.targets.json") or b"",
    )


def _write(
    client: HubClient,
    chosen: Sequence[dict[str, Any]],
    metadata: dict[str, bytes],
    put: Callable[[str, bytes], None],
) -> None:
    digests: dict[str, None] = {}
    for each in chosen:
        digests[each["digest"]] = None
        digests.update(dict.fromkeys(part["sha256"] for part in each["manifest"]["artifacts"]))
    for name, content in metadata.items():
        put(f"metadata/{name}", content)
    for digest in digests:
        content = client.get_blob(digest)
        if hashlib.sha256(content).hexdigest() != digest:
            raise CommandFailed(
                f"{digest} did not come as it was signed ({len(content)} bytes)", Exit.HUB_FAULT
            )
        put(f"blobs/{digest}", content)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _place(folder: Path, name: str, content: bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
