"""What the hub does for trust: takes metadata that verifies, says which is current, serves it.

Owns the order: check against the root, store, sign snapshot and timestamp anew, all in one
transaction. Holds online keys only, so it can sign no release and name no key.
"""

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, TypeVar

import msgspec
from tuf.api.metadata import Root, Snapshot, Targets, Timestamp
from tuf.api.metadata import Signed as TufSigned

from hub.errors import Clash, NotFound, WrongContent
from hub.store import trust as store
from hub.store.database import Connection
from hub.store.trust import Signed
from hub.trust.form import CLOCKS_APART_MAX_S
from hub.trust.online import OnlineKeys
from hub.trust.repository import (
    LIFETIME_S,
    left_s,
    make_snapshot,
    make_timestamp,
    read,
    sign,
)
from sync.manifest import Manifest
from sync.metadata import Refused, seconds, signed_at_s
from sync.trust import Chain, target_in, target_path

TIMESTAMP_AGE_MAX_S: Final = 3600
"""A timestamp that is asked for and older than this is signed anew."""

OFFERED: Final = "offered"
"""Under this name the offer of online keys is kept beside the roles, so that it changes together
with the row of the audit."""

T = TypeVar("T")

_NAME: Final = re.compile(r"(?:([1-9][0-9]{0,15})\.(root|snapshot|targets)|timestamp)\.json")


def is_rooted(connection: Connection) -> bool:
    """Tell whether this hub has a root: then it publishes nothing that is not signed."""
    return store.latest(connection, Root.type) is not None


def hand_in(
    connection: Connection,
    keys: OnlineKeys,
    roots: Sequence[bytes],
    targets: bytes | None,
    *,
    now_ms: int,
) -> None:
    """Take roots, in order, and a list of releases, then sign what is current; all or nothing.

    What is here already is passed over, so handing in twice changes nothing.

    Raises:
        WrongContent: Something does not verify; says what and why.
        Clash: There is no root, or the hub lacks the online keys that the last one names.
    """
    chain = _chain(connection)
    first = chain.root.version if chain is not None else 0
    for content in roots:
        chain = _with_root(connection, chain, content, now_ms)
    if chain is None:
        raise Clash("this hub has no root yet: hand it one in with `fieldfare keys push`")
    known = store.latest(connection, Targets.type)
    is_new = targets is not None and (known is None or known.content != targets)
    if targets is not None and is_new:
        known = _with_targets(connection, chain, known, Signed(0, targets, now_ms))
    if known is None or not (is_new or chain.root.version > first):
        return
    if chain.targets is None:
        raise WrongContent(
            "the root names other targets keys, so the list of releases has to be signed anew: "
            "hand both in together (`fieldfare keys push`)"
        )
    _name_current(connection, keys, chain.root, known, now_ms)


def find(connection: Connection, name: str) -> bytes:
    """Return metadata by the name under which it is served.

    Raises:
        NotFound: There is none of this name; for a root that means that there is no later one.
    """
    matched = _NAME.fullmatch(name)
    found: bytes | None = None
    if matched is not None and matched[1] is None:
        newest = store.latest(connection, Timestamp.type)
        found = newest.content if newest is not None else None
    elif matched is not None:
        found = store.of_version(connection, matched[2], int(matched[1]))
    if found is None:
        raise NotFound(f"there is no metadata {name[:60]!r} here")
    return found


def newest_root(connection: Connection) -> bytes:
    """Return the newest root.

    Raises:
        NotFound: There is none yet.
    """
    found = store.latest(connection, Root.type)
    if found is None:
        raise NotFound("there is no root here yet: `fieldfare keys init`, then publish a release")
    return found.content


def is_due(connection: Connection, now_ms: int) -> bool:
    """Tell whether the timestamp is old enough to be signed anew."""
    newest = store.latest(connection, Timestamp.type)
    return newest is not None and not 0 <= now_ms - newest.stored_ms < TIMESTAMP_AGE_MAX_S * 1000


def renew(connection: Connection, keys: OnlineKeys, *, now_ms: int) -> None:
    """Sign the timestamp anew, and the snapshot in the second half of its term.

    Raises:
        Clash: The hub lacks the online keys that the root names.
    """
    root = store.latest(connection, Root.type)
    snapshot = store.latest(connection, Snapshot.type)
    targets = store.latest(connection, Targets.type)
    if root is None or snapshot is None or targets is None or not is_due(connection, now_ms):
        return
    current = read(Root, root.content)
    now_s = now_ms // 1000
    if left_s(read(Snapshot, snapshot.content), now_s) < LIFETIME_S[Snapshot.type] // 2:
        _name_current(connection, keys, current, targets, now_ms)
    else:
        _sign_timestamp(connection, keys, current, snapshot, now_ms)


def require_listed(connection: Connection, manifest: Manifest) -> None:
    """Check that a hub with a root publishes only what is on its signed list.

    Raises:
        Clash: This release is not, or was signed with other content.
    """
    name = f"{manifest.component}@{manifest.version}"
    if not is_rooted(connection):
        return
    path = target_path(manifest.component, manifest.version)
    if listed(connection).get(path) != manifest.digest():
        raise Clash(
            f"{name} is not on the signed list of releases, and this hub has a root: build it with "
            "`fieldfare release build`, which signs; what other holders have to sign too is handed "
            "in with `fieldfare keys push` first"
        )


def listed(connection: Connection) -> dict[str, bytes]:
    """Return the digests of the manifests on the signed list, by their names there."""
    newest = store.latest(connection, Targets.type)
    if newest is None:
        return {}
    targets = read(Targets, newest.content)
    found = {path: target_in(targets, path) for path in targets.targets}
    return {path: target.digest for path, target in found.items() if target is not None}


