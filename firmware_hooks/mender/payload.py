"""What a release brings for an update module: which module, its header, files and scripts.

Owns the names of artifacts and parameters by which a manifest says so:

    parameters  payload_type, artifact_name, artifact_group, and two lists as JSON text: `files`
                and `scripts`, the names as the module or Mender knows them
    artifacts   `header-info`, `type-info`, `meta-data`; `file-000` ... and `script-000` ... in the
                order of those lists
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sync.manifest import Manifest

HEADER_INFO: Final = "header-info"
TYPE_INFO: Final = "type-info"
META_DATA: Final = "meta-data"
HEADERS: Final = (HEADER_INFO, TYPE_INFO, META_DATA)

PAYLOAD_TYPE: Final = "payload_type"
ARTIFACT_NAME: Final = "artifact_name"
ARTIFACT_GROUP: Final = "artifact_group"
FILES: Final = "files"
SCRIPTS: Final = "scripts"

KIND_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
"""What a module may be called: it becomes part of a path."""

SCRIPT_PATTERN: Final = re.compile(
    r"(?P<state>[A-Za-z]{1,40})_(?P<when>Enter|Leave|Error)_(?P<number>[0-9][0-9])(_\S{1,200})?"
)
NAME_BYTES_MAX: Final = 255
NAMES_MAX: Final = 100
TEXT_CHARACTERS_MAX: Final = 255


class BadPayload(ValueError):
    """The manifest, or the Mender artifact, says what no module can be given; says what."""


@dataclass(frozen=True, slots=True)
class Payload:
    """What one release brings."""

    kind: str
    """Type of the payload: the module's name."""
    artifact_name: str
    artifact_group: str
    files: Mapping[str, str]
    """Artifacts of the release by the names that the module gets, in the module's order."""
    scripts: Mapping[str, str]
    """Artifacts of the release by the names of the state scripts."""


def payload_of(manifest: Manifest) -> Payload:
    """Return what a manifest says.

    Raises:
        BadPayload: It says too little, or what cannot be.
    """
    parameters = manifest.parameters
    kind = str(parameters.get(PAYLOAD_TYPE, ""))
    check_kind(kind)
    there = {artifact.name for artifact in manifest.artifacts}
    found = {
        name: {each: artifact_name(name, at) for at, each in enumerate(_names(parameters, name))}
        for name in (FILES, SCRIPTS)
    }
    for name in found[FILES]:
        check_file_name(name)
    for name in found[SCRIPTS]:
        check_script_name(name)
    named = {*found[FILES].values(), *found[SCRIPTS].values(), *HEADERS}
    if there - named or named - there - set(HEADERS):
        odd = sorted(there ^ (named - set(HEADERS) | there & set(HEADERS)))
        raise BadPayload(f"artifacts and parameters do not fit together: {', '.join(odd)[:100]}")
    texts = [str(parameters.get(name, "")) for name in (ARTIFACT_NAME, ARTIFACT_GROUP)]
    for text in texts:
        check_text(text)
    return Payload(kind, texts[0] or manifest.version, texts[1], found[FILES], found[SCRIPTS])


def artifact_name(name: str, at: int) -> str:
    """Return how the artifact of entry `at` of the list `name` is called."""
    return f"{name.removesuffix('s')}-{at:03d}"


def check_kind(kind: str) -> None:
    """Refuse a type of payload that cannot be a file name.

    Raises:
        BadPayload: It is one.
    """
    if not KIND_PATTERN.fullmatch(kind):
        raise BadPayload(f"{PAYLOAD_TYPE} is {kind[:60]!r}, which is no name of an update module")


def check_file_name(name: str) -> None:
    """Refuse a name that leads elsewhere, or that no line of a stream can carry.

    Raises:
        BadPayload: It is one.
    """
    if (
        name in ("", ".", "..")
        or "/" in name
        or not name.isprintable()
        or len(name.encode(errors="replace")) > NAME_BYTES_MAX
    ):
        raise BadPayload(f"a file of the payload is called {name[:60]!r}, which is no file name")


def check_script_name(name: str) -> None:
    """Refuse what is no state script's name.

    Raises:
        BadPayload: It is none.
    """
    check_file_name(name)
    if not SCRIPT_PATTERN.fullmatch(name):
        raise BadPayload(f"{name[:60]!r} is no name of a state script: State_Enter_00 or so")


def check_text(text: str) -> None:
    """Refuse what does not fit into one line.

    Raises:
        BadPayload: It does not.
    """
    if len(text) > TEXT_CHARACTERS_MAX or (text and not text.isprintable()):
        raise BadPayload(f"{text[:60]!r} is no name of an artifact or group")


def _names(parameters: Mapping[str, object], name: str) -> list[str]:
    try:
        names = json.loads(str(parameters.get(name, "[]")))
    except (ValueError, RecursionError):
        names = None
    if (
        not isinstance(names, list)
        or len(names) > NAMES_MAX
        or not all(isinstance(each, str) for each in names)
        or len(set(names)) != len(names)
    ):
        raise BadPayload(f"the parameter {name} is no list of different names, in JSON")
    return names
