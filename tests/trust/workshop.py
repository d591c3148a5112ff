"""A repository of signed releases in memory: keys, roots, lists, and what a source would serve."""

from collections.abc import Callable
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root

from hub.trust.repository import (
    RoleKeys,
    make_root,
    make_snapshot,
    make_targets,
    make_timestamp,
    next_targets,
    sign,
    with_release,
    without_release,
)
from sync.manifest import Artifact, Health, Manifest
from sync.trust import Chain

NOW_S = 1_800_000_000
DAY_S = 86_400
ROLES = ("root", "targets", "snapshot", "timestamp")


def lamp(version: str) -> Manifest:
    """Return a manifest."""
    return Manifest(
        component="lamp",
        version=version,
        artifacts=(Artifact(name="tree.tar.gz", sha256="a" * 64, length_bytes=10),),
        health=Health(command=("true",)),
        owner="lights@example.org",
        outcomes=("adoption",),
    )


class Workshop:
    """Whoever holds all keys. `files` is what a hub serves."""

    def __init__(self, *, offline_count: int = 1, threshold: int = 1, now_s: int = NOW_S) -> None:
        self.signers = {
            role: [CryptoSigner.generate_ed25519() for _ in range(offline_count if offline else 1)]
            for role, offline in zip(ROLES, (True, True, False, False), strict=True)
        }
        self.thresholds = {"root": threshold, "targets": threshold, "snapshot": 1, "timestamp": 1}
        self.files: dict[str, bytes] = {}
        self.root = self._root(1, now_s)
        self.pinned = self.sign_root(self.root, self.signers["root"])
        self.targets = make_targets(now_s=now_s)
        self.snapshot_version = self.timestamp_version = 0
        self.issue(now_s)

    def release(self, *manifests: Manifest, now_s: int = NOW_S + 1) -> None:
        for manifest in manifests:
            self.targets = with_release(self.targets, manifest, now_s=now_s)
        self.issue(now_s)

    def withdraw(self, manifest: Manifest, *, now_s: int) -> None:
        self.targets = without_release(
            self.targets, manifest.component, manifest.version, now_s=now_s
        )
        self.issue(now_s)

    def issue(self, now_s: int) -> None:
        """Sign everything but the root as it stands."""
        targets = sign(self.targets, self.signers["targets"])
        self.files[f"{self.targets.version}.targets.json"] = targets
        self.issue_online(targets, now_s)

    def issue_online(self, targets: bytes, now_s: int, *, version: int | None = None) -> None:
        """Sign what the hub signs."""
        snapshot = make_snapshot(
            targets, version or self.targets.version, before=self.snapshot_version, now_s=now_s
        )
        self.snapshot_version = snapshot.version
        content = sign(snapshot, self.signers["snapshot"])
        self.files[f"{snapshot.version}.snapshot.json"] = content
        timestamp = make_timestamp(
            content, snapshot.version, before=self.timestamp_version, now_s=now_s
        )
        self.timestamp_version = timestamp.version
        self.files["timestamp.json"] = sign(timestamp, self.signers["timestamp"])

    def rotate(self, *roles: str, now_s: int = NOW_S + 10) -> None:
        """Replace the keys of roles and sign the next root; lists are signed anew."""
        before = self.signers["root"]
        for role in roles:
            self.signers[role] = [CryptoSigner.generate_ed25519() for _ in self.signers[role]]
        self.root = self._root(self.root.version + 1, now_s)
        self.sign_root(self.root, [*before, *self.signers["root"]])
        if "targets" in roles:
            self.targets = next_targets(self.targets, now_s=now_s)
        self.issue(now_s)

    def sign_root(self, root: Root, signers: list[CryptoSigner]) -> bytes:
        content = sign(root, {each.public_key.keyid: each for each in signers}.values())
        self.files[f"{root.version}.root.json"] = content
        return content

    def edit(
        self, name: str, change: Callable[[Metadata[Any]], None], *, role: str | None = None
    ) -> None:
        """Change served metadata; signed again by `role`, or left with signatures that are void."""
        metadata: Metadata[Any] = Metadata.from_bytes(self.files[name])
        change(metadata)
        if role is not None:
            metadata.signatures.clear()
            for each in self.signers[role]:
                metadata.sign(each, append=True)
        self.files[name] = metadata.to_bytes()

    def chain(self) -> Chain:
        """Return what a device believes that was handed everything."""
        chain = Chain(self.pinned)
        while (name := f"{chain.root.version + 1}.root.json") in self.files:
            chain.add_root(self.files[name])
        chain.add_timestamp(self.files["timestamp.json"])
        chain.add_snapshot(self.files[f"{chain.wanted_snapshot.version}.snapshot.json"])
        chain.add_targets(self.files[f"{chain.wanted_targets.version}.targets.json"])
        return chain

    def _root(self, version: int, now_s: int) -> Root:
        roles = {
            role: RoleKeys(
                tuple(each.public_key for each in self.signers[role]), self.thresholds[role]
            )
            for role in ROLES
        }
        return make_root(roles, version=version, now_s=now_s)


class Served:
    """A source that serves a workshop's files, as they are or spoiled."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.asked: list[str] = []

    def get(self, name: str, bytes_max: int) -> bytes | None:
        self.asked.append(name)
        return self.files.get(name)