def offered(connection: Connection, keys: OnlineKeys) -> dict[str, dict[str, object]]:
    """Return the public online keys that the next root should name, by role."""
    newest = store.latest(connection, OFFERED)
    if newest is None:
        return keys.first()
    found: dict[str, dict[str, object]] = msgspec.json.decode(newest.content)
    return found


def offer(connection: Connection, public: dict[str, dict[str, object]], *, now_ms: int) -> None:
    """Offer these keys from now on."""
    newest = store.latest(connection, OFFERED)
    version = 1 if newest is None else newest.version + 1
    row = Signed(version, msgspec.json.encode(public), now_ms)
    store.save(connection, OFFERED, row, keeps_all=False)


def forget_former(connection: Connection, keys: OnlineKeys) -> None:
    """Remove the online keys that neither the latest root names nor the next one may."""
    newest = store.latest(connection, Root.type)
    if newest is not None:
        keys.forget_all_but(read(Root, newest.content), offered(connection, keys))


def view(connection: Connection, keys: OnlineKeys) -> dict[str, Any]:
    """Return what people and programs may know of this hub's trust."""
    shown: dict[str, Any] = {"online": offered(connection, keys), "roles": {}}
    kinds: tuple[type[TufSigned], ...] = (Root, Targets, Snapshot, Timestamp)
    for kind in kinds:
        newest = store.latest(connection, kind.type)
        if newest is not None:
            signed = read(kind, newest.content)
            shown["roles"][kind.type] = {
                "version": newest.version,
                "expires_at_ms": seconds(signed.expires) * 1000,
                "stored_at_ms": newest.stored_ms,
            }
    return shown


def _chain(connection: Connection) -> Chain | None:
    """Return what this hub believes: its latest root, and the list that this one bears out."""
    root = store.latest(connection, Root.type)
    if root is None:
        return None
    chain = Chain(root.content)
    targets = store.latest(connection, Targets.type)
    if targets is not None:
        with contextlib.suppress(Refused):  # never so: root and list change together
            chain.restore(Targets.type, targets.content)
    return chain


def _with_root(connection: Connection, chain: Chain | None, content: bytes, now_ms: int) -> Chain:
    if chain is None:
        chain = _taken(lambda: Chain(content))
        if chain.root.version != 1:
            raise WrongContent(
                f"the first root of a hub is root 1, not {chain.root.version}: devices that know "
                "an older one need the way from there (`fieldfare keys push` hands in all)"
            )
    elif store.of_version(connection, Root.type, _version(content)) == content:
        return chain
    else:
        _taken(lambda: chain.add_root(content))
    saved = Signed(chain.root.version, content, now_ms)
    store.save(connection, Root.type, saved, keeps_all=True)
    return chain


def _with_targets(
    connection: Connection, chain: Chain, known: Signed | None, offered: Signed
) -> Signed:
    targets = _taken(lambda: chain.check_targets(offered.content))
    _check_term(targets, offered.stored_ms // 1000)
    if known is not None and targets.version <= known.version:
        raise Clash(
            f"the hub has list of releases {known.version}, and this one is {targets.version}: "
            "take the hub's with `fieldfare keys pull`, then build again"
        )
    saved = Signed(targets.version, offered.content, offered.stored_ms)
    store.save(connection, Targets.type, saved, keeps_all=False)
    chain.targets = targets
    return saved


def _check_term(targets: Targets, now_s: int) -> None:
    """Check that the clock by which a list was signed was about right."""
    name = f"list of releases {targets.version}"
    again = "set the clock that is wrong and sign it again (`fieldfare keys renew targets`)"
    if signed_at_s(targets) - now_s > CLOCKS_APART_MAX_S:
        raise WrongContent(f"{name} says that it was signed later than this hub's now: {again}")
    if left_s(targets, now_s) <= 0:
        raise WrongContent(f"{name} has run out by this hub's clock: {again}")


def _version(content: bytes) -> int:
    try:
        found = msgspec.json.decode(content)["signed"]["version"]
        return found if isinstance(found, int) else 0
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError, RecursionError):
        return 0


def _name_current(
    connection: Connection, keys: OnlineKeys, root: Root, targets: Signed, now_ms: int
) -> None:
    """Sign a snapshot that names `targets`, and a timestamp that names the snapshot."""
    snapshot = _sign_next(connection, keys, root, Snapshot.type, targets, now_ms)
    _sign_timestamp(connection, keys, root, snapshot, now_ms)


def _sign_timestamp(
    connection: Connection, keys: OnlineKeys, root: Root, snapshot: Signed, now_ms: int
) -> None:
    _sign_next(connection, keys, root, Timestamp.type, snapshot, now_ms)


_MAKERS: Final[Mapping[str, Callable[..., Snapshot | Timestamp]]] = MappingProxyType(
    {Snapshot.type: make_snapshot, Timestamp.type: make_timestamp}
)


def _sign_next(
    connection: Connection,
    keys: OnlineKeys,
    root: Root,
    role: str,
    named: Signed,
    now_ms: int,
) -> Signed:
    """Sign the next metadata of `role`, which names `named`; keep it and return it."""
    before = store.latest(connection, role)
    made = _MAKERS[role](
        named.content,
        named.version,
        before=before.version if before is not None else 0,
        now_s=now_ms // 1000,
    )
    saved = Signed(made.version, sign(made, [keys.signer(root, role)]), now_ms)
    store.save(connection, role, saved, keeps_all=False)
    return saved


def _taken(check: Callable[[], T]) -> T:
    try:
        return check()
    except Refused as refused:
        raise WrongContent(refused.detail) from None
