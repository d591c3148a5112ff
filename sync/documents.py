"""Documents: their names, who writes each kind, what keys they hold and how a writer rebases them.

Owns the table of kinds. Never touches content: records are `sync.records`, replicas `sync.replica`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from sync.hlc import newer_of

ID_PATTERN = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62})\Z")
"""Device and group ids: also MQTT client ids, certificate names and file names."""

RESERVED_DEVICE_IDS = frozenset({"group", "hub", "kill"})
"""Second topic levels that are not devices."""

KEY_BYTES_MAX = 160
"""Longest key inside a document."""

SETTING_KEY_PATTERN = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62})\Z")
"""Names that applications and operators may give a setting."""

HUB_CLIENT_ID_MIN = 2**40
"""Client ids below this belong to devices, from here on to hubs: neither can write as the other."""

CLIENT_ID_MAX = 2**53 - 1


class Side(StrEnum):
    """Which of the two programs this is."""

    DEVICE = "device"
    HUB = "hub"


class Kind(StrEnum):
    """Kinds of documents. Values are stored and transmitted; never reuse one."""

    DEVICE = "dev"
    TELEMETRY = "tel"
    DESIRED = "des"
    GROUP = "grp"


WRITER: Mapping[Kind, Side] = {
    Kind.DEVICE: Side.DEVICE,
    Kind.TELEMETRY: Side.DEVICE,
    Kind.DESIRED: Side.HUB,
    Kind.GROUP: Side.HUB,
}


class BadName(ValueError):
    """A name that cannot be: the caller or the sender is to blame; nothing was changed."""


@dataclass(frozen=True, slots=True, order=True)
class DocumentName:
    """One document: its kind and the device or group it is about, written `dev/pump-7`."""

    kind: Kind
    about: str

    def __str__(self) -> str:
        """Return the stored and transmitted form."""
        return f"{self.kind.value}/{self.about}"

    @property
    def writer(self) -> Side:
        """Return the one side that may write this document."""
        return WRITER[self.kind]


def parse_document(text: str) -> DocumentName:
    """Return the document that `text` names.

    Raises:
        BadName: Unknown kind or an id outside `[a-z0-9-]`, 1 to 63 characters.
    """
    kind_text, _, about = text.partition("/")
    try:
        kind = Kind(kind_text)
    except ValueError:
        raise BadName(f"no kind of document is called {kind_text[:16]!r}") from None
    check_id(about)
    if kind is not Kind.GROUP and about in RESERVED_DEVICE_IDS:
        raise BadName(f"{about!r} is a reserved word and cannot name a device")
    return DocumentName(kind, about)


def check_id(text: str) -> str:
    """Return `text` if it can name a device or a group.

    Raises:
        BadName: It cannot.
    """
    if not ID_PATTERN.match(text):
        raise BadName(
            f"{text[:64]!r} cannot name a device, group or deployment: use 1 to 63 of a-z, 0-9 "
            "and -, starting with a letter or digit"
        )
    return text


def client_id_allowed(writer: Side, client_id: int) -> bool:
    """Tell whether `client_id` lies in the range of `writer`."""
    if writer is Side.HUB:
        return HUB_CLIENT_ID_MIN <= client_id <= CLIENT_ID_MAX
    return 0 < client_id < HUB_CLIENT_ID_MIN


# Key prefixes. Stored on devices and hubs; never reuse one.
ACK = "a/"
VERSION = "v/"
FACT = "s/"
LOCAL = "c/"
CONFLICT = "x/"
WAITING = "w/"
DEPLOYMENT = "r/"
DESIRED = "d/"
TERMS = "t/"
FLAG = "f/"
KILL = "k/"
EXPOSURE = "e/"
OBEYED = "q/"
MEASURE = "m/"
EVENT = "n/"
CASE = "i/"


def ack_key(deployment: str, stage_code: str) -> str:
    """Return the key of the acknowledgement of one stage of one deployment."""
    return f"{ACK}{deployment}/{stage_code}"


def parse_ack_key(key: str) -> tuple[str, str] | None:
    """Return (deployment, stage code) if `key` is that of an acknowledgement, else None."""
    if not key.startswith(ACK):
        return None
    deployment, slash, code = key[len(ACK) :].rpartition("/")
    if not slash or not deployment or len(code) != 1:
        return None
    return deployment, code


def union(own: Mapping[str, bytes], theirs: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the live values of a writer that found writes it had lost.

    Acknowledgements that the other side holds were promised to be durable, so theirs stay.
    Settings carry a hybrid logical clock, so the newer one stays.
    Everything else describes the device as it is now, so the writer's own value stays.
    """
    merged = dict(theirs)
    for key, value in own.items():
        if key not in theirs:
            merged[key] = value
        elif key.startswith(ACK):
            continue
        elif key.startswith((LOCAL, CONFLICT)):
            merged[key] = newer_of(value, theirs[key])
        else:
            merged[key] = value
    return merged
