"""`fieldfare keys` and what signs, against a hub that answers as it is told."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hub.cli.exits import CommandFailed, Exit
from hub.cli.keys import keys as command
from hub.cli.sending import send
from hub.client import HubClient
from hub.trust import signing
from hub.trust.keys import KeyFolder
from hub.trust.signing import Quorum
from tests.hub.cli.canned_hub import CannedHub, canned_hub
from tests.trust.workshop import Workshop, lamp

WORDS = "four words and more"
ONLINE = {
    role: {"keyid": each[0].public_key.keyid, **each[0].public_key.to_dict()}
    for role, each in Workshop().signers.items()
    if role in ("snapshot", "timestamp")
}


@pytest.fixture
def hub() -> Iterator[CannedHub]:
    with canned_hub() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> KeyFolder:
    made = KeyFolder(tmp_path / "keys")
    quorums = {"root": Quorum(1, 1), "targets": Quorum(1, 1)}
    signing.begin(made, ONLINE, quorums, lambda: WORDS, now_s=int(time.time()))
    return made


def typed(hub: CannedHub, folder: KeyFolder, monkeypatch: pytest.MonkeyPatch, *words: str) -> Any:
    """Run a command of `fieldfare keys`."""
    secret = folder.folder / "passphrase"
    secret.write_text(WORDS)
    secret.chmod(0o600)
    monkeypatch.setenv("FIELDFARE_PASSPHRASE_FILE", str(secret))
    where = ["--keys", str(folder.folder), "--hub", hub.url]
    return command.main([*words, *where], standalone_mode=False)


def trust_of(hub: CannedHub, *, ahead_s: int = 0, targets: int = 1) -> None:
    told = {
        "online": ONLINE,
        "roles": {"targets": {"version": targets, "expires_at_ms": 0, "stored_at_ms": 0}},
        "now_ms": (int(time.time()) + ahead_s) * 1000,
    }
    hub.answer("GET", "/trust", told)
    hub.answer("POST", "/trust", told)
    hub.answer("POST", "/trust/online", ONLINE)


@pytest.mark.parametrize("words", [("rotate", "targets"), ("rotate", "online"), ("renew", "root")])
@pytest.mark.parametrize("ahead_s", [-400 * 86_400, 2 * 3600])
def test_nothing_is_signed_while_the_clocks_disagree(
    hub: CannedHub,
    folder: KeyFolder,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    ahead_s: int,
) -> None:
    trust_of(hub, ahead_s=ahead_s)
    before = [*folder.folder.rglob("*.pem"), *folder.folder.rglob("*.json")]
    with pytest.raises(CommandFailed, match="the hub's .*nothing was signed") as caught:
        typed(hub, folder, monkeypatch, *words)
    assert caught.value.code == Exit.KEYS
    assert [*folder.folder.rglob("*.pem"), *folder.folder.rglob("*.json")] == before
    assert not hub.wishes("POST", "/trust")
    assert not hub.wishes("POST", "/trust/online")


def test_a_root_and_a_list_are_signed_again_and_handed_in(
    hub: CannedHub, folder: KeyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust_of(hub, ahead_s=600)
    typed(hub, folder, monkeypatch, "renew", "root")
    typed(hub, folder, monkeypatch, "renew", "targets")
    assert (folder.root().version, folder.targets()[0].version) == (2, 2)
    sent = hub.wishes("POST", "/trust")
    assert [len(each["roots"]) for each in sent] == [2, 2]
    assert json.loads(sent[1]["targets"])["signed"]["version"] == 2


def test_another_list_of_the_same_version_on_the_hub_is_told_apart(
    hub: CannedHub, folder: KeyFolder, tmp_path: Path
) -> None:
    trust_of(hub, targets=2)
    manifest = lamp("1.0.0")
    mine = signing.list_release(folder, manifest, lambda: WORDS, now_s=int(time.time()))
    hub.answer("GET", "/trust/metadata/2.targets.json", mine.replace(b"1.0.0", b"1.0.1"))
    hub.answer("HEAD", f"/blobs/{'a' * 64}")
    with pytest.raises(CommandFailed, match="another operator has released meanwhile"):
        send(manifest, {}, mine, HubClient(hub.url), is_quiet=True)
    assert not hub.wishes("POST", "/releases")

    hub.answer("GET", "/trust/metadata/2.targets.json", mine)
    release = {
        "release": "lamp@1.0.0",
        "component": "lamp",
        "version": "1.0.0",
        "digest": "b" * 64,
        "created_at_ms": 1,
        "manifest": {},
    }
    hub.answer("POST", "/releases", release)
    send(manifest, {}, mine, HubClient(hub.url), is_quiet=True)
    assert len(hub.wishes("POST", "/releases")) == 1
