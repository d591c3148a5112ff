"""Metadata of The Update Framework, made: roots, lists of releases, snapshots and timestamps.

Owns their lifetimes, their versions and their byte form. Pure: keys and time are arguments, and
nothing is written. What is believed of the result is decided in `sync.trust`.
"""

import copy
import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final, TypeVar

from securesystemslib.exceptions import FormatError
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import Key, Signer
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from sync.manifest import Manifest
from sync.metadata import SIGNED_AT, TIME_FORMAT
from sync.trust import TARGETS_FILE, target_path

R = TypeVar("R", bound=Signed)

DAY_S: Final = 86_400

LIFETIME_S: Final[Mapping[str, int]] = MappingProxyType(
    {
        Root.type: 730 * DAY_S,
        Targets.type: 365 * DAY_S,
        Snapshot.type: 30 * DAY_S,
        Timestamp.type: 7 * DAY_S,
    }
)
"""How long metadata is valid. What people sign lasts long; what the hub signs it signs anew."""

ONLINE: Final = (Snapshot.type, Timestamp.type)
OFFLINE: Final = (Root.type, Targets.type)

CUSTOM: Final = "fieldfare"
"""Our part of a target's `custom` field."""

_KEY_FIELDS: Final = frozenset({"keytype", "scheme", "keyval"})


@dataclass(frozen=True, slots=True)
class RoleKeys:
    """The public keys of one role, and how many of them have to sign."""

    keys: tuple[Key, ...]
    threshold: int


def make_root(roles: Mapping[str, RoleKeys], *, version: int, now_s: int) -> Root:
    """Return a root that names these keys.

    Args:
        roles: For each of the four roles.
        version: 1 for the first; each later one is the next.
        now_s: Time of signing, seconds UTC.
    """
    root = Root(
        version=version,
        expires=_expires(Root.type, now_s),
        consistent_snapshot=True,
        unrecognized_fields=_signed_at(now_s),
    )
    for role, named in roles.items():
        for key in named.keys:
            root.add_key(key, role)
        root.roles[role].threshold = named.threshold
    return root


def role_keys(root: Root, role: str) -> RoleKeys:
    """Return what a root says of one role."""
    named = root.roles[role]
    return RoleKeys(tuple(root.keys[keyid] for keyid in named.keyids), named.threshold)


def is_key_of(keyid: str, key: Key) -> bool:
    """Tell whether this is the key that `keyid` stands for, and nothing besides.

    python-tuf takes an id for a name that anybody may choose. Under the id of another key a key
    would take that one's place in a root, in every role.

    Source: The Update Framework specification 1.0.33, section 4.2 (the id is the SHA-256 of the
    key's canonical form).
    """
    fields = key.to_dict()
    if set(fields) != _KEY_FIELDS:
        return False
    try:
        canonical = encode_canonical(fields)
    except FormatError:  # a number with a fraction, as in no key
        return False
    return canonical is not None and hashlib.sha256(canonical.encode()).hexdigest() == keyid


def make_targets(*, now_s: int) -> Targets:
    """Return the first, empty list of releases."""
    return Targets(
        version=1, expires=_expires(Targets.type, now_s), unrecognized_fields=_signed_at(now_s)
    )


def with_release(targets: Targets, manifest: Manifest, *, now_s: int) -> Targets:
    """Return the next list of releases, which also has this one."""
    later = next_targets(targets, now_s=now_s)
    content = manifest.canonical()
    path = target_path(manifest.component, manifest.version)
    custom = {"owner": manifest.owner, "outcomes": list(manifest.outcomes)}
    if manifest.unmeasured:
        custom["unmeasured"] = manifest.unmeasured
    later.targets[path] = TargetFile(
        len(content),
        {"sha256": hashlib.sha256(content).hexdigest()},
        path,
        {"custom": {CUSTOM: custom}},
    )
    return later


def without_release(targets: Targets, component: str, version: str, *, now_s: int) -> Targets:
    """Return the next list of releases, which lacks this one."""
    later = next_targets(targets, now_s=now_s)
    later.targets.pop(target_path(component, version), None)
    return later


def next_targets(targets: Targets, *, now_s: int) -> Targets:
    """Return the same list with the next version and a new term."""
    later = copy.deepcopy(targets)
    later.version = targets.version + 1
    later.expires = _expires(Targets.type, now_s)
    later.unrecognized_fields.update(_signed_at(now_s))
    return later


def make_snapshot(targets: bytes, targets_version: int, *, before: int, now_s: int) -> Snapshot:
    """Return the snapshot that names one list of releases.

    Its version is the time, so that a hub that was put back from a backup goes on above what it
    has signed before, as long as its clock is right.

    Args:
        targets: The signed list, as it is served.
        targets_version: Its version.
        before: Version of the snapshot before this one, 0 for none.
        now_s: Time of signing, seconds UTC.
    """
    return Snapshot(
        version=max(before + 1, now_s),
        expires=_expires(Snapshot.type, now_s),
        meta={TARGETS_FILE: _named(targets, targets_version)},
        unrecognized_fields=_signed_at(now_s),
    )


def make_timestamp(snapshot: bytes, snapshot_version: int, *, before: int, now_s: int) -> Timestamp:
    """Return the timestamp that names one snapshot; arguments as for `make_snapshot`."""
    return Timestamp(
        version=max(before + 1, now_s),
        expires=_expires(Timestamp.type, now_s),
        snapshot_meta=_named(snapshot, snapshot_version),
        unrecognized_fields=_signed_at(now_s),
    )


def sign(signed: Root | Timestamp | Snapshot | Targets, signers: Iterable[Signer]) -> bytes:
    """Return signed metadata as bytes.

    Raises:
        tuf.api.metadata.UnsignedMetadataError: A signer cannot sign.
    """
    metadata: Metadata[Any] = Metadata(signed)
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes(JSONSerializer(compact=True))


def read(kind: type[R], content: bytes) -> R:
    """Return the signed part of metadata that was verified before."""
    metadata: Metadata[Any] = Metadata.from_bytes(content)
    if not isinstance(metadata.signed, kind):
        raise TypeError(f"{metadata.signed.type} where {kind.type} was expected")
    return metadata.signed


def left_s(signed: Signed, now_s: int) -> int:
    """Return how many seconds it is still valid; negative once it has run out."""
    return int(signed.expires.timestamp()) - now_s


def file_name(role: str, version: int) -> str:
    """Return the name under which metadata is served and carried."""
    return f"{role}.json" if role == Timestamp.type else f"{version}.{role}.json"


def releases_in(targets: Targets) -> Sequence[str]:
    """Return the names of the manifests on a list of releases."""
    return sorted(targets.targets)


def _named(content: bytes, version: int) -> MetaFile:
    return MetaFile(
        version=version,
        length=len(content),
        hashes={"sha256": hashlib.sha256(content).hexdigest()},
    )


def _expires(role: str, now_s: int) -> datetime:
    return datetime.fromtimestamp(now_s, UTC) + timedelta(seconds=LIFETIME_S[role])


def _signed_at(now_s: int) -> dict[str, Any]:
    return {SIGNED_AT: time.strftime(TIME_FORMAT, time.gmtime(now_s))}
