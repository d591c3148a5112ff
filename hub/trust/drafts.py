"""What several people have to sign, one after the other: a file that travels between them.

Owns the form of that file, what is told of it, whose signatures it has, and when it is complete.
Believes nothing that it says of itself: each holder compares it with what lies in the own folder of
keys, and a signature counts only if it fits what is signed.

Form: JSON with `format` 1 and, where they are to be signed, `root` and `targets` as TUF metadata.
Both travel in one file where one needs the other, so that they become complete together.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from tuf.api.metadata import Key, Metadata, Root, TargetFile, Targets
from tuf.api.serialization.json import JSONSerializer

from hub.shown import shown
from hub.trust.form import check_list, check_root
from hub.trust.keys import KeyFolder, KeysUnusable, Passphrase, short
from hub.trust.repository import CUSTOM, OFFLINE, ONLINE
from sync.metadata import BYTES_MAX, Refused, read, signed_at_s
from sync.trust import Chain

FORMAT: Final = 1
DRAFT_BYTES_MAX: Final = 2 * (BYTES_MAX[Root.type] + BYTES_MAX[Targets.type])
FOLDER: Final = "drafts"

MORE: Final = (
    "{have} of the {need} keys that have to sign {what} have signed; {file} waits for the others "
    "({missing}): let another holder run `fieldfare keys sign {file}`"
)


NOTHING: Final = "this is nothing that waits to be signed"


class MoreMustSign(KeysUnusable):
    """It is not complete, and waits in a file for others to sign; nothing else was changed."""

    def __init__(self, message: str, file: Path) -> None:
        super().__init__(message)
        self.file = file


class Standing(NamedTuple):
    """How far one part is."""

    what: str
    """Role and version; for a root also whether the former or the new keys are meant."""
    threshold: int
    signed: tuple[str, ...]
    """Ids of the keys whose signature fits."""
    missing: tuple[str, ...]
    """Ids of the keys that could still sign."""

    @property
    def is_complete(self) -> bool:
        """Whether enough have signed."""
        return len(self.signed) >= self.threshold


@dataclass(frozen=True, slots=True)
class Draft:
    """What is to be signed; at least one of both is there."""

    root: "Metadata[Root] | None" = None
    targets: "Metadata[Targets] | None" = None

    @property
    def parts(self) -> "tuple[Metadata[Any], ...]":
        """What is there, the root first."""
        return tuple(each for each in (self.root, self.targets) if each is not None)

    @property
    def name(self) -> str:
        """A name for its file."""
        return "-".join(f"{each.signed.version}.{each.signed.type}" for each in self.parts)

    def encode(self) -> bytes:
        """Return the text of the file."""
        fields: dict[str, Any] = {"format": FORMAT}
        for part in self.parts:
            fields[part.signed.type] = json.loads(content_of(part))
        return json.dumps(fields, indent=1).encode()


def content_of(part: "Metadata[Any]") -> bytes:
    """Return the bytes of metadata as they are kept and handed in."""
    content: bytes = part.to_bytes(JSONSerializer(compact=True))
    return content


def decode(text: bytes) -> Draft:
    """Return the draft in a file.

    Raises:
        KeysUnusable: It is none.
    """
    try:
        fields: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise KeysUnusable(f"{NOTHING}: {error}") from None
    known = {"format", Root.type, Targets.type}
    if not isinstance(fields, dict) or set(fields) - known or fields.get("format") != FORMAT:
        raise KeysUnusable(f"{NOTHING}: it has other fields than a draft of this version")
    try:
        draft = Draft(
            read(Root, _part(fields[Root.type])) if Root.type in fields else None,
            read(Targets, _part(fields[Targets.type])) if Targets.type in fields else None,
        )
    except Refused as refused:
        raise KeysUnusable(f"{NOTHING}: {refused.detail}") from None
    if not draft.parts:
        raise KeysUnusable(f"{NOTHING}: it is empty")
    return draft


def load(file: Path) -> Draft:
    """Return the draft in `file`.

    Raises:
        KeysUnusable: It cannot be read, or is none.
    """
    try:
        with file.open("rb") as opened:
            text = opened.read(DRAFT_BYTES_MAX + 1)
    except OSError as error:
        raise KeysUnusable(f"{file} cannot be read: {error.strerror}") from None
    if len(text) > DRAFT_BYTES_MAX:
        raise KeysUnusable(f"{file} is too long for something that waits to be signed")
    return decode(text)


def standings(folder: KeyFolder, draft: Draft, *, now_s: int) -> list[Standing]:
    """Return how far each part is, judged by what lies in `folder` and by the time.

    Raises:
        KeysUnusable: The draft does not follow what lies there, was changed after somebody signed
            it, or holds something that `changes` would not show.
    """
    before = folder.root()
    found = []
    if draft.root is not None:
        signed = draft.root.signed
        if signed.version != before.version + 1:
            raise KeysUnusable(
                f"root {signed.version} is to be signed, and {folder.folder} has root "
                f"{before.version}: take what was signed since with `fieldfare keys pull`, or have "
                "it made anew"
            )
        check_root(signed, now_s)
        found.append(_standing(before, draft.root, f"root {signed.version} (by the former keys)"))
        found.append(_standing(signed, draft.root, f"root {signed.version} (by the new keys)"))
    if draft.targets is not None:
        here = folder.targets()[0].version
        version = draft.targets.signed.version
        if version <= here:
            raise KeysUnusable(
                f"list of releases {version} is to be signed, and {folder.folder} has list {here} "
                "already: have it made anew"
            )
        check_list(draft.targets.signed, now_s)
        by = before if draft.root is None else draft.root.signed
        found.append(_standing(by, draft.targets, f"list of releases {version}"))
    return found


def signed_here(folder: KeyFolder, draft: Draft, passphrase: Passphrase) -> int:
    """Sign with every key that lies in `folder` and counts; return how many signatures are new.

    Args:
        folder: Of the keys.
        draft: Is signed in place.
        passphrase: Opens the key files.

    Raises:
        KeysUnusable: A key file cannot be opened. Some signatures may be there already.
    """
    known = {each.keyid: each for each in folder.every()}
    before = folder.root()
    count = 0
    for part in draft.parts:
        named = {*before.roles[part.signed.type].keyids}
        if draft.root is not None:
            later = draft.root.signed.roles[part.signed.type].keyids
            named = {*named, *later} if part is draft.root else {*later}
        for keyid in sorted(named & known.keys() - part.signatures.keys()):
            if folder.has(known[keyid]):
                (signer,) = folder.signers_of([known[keyid]], passphrase)
                part.sign(signer, append=True)
                count += 1
    return count


def waiting(folder: KeyFolder, name: str) -> Draft | None:
    """Return the draft of this name that waits in `folder`, None if none does.

    Raises:
        KeysUnusable: It cannot be read, or is none.
    """
    file = folder.folder / FOLDER / f"{name}.json"
    return load(file) if file.exists() else None


def keep(folder: KeyFolder, draft: Draft) -> None:
    """Keep what is complete as what was signed here, the root last.

    Raises:
        KeysUnusable: It would not be believed, or cannot be written.
    """
    try:
        chain = Chain(folder.roots()[-1])
        if draft.root is not None:
            chain.add_root(content_of(draft.root))
        if draft.targets is not None:
            chain.check_targets(content_of(draft.targets))
    except Refused as refused:
        raise KeysUnusable(f"this would not be believed: {refused.detail}") from None
    if draft.targets is not None:
        folder.keep_targets(content_of(draft.targets))
    if draft.root is not None:
        folder.keep_root(draft.root.signed.version, content_of(draft.root))


def settle(folder: KeyFolder, draft: Draft, *, now_s: int) -> None:
    """Keep a draft that is complete; let one that is not wait in a file.

    Raises:
        MoreMustSign: It is not complete.
        KeysUnusable: As `keep` and `standings`.
    """
    open_parts = [each for each in standings(folder, draft, now_s=now_s) if not each.is_complete]
    if not open_parts:
        keep(folder, draft)
        folder.drop_draft(f"{FOLDER}/{draft.name}.json")
        return
    file = folder.keep_draft(f"{FOLDER}/{draft.name}.json", draft.encode())
    first = open_parts[0]
    raise MoreMustSign(
        MORE.format(
            have=len(first.signed),
            need=first.threshold,
            what=first.what,
            file=file,
            missing=", ".join(short(each) for each in first.missing),
        ),
        file,
    )


def changes(folder: KeyFolder, draft: Draft) -> list[str]:
    """Return what a person is about to sign, in lines: what becomes different from what is here."""
    lines = []
    if draft.root is not None:
        before, after = folder.root(), draft.root.signed
        lines.append(_head(f"root {after.version}", after))
        for role in (*OFFLINE, *ONLINE):
            old, new = before.roles[role], after.roles[role]
            lines += [
                f"  {role}: key {short(each)} comes" for each in _less(new.keyids, old.keyids)
            ]
            lines += [f"  {role}: key {short(each)} goes" for each in _less(old.keyids, new.keyids)]
            if old.threshold != new.threshold:
                lines.append(f"  {role}: {new.threshold} have to sign, no longer {old.threshold}")
    if draft.targets is not None:
        known, later = folder.targets()[0], draft.targets.signed
        lines.append(_head(f"list of releases {later.version}", later))
        lines += [
            f"  comes: {name}  {_told(later.targets[name])}"
            for name in _less(later.targets, known.targets)
        ]
        lines += [f"  goes: {name}" for name in _less(known.targets, later.targets)]
        lines += [
            f"  CHANGES: {name}  {_told(later.targets[name])}"
            for name in sorted(known.targets.keys() & later.targets.keys())
            if known.targets[name].to_dict() != later.targets[name].to_dict()
        ]
    return lines


def _part(fields: object) -> bytes:
    return json.dumps(fields).encode()


def _head(name: str, signed: Root | Targets) -> str:
    at = datetime.fromtimestamp(signed_at_s(signed), UTC)
    return f"{name}, signed {at:%Y-%m-%d %H:%M} UTC, valid until {signed.expires:%Y-%m-%d}"


def _told(target: TargetFile) -> str:
    said: Any = (target.custom or {}).get(CUSTOM, {})
    custom = f"  {shown(json.dumps(said, sort_keys=True))}" if said else ""
    return f"SHA-256 {target.hashes['sha256']}{custom}"


def _less(some: Iterable[str], others: Iterable[str]) -> list[str]:
    return sorted({*some} - {*others})


def _standing(by: Root, part: "Metadata[Any]", what: str) -> Standing:
    role = part.signed.type
    try:
        found = by.get_verification_result(role, part.signed_bytes, part.signatures)
    except Exception as error:  # noqa: BLE001 - strangers choose keys' and signatures' forms
        raise KeysUnusable(f"the signatures of {what} cannot be checked: {error}") from None
    wrong = sorted(found.unsigned.keys() & part.signatures.keys())
    if wrong:
        raise KeysUnusable(
            f"the signature of key {short(wrong[0])} does not fit {what}: it was changed after it "
            "was signed; have it made anew"
        )
    return Standing(what, found.threshold, _ids(found.signed), _ids(found.unsigned))


def _ids(keys: dict[str, Key]) -> tuple[str, ...]:
    return tuple(sorted(keys))
