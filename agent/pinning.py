"""Whom this device believes about releases: the root that is pinned when it is enrolled.

Owns where the root comes from and that it is one. A file that a person names counts most; without
one it is the hub's, over the connection that enrolment has authenticated, compared with a
fingerprint if one was given. What is pinned stays pinned: only a file that a person names replaces
it. What follows from a root is decided in `agent.trust`.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.settings import Settings
from firmware_hooks.durable import write_durably
from sync.metadata import BYTES_MAX, Refused
from sync.trust import Chain


class BadRoot(Exception):
    """What was offered is not pinned, and what was pinned before still is; one line says why."""


def pin(
    settings: Settings,
    *,
    file: Path | None,
    sha256: bytes | None,
    ask_hub: Callable[[], bytes | None],
) -> dict[str, Any]:
    """Pin a root if none is, and return what is pinned: `root_sha256`, `root_version`.

    Args:
        settings: Of this device.
        file: A root that a person has brought; it replaces what is pinned.
        sha256: What the root must have, of 32 bytes; None takes any.
        ask_hub: Gives the newest root of the hub, None if it has none yet.

    Raises:
        BadRoot: It is no root, or another one than was asked for.
        OSError: A file cannot be read or written.
    """
    if file is not None:
        if settings.trust_root is not None:
            raise BadRoot(
                f"the setting trust_root names {settings.trust_root}: put the root there, or take "
                "the setting away"
            )
        return _keep(settings, _read(file), sha256, f"{file}")
    if settings.pinned_root.exists():
        return _told(_read(settings.pinned_root), f"{settings.pinned_root}")
    content = ask_hub()
    if content is None:
        if sha256 is not None:
            raise BadRoot("the hub has no root yet, so none with this fingerprint is pinned")
        return {"root_sha256": "", "root_version": 0}
    return _keep(settings, content, sha256, "the hub's root")


def _keep(settings: Settings, content: bytes, sha256: bytes | None, called: str) -> dict[str, Any]:
    told = _told(content, called)
    if sha256 is not None and told["root_sha256"] != sha256.hex():
        raise BadRoot(
            f"{called} has the fingerprint {told['root_sha256']}, which is not the one that was "
            "given; it is not pinned: compare with `fieldfare keys status`"
        )
    write_durably(settings.pinned_root, content)
    return told


def _read(file: Path) -> bytes:
    with file.open("rb") as text:
        return text.read(BYTES_MAX["root"] + 1)


def _told(content: bytes, called: str) -> dict[str, Any]:
    try:
        root = Chain(content).root
    except Refused as refused:
        raise BadRoot(f"{called} is no root that can be pinned: {refused.detail}") from None
    return {"root_sha256": hashlib.sha256(content).hexdigest(), "root_version": root.version}
