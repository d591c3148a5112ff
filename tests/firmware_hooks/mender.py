"""Update modules, state scripts and releases for tests of the `mender-module` installer."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from firmware_hooks.contract import Order
from firmware_hooks.mender.payload import artifact_name
from tests.firmware_hooks.releases import order_of

MODULE: Final = """#!/bin/sh
set -e
sign={sign}
case "$1" in
SupportsRollback) echo Yes ;;
NeedsArtifactReboot) echo No ;;
ArtifactInstall)
    if [ -e "$sign" ]; then cp "$sign" tmp/old.new; mv tmp/old.new tmp/old; fi
    touch tmp/begun
    cp files/image "$sign.new"; mv "$sign.new" "$sign" ;;
ArtifactRollback)
    [ -e tmp/begun ] || exit 0
    if [ -e tmp/old ]; then cp tmp/old "$sign.new"; mv "$sign.new" "$sign"
    else rm -f "$sign"; fi ;;
esac
"""
"""A well-behaved module: it can go back from wherever an install was cut off."""

SLOTS: Final = """#!/bin/sh
set -e
slots={slots}
booted=$(cat "$slots/booted")
if [ "$booted" = a ]; then other=b; else other=a; fi
case "$1" in
SupportsRollback) echo Yes ;;
NeedsArtifactReboot) echo Automatic ;;
Download)
    pipe=$(cat stream-next)
    cat "$pipe" > "$slots/$other"
    echo "$other" > tmp/slot ;;
ArtifactInstall) cp tmp/slot "$slots/once.new"; mv "$slots/once.new" "$slots/once" ;;
ArtifactVerifyReboot) [ "$booted" = "$(cat tmp/slot)" ] ;;
ArtifactCommit) cp "$slots/booted" "$slots/default.new"; mv "$slots/default.new" "$slots/default" ;;
ArtifactRollback) rm -f "$slots/once" ;;
ArtifactVerifyRollbackReboot) [ "$booted" != "$(cat tmp/slot)" ] ;;
esac
"""
"""A module with two slots and a bootloader that tries one of them once."""


def device(folder: Path, modules: Mapping[str, str]) -> None:
    """Put update modules onto a device below `folder`."""
    for name, text in modules.items():
        program = folder / "modules" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)


def mender_order(
    folder: Path,
    version: str,
    files: Mapping[str, bytes],
    *,
    kind: str,
    scripts: Mapping[str, bytes] | None = None,
    meta_data: bytes = b"",
    artifact: str = "",
) -> Order:
    """Return an order as an imported Mender artifact makes it."""
    found = dict(scripts or {})
    parts = {
        "header-info": json.dumps({"payloads": [{"type": kind}]}).encode(),
        "type-info": json.dumps({"type": kind}).encode(),
        **{artifact_name("files", at): content for at, content in enumerate(files.values())},
        **{artifact_name("scripts", at): content for at, content in enumerate(found.values())},
    }
    if meta_data:
        parts["meta-data"] = meta_data
    return order_of(
        folder,
        version,
        parts,
        installer="mender-module",
        parameters={
            "payload_type": kind,
            "artifact_name": artifact or f"release-{version}",
            "files": json.dumps([*files]),
            "scripts": json.dumps([*found]),
        },
    )
