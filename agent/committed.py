"""What the releases of a component that were accepted here ask of later ones.

Owns one small file for each component, beside the manifests. It counts also while nothing is known
to run: a container that ended or a file that a person changed must not open a way below a floor.
"""

import logging
from pathlib import Path
from typing import Final

import msgspec

from agent.log import say
from agent.requirements import way_of
from firmware_hooks.durable import write_durably
from sync.manifest import Manifest
from sync.versions import is_older

logger = logging.getLogger(__name__)

NAME: Final = "committed.json"
BYTES_MAX: Final = 4096


class Committed(msgspec.Struct, frozen=True):
    """What has to be kept to."""

    floor: str = ""
    """The highest of all releases that were accepted; empty for none."""
    way: str = ""
    """How the last one was put in place; empty if none was."""


def read_committed(folder: Path) -> Committed:
    """Return what `folder` says; nothing has to be kept to where it cannot be read."""
    try:
        with (folder / NAME).open("rb") as file:
            return msgspec.json.decode(file.read(BYTES_MAX), type=Committed)
    except FileNotFoundError:
        return Committed()
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        say(logger, "committed_unreadable", level=logging.WARNING, folder=folder, error=error)
        return Committed()


def note_committed(folder: Path, manifest: Manifest) -> None:
    """Note durably that a release was accepted.

    Raises:
        OSError: The disk is full or fails; what was noted before still is.
    """
    known = read_committed(folder)
    is_lower = not manifest.floor or (known.floor and is_older(manifest.floor, known.floor))
    noted = Committed(known.floor if is_lower else manifest.floor, way_of(manifest))
    if noted != known:
        write_durably(folder / NAME, msgspec.json.encode(noted))
