"""The chain of trust: which signed metadata is believed, in which order, and how old it may be.

Owns the order of root, timestamp, snapshot and targets metadata, and the one reason that each
refusal has. Pure: bytes in, a verdict out; time is an argument; `sync.metadata` reads one piece.
Costs 9 MB of memory to import, so a device does it in a process that exits.

Rule: believing and acting are two things. `add_*` believes newer metadata whatever the time is, so
that nothing that expires can lock a device out of what would cure it. `judge` says whether what is
believed is fresh enough to act on.

Source: The Update Framework specification 1.0.33, section 5 (detailed client workflow). Stricter in
one place: targets metadata may not become older as long as what is believed of it still verifies.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Final

from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, Targets, Timestamp

from sync.manifest import MANIFEST_BYTES_MAX
from sync.metadata import Refused, S, check_signatures, read, seconds, signed_at_s
from sync.stages import Reason

ROOTS_MAX: Final = 1024
"""Most roots that are followed at once: three years of daily rotation."""

TARGETS_FILE: Final = "targets.json"


@dataclass(frozen=True, slots=True)
class Target:
    """What the list of releases says of one manifest."""

    digest: bytes
    length_bytes: int


@dataclass(frozen=True, slots=True)
class Freshness:
    """How old what is believed is, judged by a time that certainly has passed."""

    overdue_s: int
    """How long ago the first of the four ran out; 0 while all are valid."""
    role: str
    """Which one that is."""


class Chain:
    """What one device or hub believes, grown step by step from a root that it was given.

    A method that raises `Refused` has changed nothing.
    """

    def __init__(self, root: bytes) -> None:
        """Begin with a root that is believed for reasons outside of this chain.

        Raises:
            Refused: It is no root, or is not signed by itself.
        """
        metadata = read(Root, root)
        check_signatures(metadata.signed, Root.type, metadata)
        self.root = metadata.signed
        self.timestamp: Timestamp | None = None
        self.snapshot: Snapshot | None = None
        self.targets: Targets | None = None

    # Believing.

    def add_root(self, content: bytes) -> None:
        """Believe the next root: signed by the one before it and by itself.

        If it replaces an online key, what the old one signed is forgotten, however far ahead its
        versions and times were.

        Raises:
            Refused: It is older, not the next, or lacks signatures.
        """
        metadata = read(Root, content)
        root = metadata.signed
        if root.version <= self.root.version:
            raise Refused(
                Reason.ROLLBACK, f"root {root.version} is offered, {self.root.version} is known"
            )
        if root.version != self.root.version + 1:
            raise Refused(
                Reason.MIX_AND_MATCH,
                f"root {root.version} is offered where {self.root.version + 1} has to come",
            )
        check_signatures(self.root, Root.type, metadata)
        check_signatures(root, Root.type, metadata)
        before, self.root = self.root, root
        if any(
            _keys(before, role) != _keys(root, role) for role in (Timestamp.type, Snapshot.type)
        ):
            self.timestamp = self.snapshot = None
            self.was_online_replaced = True
        if _keys(before, Targets.type) != _keys(root, Targets.type):
            self.targets = None

    def add_timestamp(self, content: bytes) -> bool:
        """Believe a timestamp; False if it is no newer than what is believed.

        Raises:
            Refused: It is older, or not signed by its keys.
        """
        metadata = read(Timestamp, content)
        check_signatures(self.root, Timestamp.type, metadata)
        offered, known = metadata.signed, self.timestamp
        if known is not None:
            _not_before(Timestamp.type, offered.version, known.version)
            _not_before(Snapshot.type, offered.snapshot_meta.version, known.snapshot_meta.version)
            if offered.version == known.version:
                return False
        self.timestamp = offered
        return True

    def add_snapshot(self, content: bytes) -> None:
        """Believe the snapshot that the timestamp names.

        Raises:
            Refused: It is another one, older, or not signed by its keys.
        """
        wanted = self.wanted_snapshot
        metadata = self._named(Snapshot, content, wanted)
        offered, known = metadata.signed, self.snapshot
        if TARGETS_FILE not in offered.meta:
            raise Refused(Reason.METADATA_INVALID, "the snapshot does not name the targets")
        named = offered.meta[TARGETS_FILE].version
        if known is not None:
            _not_before(Targets.type, named, known.meta[TARGETS_FILE].version)
        if self.targets is not None:
            _not_before(Targets.type, named, self.targets.version)
        self.snapshot = offered

    def add_targets(self, content: bytes) -> None:
        """Believe the list of releases that the snapshot names.

        Raises:
            Refused: It is another one, older, or not signed by its keys.
        """
        metadata = self._named(Targets, content, self.wanted_targets)
        if self.targets is not None:
            _not_before(Targets.type, metadata.signed.version, self.targets.version)
        self.targets = metadata.signed

    def restore(self, role: str, content: bytes) -> None:
        """Believe what was believed and stored before, as far as today's root still bears it out.

        Unlike `add_*` it does not have to fit together: power cuts come between two files.

        Raises:
            Refused: It is damaged, or of keys that are no longer named.
        """
        if role == Timestamp.type:
            self.timestamp = self._verified(Timestamp, content)
        elif role == Snapshot.type:
            snapshot = self._verified(Snapshot, content)
            if TARGETS_FILE not in snapshot.meta:
                raise Refused(Reason.METADATA_INVALID, "the snapshot does not name the targets")
            self.snapshot = snapshot
        else:
            self.targets = self._verified(Targets, content)

    def check_targets(self, content: bytes) -> Targets:
        """Return signed targets metadata that no snapshot names yet: what a publisher hands in.

        Raises:
            Refused: It is none, or not signed by its keys.
        """
        return self._verified(Targets, content)

    # What is to be asked for next.

    @property
    def wanted_snapshot(self) -> MetaFile:
        """What the timestamp says of the snapshot.

        Raises:
            Refused: There is no timestamp yet.
        """
        if self.timestamp is None:
            raise Refused(Reason.MIX_AND_MATCH, "there is no timestamp that names a snapshot")
        return self.timestamp.snapshot_meta

    @property
    def wanted_targets(self) -> MetaFile:
        """What the snapshot says of the targets.

        Raises:
            Refused: The snapshot is not the one that the timestamp names.
        """
        wanted = self.wanted_snapshot
        if self.snapshot is None or self.snapshot.version != wanted.version:
            raise Refused(Reason.MIX_AND_MATCH, f"snapshot {wanted.version} is missing")
        return self.snapshot.meta[TARGETS_FILE]

    @property
    def has_snapshot(self) -> bool:
        """Whether the snapshot is the one that the timestamp names."""
        return (
            self.timestamp is not None
            and self.snapshot is not None
            and self.snapshot.version == self.timestamp.snapshot_meta.version
        )

    @property
    def is_complete(self) -> bool:
        """Whether all four are there and of one moment."""
        return (
            self.has_snapshot
            and self.targets is not None
            and self.snapshot is not None
            and self.targets.version == self.snapshot.meta[TARGETS_FILE].version
        )

    # Acting.

    def find(self, component: str, version: str) -> Target | None:
        """Return what the list of releases says of a release; None if it is not on it.

        Raises:
            Refused: The list is not the one that the snapshot names.
        """
        if not self.is_complete or self.targets is None:
            raise Refused(Reason.MIX_AND_MATCH, "the list of releases is not complete yet")
        return target_in(self.targets, target_path(component, version))

    def judge(self, now_s: int) -> Freshness:
        """Return how long ago the first of the four ran out, if it is later than `now_s` (UTC)."""
        parts: tuple[Signed | None, ...] = (
            self.timestamp,
            self.snapshot,
            self.targets,
            self.root,
        )
        late = [(now_s - seconds(each.expires), each.type) for each in parts if each is not None]
        overdue_s, role = max(late)
        return Freshness(max(0, overdue_s), role)

    @property
    def online_id(self) -> int:
        """A number that stands for the online keys: times that others signed prove nothing."""
        named = sorted({*_keys(self.root, Timestamp.type), *_keys(self.root, Snapshot.type)})
        return int.from_bytes(hashlib.sha256("\n".join(named).encode()).digest()[:6], "big")

    def signed_s(self) -> int:
        """Return the latest time at which the online keys signed (UTC), 0 if none says.

        What people sign has no say: a laptop whose clock is ahead would stop a whole fleet until
        then, and no change of the online keys would mend it.
        """
        parts = (self.timestamp, self.snapshot)
        return max((signed_at_s(each) for each in parts if each is not None), default=0)

    # Within.

    def _verified(self, kind: type[S], content: bytes) -> S:
        metadata = read(kind, content)
        check_signatures(self.root, kind.type, metadata)
        return metadata.signed

    def _named(self, kind: type[S], content: bytes, named: MetaFile) -> "Metadata[S]":
        """Return metadata that is the one that was named, and signed."""
        if named.length is not None and len(content) != named.length:
            reason = Reason.ENDLESS if len(content) > named.length else Reason.WRONG_LENGTH
            raise Refused(
                reason, f"{kind.type} has {len(content)} bytes, {named.length} were announced"
            )
        digest = (named.hashes or {}).get("sha256")
        if digest is not None and hashlib.sha256(content).hexdigest() != digest:
            raise Refused(Reason.MIX_AND_MATCH, f"{kind.type} is not the one that was announced")
        metadata = read(kind, content)
        check_signatures(self.root, kind.type, metadata)
        if metadata.signed.version != named.version:
            raise Refused(
                Reason.MIX_AND_MATCH,
                f"{kind.type} {metadata.signed.version} is offered, {named.version} was announced",
            )
        return metadata


def require_release(target: Target | None, digest: bytes, length_bytes: int, *, name: str) -> None:
    """Check that a manifest of this digest and length is what the list of releases names.

    Raises:
        Refused: It is not, or is not on the list.
    """
    if target is None:
        raise Refused(Reason.UNSIGNED, f"{name} is not on the signed list of releases")
    if digest != target.digest:
        raise Refused(Reason.UNSIGNED, f"another manifest of {name} is signed than this one")
    if length_bytes != target.length_bytes:
        raise Refused(
            Reason.WRONG_LENGTH,
            f"the manifest of {name} has {length_bytes} bytes, {target.length_bytes} are signed",
        )


def target_path(component: str, version: str) -> str:
    """Return the name of a release's manifest in the list of releases."""
    return f"{component}/{version}.json"


def target_in(targets: Targets, path: str) -> Target | None:
    """Return what `targets` says of `path`; None if it says nothing that can be used."""
    found = targets.targets.get(path)
    if found is None:
        return None
    digest = found.hashes.get("sha256", "")
    is_usable = len(digest) == hashlib.sha256().digest_size * 2 and found.length > 0
    if not is_usable or found.length > MANIFEST_BYTES_MAX:
        return None
    try:
        return Target(bytes.fromhex(digest), found.length)
    except ValueError:
        return None


def _keys(root: Root, role: str) -> frozenset[str]:
    return frozenset(
        json.dumps(root.keys[keyid].to_dict(), sort_keys=True)
        for keyid in root.roles[role].keyids
        if keyid in root.keys
    )


def _not_before(role: str, offered: int, known: int) -> None:
    if offered < known:
        raise Refused(Reason.ROLLBACK, f"{role} {offered} is offered, {known} is known")
