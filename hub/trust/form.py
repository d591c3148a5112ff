"""What a person may be asked to sign: metadata that holds nothing beside what is shown of it.

Owns the check of a root or list of releases that somebody else has made. A signer is shown lines of
text; whatever a line would not tell, or would tell wrongly, must not be there. Pure.
"""

import json
import re
from collections.abc import Iterable
from typing import Any, Final

from tuf.api.metadata import Root, TargetFile, Targets

from hub.trust.keys import KeysUnusable, short
from hub.trust.repository import is_key_of
from sync.manifest import COMPONENT_PATTERN, DIGEST_PATTERN, MANIFEST_BYTES_MAX, VERSION_PATTERN
from sync.metadata import SIGNED_AT, signed_at_s

CLOCKS_APART_MAX_S: Final = 3600
"""So far two clocks may be apart: what is signed further ahead was signed by a wrong one."""

PATH_CHARACTERS_MAX: Final = 200

CUSTOM_CHARACTERS_MAX: Final = 4000
"""Longest JSON of owner and outcomes in a list of releases: what is shown is shown whole."""

_COMPONENT: Final = re.compile(COMPONENT_PATTERN)
_VERSION: Final = re.compile(VERSION_PATTERN)
_DIGEST: Final = re.compile(DIGEST_PATTERN)


def check_root(root: Root, now_s: int) -> None:
    """Check a root that somebody else has made.

    Raises:
        KeysUnusable: It holds what `changes` does not show, or was signed ahead of `now_s` (UTC).
    """
    name = f"root {root.version}"
    _check_fields(name, root.unrecognized_fields)
    _check_time(name, signed_at_s(root), now_s)
    if root.consistent_snapshot is not True:
        raise _unshown(name, "it switches consistent_snapshot off")
    for keyid, key in root.keys.items():
        # A person compares ids: under the id of a trusted key there must be no other.
        if not is_key_of(keyid, key):
            raise KeysUnusable(
                f"{name} names another key under the id {short(keyid)!r} than the one that it "
                "stands for: whoever made this draft means harm"
            )
    for role, named in root.roles.items():
        if named.unrecognized_fields or not {*named.keyids} <= root.keys.keys():
            raise _unshown(name, f"the role {role!r} has more than keys and a threshold")
        if len({_public(root, each) for each in named.keyids}) != len(named.keyids):
            raise _unshown(name, f"the role {role!r} names one key twice")


def check_list(targets: Targets, now_s: int) -> None:
    """Check a list of releases that somebody else has made.

    Raises:
        KeysUnusable: It holds what `changes` does not show, or was signed ahead of `now_s` (UTC).
    """
    name = f"list of releases {targets.version}"
    _check_fields(name, targets.unrecognized_fields)
    _check_time(name, signed_at_s(targets), now_s)
    if targets.delegations is not None:
        raise _unshown(name, "it lets others sign in the place of the targets keys")
    for path, target in targets.targets.items():
        if not _is_target(path, target):
            raise _unshown(name, f"{path[:PATH_CHARACTERS_MAX]!r} is no manifest of a release")


def _check_fields(name: str, fields: Iterable[str]) -> None:
    others = sorted({*fields} - {SIGNED_AT})
    if others:
        raise _unshown(name, f"it has the field {others[0][:PATH_CHARACTERS_MAX]!r}")


def _check_time(name: str, at_s: int, now_s: int) -> None:
    if not at_s:
        raise _unshown(name, f"it does not say when it was signed ({SIGNED_AT})")
    ahead_s = at_s - now_s
    if ahead_s > CLOCKS_APART_MAX_S:
        raise KeysUnusable(
            f"{name} says that it was signed {_span(ahead_s)} from now: the clock of the machine "
            "that made it is wrong, or this one's; set it, and have it made anew"
        )


def _is_target(path: str, target: TargetFile) -> bool:
    component, _, file = path.partition("/")
    version = file.removesuffix(".json")
    return (
        bool(_COMPONENT.fullmatch(component))
        and file.endswith(".json")
        and bool(_VERSION.fullmatch(version))
        and set(target.hashes) == {"sha256"}
        and bool(_DIGEST.fullmatch(target.hashes["sha256"]))
        and 0 < target.length <= MANIFEST_BYTES_MAX
        and set(target.unrecognized_fields) <= {"custom"}
        and len(json.dumps(target.custom)) <= CUSTOM_CHARACTERS_MAX
    )


def _public(root: Root, keyid: str) -> str:
    fields: dict[str, Any] = root.keys[keyid].keyval
    return str(fields.get("public", "")).lower()


def _unshown(name: str, what: str) -> KeysUnusable:
    return KeysUnusable(
        f"{name} holds something that nobody who signs it would be shown: {what}; do not sign it, "
        "and ask whoever made it"
    )


def _span(span_s: int) -> str:
    days = span_s / 86_400
    return f"{days:.0f} days" if days >= 2 else f"{span_s / 3600:.0f} hours"  # noqa: PLR2004
