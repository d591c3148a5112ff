"""Keys that several people hold: what waits to be signed, and what becomes of it."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import Key
from tuf.api.metadata import Delegations

from hub.cli.keys import keys as command
from hub.trust import drafts, signing
from hub.trust.drafts import Draft, MoreMustSign
from hub.trust.keys import KeyFolder, KeysUnusable
from hub.trust.signing import KeyChange, Quorum
from sync.trust import Chain, target_in
from tests.trust.test_hub import words
from tests.trust.workshop import NOW_S, Workshop, lamp

ONLINE = {
    role: {"keyid": keys[0].public_key.keyid, **keys[0].public_key.to_dict()}
    for role, keys in Workshop().signers.items()
    if role in ("snapshot", "timestamp")
}


@pytest.fixture
def holders(tmp_path: Path) -> list[KeyFolder]:
    """Three folders, each with one root and one targets key; two of three have to sign."""
    whole = KeyFolder(tmp_path / "whole")
    quorums = {"root": Quorum(3, 2), "targets": Quorum(3, 2)}
    signing.begin(whole, ONLINE, quorums, words, now_s=NOW_S)
    found = []
    for number in range(3):
        folder = tmp_path / f"holder-{number}"
        shutil.copytree(whole.folder, folder)
        for role in ("root", "targets"):
            for at, file in enumerate(sorted(folder.glob(f"{role}-*.pem"))):
                if at != number:
                    file.unlink()
        found.append(KeyFolder(folder))
    shutil.rmtree(whole.folder)
    return found


def begun(folder: KeyFolder, version: str = "1.0.0") -> Path:
    """Begin a list of releases that others have to sign; return its file."""
    with pytest.raises(MoreMustSign) as waits:
        signing.list_release(folder, lamp(version), words, now_s=NOW_S)
    return waits.value.file


def told(folder: KeyFolder, file: Path, *words_: str) -> tuple[int, dict[str, Any], str]:
    """Run `fieldfare keys sign`; return exit code, answer and what went to standard error."""
    secret = folder.folder / "passphrase"
    secret.write_text(words())
    secret.chmod(0o600)
    with patch("hub.cli.keys.now_s", lambda: NOW_S):
        ran = CliRunner().invoke(
            command,
            ["sign", str(file), "--keys", str(folder.folder), "--json", *words_],
            env={**os.environ, "FIELDFARE_PASSPHRASE_FILE": str(secret)},
            input="y\n",
            standalone_mode=False,
        )
    if ran.exception is not None:
        return 17, {}, str(ran.exception)
    return int(ran.return_value), json.loads(ran.stdout), ran.stderr


def test_one_of_two_keys_signs_nothing_by_itself_and_leaves_a_file_for_the_other(
    holders: list[KeyFolder],
) -> None:
    before = holders[0].targets()

    file = begun(holders[0])

    (standing,) = drafts.standings(holders[0], drafts.load(file), now_s=NOW_S)
    assert (len(standing.signed), standing.threshold, len(standing.missing)) == (1, 2, 2)
    assert holders[0].targets() == before


def test_the_second_holder_completes_it_and_the_first_then_signs_nothing_more(
    holders: list[KeyFolder],
) -> None:
    file = begun(holders[0])

    code, answer, said = told(holders[1], file)

    assert (code, answer["complete"], answer["added"]) == (0, True, 1)
    assert f"comes: lamp/1.0.0.json  SHA-256 {lamp('1.0.0').digest().hex()}" in said
    targets, content = holders[1].targets()
    assert target_in(targets, "lamp/1.0.0.json") is not None
    Chain(holders[0].roots()[-1]).check_targets(content)
    signing.take_from_hub(holders[0], [], content)
    assert signing.list_release(holders[0], lamp("1.0.0"), words, now_s=NOW_S) == content


def test_publishing_again_goes_on_with_what_waits(holders: list[KeyFolder]) -> None:
    file = begun(holders[0])
    first = file.read_bytes()

    assert begun(holders[0]) == file

    assert file.read_bytes() == first


def test_another_release_does_not_take_the_place_of_one_that_waits(
    holders: list[KeyFolder],
) -> None:
    file = begun(holders[0])
    first = file.read_bytes()

    with pytest.raises(KeysUnusable, match="another list of releases waits"):
        signing.list_release(holders[0], lamp("2.0.0"), words, now_s=NOW_S)

    assert file.read_bytes() == first


def test_signing_twice_with_one_key_is_signing_once(holders: list[KeyFolder]) -> None:
    file = begun(holders[0])

    code, answer, _ = told(holders[0], file)

    assert (code, answer["complete"], answer["added"]) == (15, False, 0)


def test_what_was_changed_after_it_was_signed_is_refused_and_not_signed(
    holders: list[KeyFolder],
) -> None:
    file = begun(holders[0])
    changed = file.read_text().replace(lamp("1.0.0").digest().hex(), "0" * 64)
    file.write_text(changed)

    code, _, said = told(holders[1], file)

    assert code == 17
    assert "was changed after it was signed" in said
    assert file.read_text() == changed


def test_what_does_not_follow_what_is_here_is_refused(holders: list[KeyFolder]) -> None:
    file = begun(holders[0])
    told(holders[1], file)
    draft = drafts.load(file)

    with pytest.raises(KeysUnusable, match="has list 2 already"):
        drafts.standings(holders[1], draft, now_s=NOW_S)


def test_whoever_does_not_want_to_sign_does_not(holders: list[KeyFolder]) -> None:
    file = begun(holders[0])
    before = file.read_bytes()
    ran = CliRunner().invoke(
        command, ["sign", str(file), "--keys", str(holders[1].folder)], input="n\n"
    )

    assert ran.exit_code != 0
    assert file.read_bytes() == before


def test_a_stranger_adds_no_signature(holders: list[KeyFolder], tmp_path: Path) -> None:
    file = begun(holders[0])
    stranger = KeyFolder(tmp_path / "stranger")
    signing.begin(stranger, ONLINE, {r: Quorum(1, 1) for r in ("root", "targets")}, words, now_s=1)

    told(stranger, file)

    (standing,) = drafts.standings(holders[0], drafts.load(file), now_s=NOW_S)
    assert len(standing.signed) == 1


def test_a_root_needs_enough_of_the_former_keys_and_of_the_new_ones(
    holders: list[KeyFolder],
) -> None:
    first = holders[0]
    with pytest.raises(MoreMustSign) as waits:
        signing.replace_online(first, ONLINE, words, now_s=NOW_S)
    file = waits.value.file
    assert first.root().version == 1

    code, answer, _ = told(holders[2], file)

    assert (code, answer["complete"]) == (0, True)
    assert [each["what"] for each in answer["signatures"]] == [
        "root 2 (by the former keys)",
        "root 2 (by the new keys)",
    ]
    assert holders[2].root().version == 2
    Chain(first.roots()[-1]).add_root(holders[2].roots()[-1])


def test_a_root_that_names_another_key_under_a_trusted_id_is_not_signed(
    holders: list[KeyFolder],
) -> None:
    with pytest.raises(MoreMustSign) as waits:
        signing.replace_online(holders[0], ONLINE, words, now_s=NOW_S)
    draft = drafts.load(waits.value.file)
    assert draft.root is not None
    trusted = draft.root.signed.roles["targets"].keyids[0]
    stranger = Workshop().signers["targets"][0].public_key
    draft.root.signed.keys[trusted] = Key.from_dict(trusted, stranger.to_dict())
    draft.root.signatures.clear()
    waits.value.file.write_bytes(draft.encode())

    code, _, said = told(holders[1], waits.value.file)

    assert code != 0
    assert "names another key under the id" in said
    assert not list((holders[1].folder / drafts.FOLDER).glob("*.json"))


def test_new_targets_keys_and_the_list_they_sign_become_complete_together(
    holders: list[KeyFolder],
) -> None:
    first = holders[0]
    made = [first.make("targets", words()) for _ in range(2)]
    gone = first.root().roles["targets"].keyids
    with pytest.raises(MoreMustSign) as waits:
        signing.change_keys(first, "targets", KeyChange(made, gone), words, now_s=NOW_S)

    assert drafts.load(waits.value.file).targets is not None
    assert (first.root().version, first.targets()[0].version) == (1, 1)
    code, _, _ = told(holders[1], waits.value.file)
    assert code == 0
    assert (holders[1].root().version, holders[1].targets()[0].version) == (2, 2)


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_bytes_are_a_draft_or_refused(text: bytes) -> None:
    with contextlib.suppress(KeysUnusable):
        assert isinstance(drafts.decode(text), Draft)


def test_a_draft_with_a_field_too_many_or_wrong_is_refused(holders: list[KeyFolder]) -> None:
    fields = json.loads(begun(holders[0]).read_text())
    for wrong in (
        {**fields, "more": 1},
        {**fields, "format": 2},
        {"format": 1},
        {"format": 1, "root": fields["targets"]},
        {"format": 1, "targets": 7},
        [fields],
    ):
        with pytest.raises(KeysUnusable, match="nothing that waits to be signed"):
            drafts.decode(json.dumps(wrong).encode())


def test_a_holder_replaces_the_own_keys_and_leaves_those_of_the_others(
    holders: list[KeyFolder],
) -> None:
    first = holders[0]
    (mine,) = signing.replaceable(first, "targets")
    others = {*first.root().roles["targets"].keyids} - {mine.keyid}
    made = first.make("targets", words())
    with pytest.raises(MoreMustSign) as waits:
        signing.change_keys(first, "targets", KeyChange([made], [mine.keyid]), words, now_s=NOW_S)
    told(holders[1], waits.value.file)

    named = holders[1].root().roles["targets"]
    assert {*named.keyids} == {made.keyid, *others}
    assert named.threshold == 2


def test_a_change_of_keys_that_could_not_sign_is_refused_and_changes_nothing(
    holders: list[KeyFolder],
) -> None:
    first = holders[0]
    before = first.root().roles["targets"].keyids
    for change in (
        KeyChange(drops=before[:2]),
        KeyChange(threshold=4),
        KeyChange(threshold=0),
        KeyChange(drops=["nobody-has-this"]),
        KeyChange(drops=[before[0][:7]]),
        KeyChange(drops=[""]),
    ):
        with pytest.raises(KeysUnusable):
            signing.change_keys(first, "targets", change, words, now_s=NOW_S)
    assert first.root().version == 1
    assert not (first.folder / drafts.FOLDER).exists()


def test_a_lost_key_is_taken_off_and_fewer_have_to_sign(holders: list[KeyFolder]) -> None:
    first = holders[0]
    (lost,) = [each.keyid for each in signing.replaceable(holders[2], "targets")]
    change = KeyChange(drops=[lost[:12]], threshold=1)
    with pytest.raises(MoreMustSign) as waits:
        signing.change_keys(first, "targets", change, words, now_s=NOW_S)
    told(holders[1], waits.value.file)

    named = holders[1].root().roles["targets"]
    assert (len(named.keyids), named.threshold) == (2, 1)
    assert lost not in named.keyids
    assert signing.list_release(holders[1], lamp("1.0.0"), words, now_s=NOW_S)


def test_another_root_does_not_take_the_place_of_one_that_waits(holders: list[KeyFolder]) -> None:
    with pytest.raises(MoreMustSign) as waits:
        signing.replace_online(holders[0], ONLINE, words, now_s=NOW_S)
    before = waits.value.file.read_bytes()
    with pytest.raises(KeysUnusable, match="another root waits"):
        signing.renew(holders[0], "root", words, now_s=NOW_S + 1)
    with pytest.raises(KeysUnusable, match="another root waits"):
        signing.change_keys(holders[0], "targets", KeyChange(threshold=3), words, now_s=NOW_S)
    assert waits.value.file.read_bytes() == before


def test_a_list_is_signed_again_for_another_term(holders: list[KeyFolder]) -> None:
    with pytest.raises(MoreMustSign) as waits:
        signing.renew(holders[0], "targets", words, now_s=NOW_S + 3600)
    assert told(holders[1], waits.value.file)[0] == 0
    targets = holders[1].targets()[0]
    assert targets.version == 2
    assert targets.expires > holders[2].targets()[0].expires


def unshown(part: str, change: Callable[[Any], None]) -> tuple[str, Callable[[Any], None]]:
    return part, change


NEXT_YEAR = "2028-01-01T00:00:00Z"

UNSHOWN = {
    "a time far ahead": unshown(
        "root", lambda root: root.unrecognized_fields.update(signed_at="9000-01-01T00:00:00Z")
    ),
    "no time": unshown("targets", lambda listed: listed.unrecognized_fields.clear()),
    "a list from far ahead": unshown(
        "targets",
        lambda listed: listed.unrecognized_fields.update(signed_at="2030-01-01T0:0:0Z"),
    ),
    "a field more": unshown("targets", lambda listed: listed.unrecognized_fields.update(more=1)),
    "mixed snapshots": unshown("root", lambda root: setattr(root, "consistent_snapshot", False)),
    "a key without a key": unshown("root", lambda root: root.roles["root"].keyids.append("0" * 64)),
    "others who sign": unshown(
        "targets", lambda listed: setattr(listed, "delegations", Delegations({}, {}))
    ),
    "a name that moves the cursor": unshown(
        "targets",
        lambda listed: listed.targets.update(
            {"lamp/z\x1b[1A\x1b[2K\r.json": next(iter(listed.targets.values()))}
        ),
    ),
    "a hash that moves the cursor": unshown(
        "targets",
        lambda listed: next(iter(listed.targets.values())).hashes.update(sha256="\x1b[2K"),
    ),
    "two hashes": unshown(
        "targets", lambda listed: next(iter(listed.targets.values())).hashes.update(sha512="0")
    ),
    "a long tale": unshown(
        "targets",
        lambda listed: next(iter(listed.targets.values())).unrecognized_fields.update(
            custom={"fieldfare": {"owner": "x" * 5000}}
        ),
    ),
}


@pytest.mark.parametrize("name", UNSHOWN)
def test_what_nobody_would_be_shown_is_not_signed(holders: list[KeyFolder], name: str) -> None:
    part, change = UNSHOWN[name]
    if part == "root":
        with pytest.raises(MoreMustSign) as waits:
            signing.replace_online(holders[0], ONLINE, words, now_s=NOW_S)
        file = waits.value.file
    else:
        file = begun(holders[0])
    draft = drafts.load(file)
    changed: Any = draft.root if part == "root" else draft.targets
    change(changed.signed)
    changed.signatures.clear()
    file.write_bytes(draft.encode())

    code, _, said = told(holders[1], file, "--yes")

    assert code == 17
    assert "sign" in said
    assert said.isprintable()
    assert drafts.load(file).encode() == draft.encode()


def test_the_same_manifest_with_another_owner_is_shown_as_a_change(
    holders: list[KeyFolder],
) -> None:
    file = begun(holders[0])
    told(holders[1], file)
    told(holders[0], file)
    (later,) = [holders[0].targets()[0]]
    assert later.version == 2
    file = begun(holders[0], "1.1.0")
    draft = drafts.load(file)
    assert draft.targets is not None
    target = draft.targets.signed.targets["lamp/1.0.0.json"]
    target.unrecognized_fields["custom"]["fieldfare"]["owner"] = "mallory@example.org"

    lines = drafts.changes(holders[0], draft)

    assert any("CHANGES: lamp/1.0.0.json" in each and "mallory" in each for each in lines)
