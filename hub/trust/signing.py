"""What an operator signs: the first root, later ones, and lists of releases.

Owns the order in which files are written, so that one that is interrupted can be repeated: keys,
then what they signed, and last the root that names them. Never speaks to a hub.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tuf.api.metadata import Metadata, Root, Targets

from hub.trust.drafts import FOLDER, Draft, settle, signed_here, waiting
from hub.trust.keys import FILE_SCHEME, KeyFolder, KeysUnusable, Known, Passphrase, short
from hub.trust.online import key_from
from hub.trust.repository import (
    OFFLINE,
    ONLINE,
    RoleKeys,
    make_root,
    make_targets,
    next_targets,
    role_keys,
    sign,
    with_release,
    without_release,
)
from sync.manifest import Manifest
from sync.metadata import Refused, read
from sync.trust import Chain, target_in, target_path

ONLINE_ROLES: Final = "online"
"""How a person calls the two roles that the hub signs."""

KEYS_MAX_COUNT: Final = 20

KEYID_CHARACTERS_MIN: Final = 8
"""A person may name a key by so many of its first characters."""

OTHER_WAITS: Final = (
    "another {what} waits to be signed: {file}; have it signed with `fieldfare keys sign`, "
    "or remove it"
)

MEASURE: Final = (
    "{name} has no {missing}, so nobody will know how it fared: "
    'give both in its description, or say why not with --unmeasured "reason"'
)


@dataclass(frozen=True, slots=True)
class Quorum:
    """How many keys a role has, and how many of them must sign."""

    count: int
    threshold: int


@dataclass(frozen=True, slots=True)
class KeyChange:
    """What becomes different in one offline role."""

    adds: Sequence[Known] = ()
    drops: Sequence[str] = ()
    """Ids of keys, or how they begin."""
    threshold: int | None = None
    """How many have to sign from now on; None for as many as before."""


def begin(
    folder: KeyFolder,
    online: Mapping[str, dict[str, object]],
    quorums: Mapping[str, Quorum],
    passphrase: Passphrase,
    *,
    now_s: int,
) -> Root:
    """Make keys, the first root and an empty list of releases; return the root.

    Args:
        folder: Where to; nothing may be there yet.
        online: Public keys of the hub, as it offers them.
        quorums: For `root` and `targets`.
        passphrase: Protects every key file.
        now_s: Time of signing, seconds UTC.

    Raises:
        KeysUnusable: There are keys already, or something cannot be written.
    """
    if folder.roots():
        raise KeysUnusable(f"there are keys in {folder.folder} already; they were not touched")
    for role, quorum in quorums.items():
        if not 1 <= quorum.threshold <= quorum.count <= KEYS_MAX_COUNT:
            raise KeysUnusable(
                f"{quorum.threshold} of {quorum.count} {role} keys cannot be: "
                f"the threshold is 1 to the number of keys, which is {KEYS_MAX_COUNT} at most"
            )
    made = {
        role: [folder.make(role, passphrase()) for _ in range(quorums[role].count)]
        for role in OFFLINE
    }
    folder.add([each for keys in made.values() for each in keys])
    offline = {
        role: RoleKeys(tuple(each.key() for each in keys), quorums[role].threshold)
        for role, keys in made.items()
    }
    root = make_root({**offline, **online_roles(online)}, version=1, now_s=now_s)
    targets = make_targets(now_s=now_s)
    folder.keep_targets(sign(targets, folder.signers_of(made[Targets.type], passphrase)))
    folder.keep_root(1, sign(root, folder.signers_of(made[Root.type], passphrase)))
    return root


def online_roles(online: Mapping[str, dict[str, object]]) -> dict[str, RoleKeys]:
    """Return the online roles with the keys that a hub offers.

    Raises:
        KeysUnusable: Something else was offered.
    """
    try:
        return {role: RoleKeys((key_from(online[role]),), 1) for role in ONLINE}
    except (KeyError, ValueError) as error:
        raise KeysUnusable(f"the hub's online keys cannot be used: {error}") from None


def change_keys(
    folder: KeyFolder, role: str, change: KeyChange, passphrase: Passphrase, *, now_s: int
) -> Root:
    """Change which keys an offline role has, or how many of them sign, and return the next root.

    Raises:
        KeysUnusable: The change leaves fewer keys than have to sign, drops one that is not there,
            or something cannot be read or written.
        MoreMustSign: Others have to sign it; it waits in a file.
    """
    before = folder.root()
    named = role_keys(before, role)
    dropped = {_one_of(named, role, each) for each in change.drops}
    kept = [key for key in named.keys if key.keyid not in dropped]
    keys = (*kept, *(each.key() for each in change.adds))
    threshold = named.threshold if change.threshold is None else change.threshold
    if not 1 <= threshold <= len(keys) <= KEYS_MAX_COUNT:
        raise KeysUnusable(
            f"{role} would have {len(keys)} keys of which {threshold} sign: there are at most "
            f"{KEYS_MAX_COUNT}, and as many as have to sign at least; "
            "--add makes one more, --threshold says how many sign"
        )
    folder.add(change.adds)
    targets = None
    if role == Targets.type:
        targets = next_targets(folder.targets()[0], now_s=now_s)
    changed = {role: RoleKeys(keys, threshold)}
    return _next_root(folder, before, changed, passphrase, targets=targets, now_s=now_s)


def replaceable(folder: KeyFolder, role: str) -> list[Known]:
    """Return the keys of a role that are files here: whoever holds them may replace them.

    Raises:
        KeysUnusable: There are none.
    """
    found = [
        each
        for each in folder.known(role)
        if each.signer.startswith(FILE_SCHEME) and folder.has(each)
    ]
    if not found:
        raise KeysUnusable(
            f"no key file of {role} is in {folder.folder}, so there is none to replace: --add "
            "makes one more, --drop KEYID takes one off"
        )
    return found


def _one_of(named: RoleKeys, role: str, beginning: str) -> str:
    found = [key.keyid for key in named.keys if key.keyid.startswith(beginning)]
    if len(found) == 1 and len(beginning) >= KEYID_CHARACTERS_MIN:
        return found[0]
    there = ", ".join(short(key.keyid) for key in named.keys)
    raise KeysUnusable(f"{beginning[:64]!r} names no one key of {role}; it has {there}")


def renew(folder: KeyFolder, role: str, passphrase: Passphrase, *, now_s: int) -> None:
    """Sign the root or the list of releases again as it is, with a new term.

    Raises:
        KeysUnusable: Something cannot be read or written.
        MoreMustSign: Others have to sign it; it waits in a file.
    """
    if role == Targets.type:
        _list(folder, next_targets(folder.targets()[0], now_s=now_s), passphrase, now_s=now_s)
    else:
        _next_root(folder, folder.root(), {}, passphrase, now_s=now_s)


def replace_online(
    folder: KeyFolder,
    online: Mapping[str, dict[str, object]],
    passphrase: Passphrase,
    *,
    now_s: int,
) -> Root:
    """Name other online keys, and return the next root.

    Raises:
        KeysUnusable: Something cannot be read or written.
    """
    return _next_root(folder, folder.root(), online_roles(online), passphrase, now_s=now_s)


def list_release(
    folder: KeyFolder, manifest: Manifest, passphrase: Passphrase, *, now_s: int
) -> bytes:
    """Return a signed list of releases with this one on it; the same one again signs nothing.

    Raises:
        KeysUnusable: It cannot be measured and does not say why, this version was signed with
            other content, or something cannot be read or written.
    """
    require_measured(manifest)
    name = f"{manifest.component}@{manifest.version}"
    targets, content = folder.targets()
    listed = target_in(targets, target_path(manifest.component, manifest.version))
    if listed is not None:
        if listed.digest == manifest.digest():
            return content
        raise KeysUnusable(
            f"{name} was signed before with other content ({listed.digest.hex()[:16]}): "
            "what was released never changes, so give this one another version"
        )
    return _list(folder, with_release(targets, manifest, now_s=now_s), passphrase, now_s=now_s)


def require_measured(manifest: Manifest) -> None:
    """Check that somebody will know how a release fared, or has said why not.

    Raises:
        KeysUnusable: Owner or outcomes are missing, and there is no reason.
    """
    if manifest.says_how_it_is_judged:
        return
    missing = [
        word
        for word, there in (("owner", manifest.owner.strip()), ("outcome", manifest.outcomes))
        if not there
    ]
    name = f"{manifest.component}@{manifest.version}"
    raise KeysUnusable(MEASURE.format(name=name, missing=" and no ".join(missing)))


def unlist_release(
    folder: KeyFolder, component: str, version: str, passphrase: Passphrase, *, now_s: int
) -> bytes:
    """Return a signed list of releases without this one.

    Raises:
        KeysUnusable: It is not on the list, or something cannot be read or written.
    """
    targets, _ = folder.targets()
    if target_in(targets, target_path(component, version)) is None:
        raise KeysUnusable(f"{component}@{version} is not on the signed list of releases")
    later = without_release(targets, component, version, now_s=now_s)
    return _list(folder, later, passphrase, now_s=now_s)


def take_from_hub(folder: KeyFolder, roots: Sequence[bytes], targets: bytes | None) -> None:
    """Keep what another operator has signed since: newer roots and the newer list of releases.

    Raises:
        KeysUnusable: It does not verify from the root that is here.
    """
    known = folder.roots()
    try:
        chain = Chain(known[-1])
        taken = []
        for content in roots:
            if read(Root, content).signed.version > chain.root.version:
                chain.add_root(content)
                taken.append((chain.root.version, content))
        newer = chain.check_targets(targets) if targets is not None else None
    except IndexError:
        raise KeysUnusable(f"there is no root in {folder.folder}: fieldfare keys init") from None
    except Refused as refused:
        raise KeysUnusable(f"what the hub has does not verify: {refused.detail}") from None
    if targets is not None and newer is not None and newer.version > folder.targets()[0].version:
        folder.keep_targets(targets)
    for version, content in taken:
        folder.keep_root(version, content)


def _list(folder: KeyFolder, targets: Targets, passphrase: Passphrase, *, now_s: int) -> bytes:
    draft = Draft(targets=Metadata(targets))
    before = waiting(folder, draft.name)
    if before is not None and before.targets is not None:
        if before.targets.signed.targets != targets.targets:
            raise _other_waits("list of releases", folder, draft)
        draft = before
    signed_here(folder, draft, passphrase)
    settle(folder, draft, now_s=now_s)
    return folder.targets()[1]


def _next_root(
    folder: KeyFolder,
    before: Root,
    changed: Mapping[str, RoleKeys],
    passphrase: Passphrase,
    *,
    now_s: int,
    targets: Targets | None = None,
) -> Root:
    roles: dict[str, RoleKeys] = {
        role: role_keys(before, role) for role in (*OFFLINE, *ONLINE)
    } | dict(changed)
    root = make_root(roles, version=before.version + 1, now_s=now_s)
    draft = Draft(Metadata(root), Metadata(targets) if targets is not None else None)
    if any((folder.folder / FOLDER).glob(f"{root.version}.root*.json")):
        # Made twice it has other keys or another time: what others signed already would be lost.
        raise _other_waits("root", folder, draft)
    signed_here(folder, draft, passphrase)
    settle(folder, draft, now_s=now_s)
    return root


def _other_waits(what: str, folder: KeyFolder, draft: Draft) -> KeysUnusable:
    first = draft.parts[0].signed
    there = sorted((folder.folder / FOLDER).glob(f"{first.version}.{first.type}*.json"))
    return KeysUnusable(OTHER_WAITS.format(what=what, file=", ".join(map(str, there))))
