"""The operator's keys and the hub's part in trust, over its API."""

import io
import json
import stat
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console
from securesystemslib.signer import SSlibKey

from agent.trust.question import GRANTED, REFUSED
from hub import answers
from hub.cli.outcome import fleet_lines
from hub.operators import Scope
from hub.trust import signing
from hub.trust.keys import KeyFolder, KeysUnusable
from hub.trust.repository import DAY_S, is_key_of
from hub.trust.signing import KeyChange, Quorum
from sync.manifest import Manifest, manifest_from
from sync.stages import Reason
from tests.hub.core import START_MS, Core
from tests.hub.web import BLOB, DIGEST, check_problem, manifest_of, token_of
from tests.trust.devices import Device
from tests.trust.workshop import Served

NOW_S = START_MS // 1000
WORDS = "four words and more"
ONE = {"root": Quorum(1, 1), "targets": Quorum(1, 1)}


def words() -> str:
    return WORDS


def lamp(version: str, **more: Any) -> Manifest:
    fields = {**manifest_of(version), "owner": "lights", "outcomes": ["adoption"], **more}
    manifest: Manifest = manifest_from(fields)
    return manifest


async def begin(
    client: httpx.AsyncClient, folder: KeyFolder, quorums: dict[str, Quorum] = ONE
) -> None:
    offered = (await client.get("/trust")).json()["online"]
    signing.begin(folder, offered, quorums, words, now_s=NOW_S)
    await push(client, folder)


async def push(client: httpx.AsyncClient, folder: KeyFolder) -> None:
    answer = await hand_in(client, folder)
    assert answer.status_code == 200, answer.text


async def hand_in(client: httpx.AsyncClient, folder: KeyFolder) -> httpx.Response:
    roots = [each.decode() for each in folder.roots()]
    targets = folder.targets()[1].decode()
    return await client.post("/trust", json={"roots": roots, "targets": targets})


async def publish(
    client: httpx.AsyncClient, folder: KeyFolder, manifest: Manifest, *, now_s: int = NOW_S
) -> httpx.Response:
    targets = signing.list_release(folder, manifest, words, now_s=now_s)
    await client.put(f"/blobs/{DIGEST}", content=BLOB)
    await client.post("/trust", json={"targets": targets.decode()})
    return await client.post("/releases", json=json.loads(manifest.canonical()))


async def served(client: httpx.AsyncClient) -> Served:
    """Return all that the hub serves, by the names under which devices ask."""
    files: dict[str, bytes] = {}

    async def fetch(name: str) -> Any:
        answer = await client.get(f"/trust/metadata/{name}")
        if answer.status_code == 200:
            files[name] = answer.content
            return answer.json()["signed"]
        return None

    version = 1
    while await fetch(f"{version}.root.json"):
        version += 1
    timestamp = await fetch("timestamp.json")
    snapshot = await fetch(f"{timestamp['meta']['snapshot.json']['version']}.snapshot.json")
    await fetch(f"{snapshot['meta']['targets.json']['version']}.targets.json")
    return Served(files)


async def test_what_the_hub_serves_is_what_a_device_believes(
    client: httpx.AsyncClient, folder: KeyFolder, tmp_path: Path
) -> None:
    await begin(client, folder)
    device = Device(tmp_path / "device", folder.pinned.read_bytes())
    assert (await publish(client, folder, lamp("1.0.0"))).status_code == 201
    assert device.ask(lamp("1.0.0"), await served(client)).verdict == GRANTED
    assert device.ask(lamp("1.1.0"), await served(client)).reason == Reason.UNSIGNED
    (listed,) = (await client.get("/releases")).json()["items"]
    assert listed["is_signed"] is True


async def test_a_hub_with_a_root_publishes_nothing_unsigned(
    client: httpx.AsyncClient, folder: KeyFolder
) -> None:
    await begin(client, folder)
    await client.put(f"/blobs/{DIGEST}", content=BLOB)
    answer = await client.post("/releases", json=manifest_of())
    check_problem(answer, 409, "not on the signed list")


async def test_a_hub_without_a_root_takes_only_the_first(
    client: httpx.AsyncClient, folder: KeyFolder
) -> None:
    offered = (await client.get("/trust")).json()["online"]
    signing.begin(folder, offered, ONE, words, now_s=NOW_S)
    signing.replace_online(folder, offered, words, now_s=NOW_S)
    later = folder.roots()[1].decode()
    check_problem(await client.post("/trust", json={"roots": [later]}), 422, "root 1, not 2")
    targets = folder.targets()[1].decode()
    check_problem(await client.post("/trust", json={"targets": targets}), 409, "no root yet")
    await push(client, folder)
    assert (await client.get("/trust")).json()["roles"]["root"]["version"] == 2


async def test_handing_in_twice_changes_nothing(
    client: httpx.AsyncClient, folder: KeyFolder
) -> None:
    await begin(client, folder)
    before = (await client.get("/trust")).json()
    await push(client, folder)
    assert (await client.get("/trust")).json() == before


async def test_the_hub_takes_nothing_that_strangers_signed(
    client: httpx.AsyncClient, folder: KeyFolder, tmp_path: Path
) -> None:
    await begin(client, folder)
    before = (await client.get("/trust")).json()
    stranger = KeyFolder(tmp_path / "stranger")
    signing.begin(stranger, before["online"], ONE, words, now_s=NOW_S)
    signing.list_release(stranger, lamp("6.6.6"), words, now_s=NOW_S)
    targets = stranger.targets()[1].decode()
    check_problem(await client.post("/trust", json={"targets": targets}), 422, "0 good signatures")
    signing.replace_online(stranger, before["online"], words, now_s=NOW_S)
    root = stranger.roots()[1].decode()
    check_problem(await client.post("/trust", json={"roots": [root]}), 422, "0 good signatures")
    for wrong in ("", "{}", "[" * 50_000, "\ud800".encode("utf-8", "replace").decode()):
        answer = await client.post("/trust", json={"roots": [wrong], "targets": wrong})
        check_problem(answer, 422, "no TUF metadata")
    assert (await client.get("/trust")).json() == before


async def test_only_an_admin_hands_in_the_first_root(
    client: httpx.AsyncClient, core: Core, folder: KeyFolder
) -> None:
    offered = (await client.get("/trust")).json()["online"]
    signing.begin(folder, offered, ONE, words, now_s=NOW_S)
    admin = client.headers["authorization"]
    operator = f"Bearer {token_of(core, Scope.OPERATOR, 'op').text()}"
    client.headers["authorization"] = operator
    check_problem(await hand_in(client, folder), 403, "needs the token of an admin")
    assert (await client.get("/trust")).json()["roles"] == {}
    client.headers["authorization"] = admin
    assert (await hand_in(client, folder)).status_code == 200
    client.headers["authorization"] = operator
    assert (await publish(client, folder, lamp("1.0.0"))).status_code == 201


async def test_13_the_hub_takes_no_release_of_which_nobody_would_know_how_it_fares(
    client: httpx.AsyncClient,
) -> None:
    await client.put(f"/blobs/{DIGEST}", content=BLOB)
    for missing in ("owner", "outcomes"):
        fields = manifest_of()
        del fields[missing]
        check_problem(await client.post("/releases", json=fields), 422, "no owner or no outcome")
    assert (await client.get("/releases")).json()["items"] == []
    fields["unmeasured"] = "a lamp for the office"
    assert (await client.post("/releases", json=fields)).status_code == 201


async def test_a_list_signed_by_a_wrong_clock_is_turned_away_until_it_is_signed_again(
    client: httpx.AsyncClient, folder: KeyFolder
) -> None:
    await begin(client, folder)
    before = (await client.get("/trust")).json()
    for wrong_s, said in ((NOW_S + 2 * 3600, "later than this hub"), (100_000, "has run out")):
        signing.list_release(folder, lamp(f"1.0.{wrong_s}"), words, now_s=wrong_s)
        check_problem(await hand_in(client, folder), 422, said)
        assert (await client.get("/trust")).json() == before
    signing.renew(folder, "targets", words, now_s=NOW_S)
    await push(client, folder)
    assert (await client.get("/trust")).json()["roles"]["targets"]["version"] == 4


async def test_online_keys_and_the_row_about_them_come_together_or_not_at_all(
    client: httpx.AsyncClient, core: Core, folder: KeyFolder, tmp_path: Path
) -> None:
    await begin(client, folder)
    before = (await client.get("/trust")).json()["online"]
    core.database.transact(
        lambda db: db.execute(
            "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
    )
    assert (await client.post("/trust/online")).status_code >= 500
    assert (await client.get("/trust")).json()["online"] == before
    core.database.transact(lambda db: db.execute("DROP TRIGGER full"))
    after = (await client.post("/trust/online")).json()
    assert (await client.get("/trust")).json()["online"] == after != before
    assert json.loads((tmp_path / "hub" / "trust" / "online.json").read_text()) == after


async def test_online_keys_that_no_root_names_any_more_are_removed(
    client: httpx.AsyncClient, folder: KeyFolder, tmp_path: Path
) -> None:
    await begin(client, folder)
    for count in (2, 3):
        offered = (await client.post("/trust/online")).json()
        signing.replace_online(folder, offered, words, now_s=NOW_S + count)
        await push(client, folder)
        left = {path.stem for path in (tmp_path / "hub" / "trust").glob("*.pem")}
        assert left == {key["keyid"] for key in offered.values()}
    assert (await publish(client, folder, lamp("1.0.0"))).status_code == 201


async def test_an_older_list_is_turned_away_and_says_what_to_do(
    client: httpx.AsyncClient, folder: KeyFolder
) -> None:
    await begin(client, folder)
    old = folder.targets()[1].decode()
    await publish(client, folder, lamp("1.0.0"))
    answer = await client.post("/trust", json={"targets": old})
    check_problem(answer, 409, "keys pull")


async def test_what_another_operator_signed_is_taken_over_if_it_verifies(
    client: httpx.AsyncClient, folder: KeyFolder, tmp_path: Path
) -> None:
    await begin(client, folder)
    other = KeyFolder(tmp_path / "other")
    other.folder.mkdir()
    for path in folder.folder.rglob("*"):
        if path.is_file():
            (other.folder / path.relative_to(folder.folder)).parent.mkdir(exist_ok=True)
            (other.folder / path.relative_to(folder.folder)).write_bytes(path.read_bytes())
    await publish(client, folder, lamp("1.0.0"))
    signing.take_from_hub(other, [], folder.targets()[1])
    assert other.targets()[0].version == 2
    content = folder.targets()[1].replace(b'"version":2', b'"version":9')
    with pytest.raises(KeysUnusable, match="does not verify"):
        signing.take_from_hub(other, [], content)
    for page in (b"<html>", b"{}", b""):
        with pytest.raises(KeysUnusable, match="does not verify"):
            signing.take_from_hub(other, [page], None)


@pytest.mark.parametrize("role", ["root", "targets", "online"])
async def test_devices_follow_when_keys_are_replaced(
    client: httpx.AsyncClient, folder: KeyFolder, tmp_path: Path, role: str
) -> None:
    await begin(client, folder)
    device = Device(tmp_path / "device", folder.pinned.read_bytes())
    await publish(client, folder, lamp("1.0.0"))
    assert device.ask(lamp("1.0.0"), await served(client)).verdict == GRANTED
    if role == "online":
        offered = (await client.post("/trust/online")).json()
        signing.replace_online(folder, offered, words, now_s=NOW_S + 1)
    else:
        keys = [folder.make(role, WORDS)]
        gone = folder.root().roles[role].keyids
        signing.change_keys(folder, role, KeyChange(keys, gone), words, now_s=NOW_S + 1)
    await push(client, folder)
    assert (await publish(client, folder, lamp("1.1.0"))).status_code == 201
    found = device.ask(lamp("1.1.0"), await served(client))
    assert (found.verdict, found.root_version) == (GRANTED, 2)


async def test_02_a_hub_cannot_slip_its_key_into_the_place_of_another_when_its_own_are_named(
    client: httpx.AsyncClient, folder: KeyFolder
) -> None:
    await begin(client, folder)
    root = folder.root()
    offered = (await client.post("/trust/online")).json()
    for role in ("root", "targets", "snapshot"):
        hostile = {
            **offered,
            "snapshot": offered["snapshot"] | {"keyid": root.roles[role].keyids[0]},
        }
        with pytest.raises(KeysUnusable, match="stands for another"):
            signing.replace_online(folder, hostile, words, now_s=NOW_S + 1)

    assert folder.root() == root
    assert signing.replace_online(folder, offered, words, now_s=NOW_S + 1).version == 2


@pytest.mark.parametrize(
    "private", [Ed25519PrivateKey.generate(), generate_private_key(SECP256R1())]
)
def test_an_id_is_that_of_one_key_and_of_nothing_said_besides(
    private: Ed25519PrivateKey | EllipticCurvePrivateKey,
) -> None:
    key = SSlibKey.from_crypto(private.public_key())
    fields = key.to_dict()

    assert is_key_of(key.keyid, key)
    assert not is_key_of("0" * 64, key)
    assert not is_key_of(key.keyid, SSlibKey.from_dict(key.keyid, {**fields, "more": 1}))
    odd = {**fields, "keyval": {**key.keyval, "of": 0.5}}
    assert not is_key_of(key.keyid, SSlibKey.from_dict(key.keyid, odd))


async def test_root_and_list_change_together_or_not_at_all(
    client: httpx.AsyncClient, folder: KeyFolder
) -> None:
    await begin(client, folder)
    before = (await client.get("/trust")).json()
    keys = [folder.make("targets", WORDS)]
    gone = folder.root().roles["targets"].keyids
    signing.change_keys(folder, "targets", KeyChange(keys, gone), words, now_s=NOW_S + 1)
    root = folder.roots()[1].decode()
    check_problem(await client.post("/trust", json={"roots": [root]}), 422, "signed anew")
    assert (await client.get("/trust")).json() == before


async def test_a_timestamp_older_than_an_hour_is_signed_anew_when_it_is_asked_for(
    client: httpx.AsyncClient, folder: KeyFolder, core: Core, tmp_path: Path
) -> None:
    await begin(client, folder)
    await publish(client, folder, lamp("1.0.0"))
    first = (await client.get("/trust/metadata/timestamp.json")).content
    core.pass_time(3000)
    assert (await client.get("/trust/metadata/timestamp.json")).content == first
    core.pass_time(40 * DAY_S)
    device = Device(tmp_path / "device", folder.pinned.read_bytes())
    found = device.ask(lamp("1.0.0"), await served(client))
    assert (found.verdict, found.overdue_s) == (GRANTED, 0)
    assert found.signed_s == NOW_S + 3000 + 40 * DAY_S


async def test_a_hub_put_back_from_a_backup_goes_on_above_what_it_has_signed(
    client: httpx.AsyncClient, folder: KeyFolder, core: Core, tmp_path: Path
) -> None:
    await begin(client, folder)
    await publish(client, folder, lamp("1.0.0"))
    device = Device(tmp_path / "device", folder.pinned.read_bytes())
    backup = core.rows("SELECT * FROM signed")
    core.pass_time(7200)
    assert device.ask(lamp("1.0.0"), await served(client)).verdict == GRANTED

    def put_back(db: Any) -> None:
        db.execute("DELETE FROM signed")
        db.executemany("INSERT INTO signed VALUES (?, ?, ?, ?)", backup)

    core.database.transact(put_back)
    core.pass_time(60)
    assert device.ask(lamp("1.0.0"), await served(client)).verdict == GRANTED


async def test_a_hub_that_lost_its_online_keys_says_so_and_serves_what_it_has(
    client: httpx.AsyncClient, folder: KeyFolder, core: Core, tmp_path: Path
) -> None:
    await begin(client, folder)
    await publish(client, folder, lamp("1.0.0"))
    for path in (tmp_path / "hub" / "trust").iterdir():
        path.unlink()
    core.pass_time(7200)
    device = Device(tmp_path / "device", folder.pinned.read_bytes())
    assert device.ask(lamp("1.0.0"), await served(client)).verdict == GRANTED
    signing.list_release(folder, lamp("1.1.0"), words, now_s=NOW_S)
    check_problem(await hand_in(client, folder), 409, "keys rotate online")


async def test_13_a_release_that_cannot_be_measured_is_not_signed_without_a_reason(
    client: httpx.AsyncClient, folder: KeyFolder
) -> None:
    await begin(client, folder)
    for fields, missing in (
        ({"owner": ""}, "no owner"),
        ({"outcomes": []}, "no outcome"),
        ({"owner": " ", "outcomes": []}, "no owner and no outcome"),
    ):
        with pytest.raises(KeysUnusable, match=f"{missing}, so nobody"):
            signing.list_release(folder, lamp("1.0.0", **fields), words, now_s=NOW_S)
    spoken = lamp("1.0.0", owner="", unmeasured="a trial on the bench")
    assert (await publish(client, folder, spoken)).status_code == 201
    (listed,) = (await client.get("/releases")).json()["items"]
    assert listed["manifest"]["unmeasured"] == "a trial on the bench"
    (target,) = folder.targets()[0].targets.values()
    assert target.custom["fieldfare"]["unmeasured"] == "a trial on the bench"
    await client.post("/deployments", json={"release": "lamp@1.0.0", "group": "all"})
    fleet = (await client.get("/fleet")).json()
    assert fleet["unmeasured"] == {"lamp@1.0.0": "a trial on the bench"}
    shown = fleet_lines(msgspec.convert(fleet, answers.Fleet))
    told = io.StringIO()
    Console(width=120, file=told).print(shown)
    assert "lamp@1.0.0 is not measured: a trial on the bench" in told.getvalue()


async def test_a_version_is_signed_with_one_content_only(
    client: httpx.AsyncClient, folder: KeyFolder
) -> None:
    await begin(client, folder)
    await publish(client, folder, lamp("1.0.0"))
    again = signing.list_release(folder, lamp("1.0.0"), words, now_s=NOW_S + 5)
    assert again == folder.targets()[1]
    with pytest.raises(KeysUnusable, match="other content"):
        signing.list_release(folder, lamp("1.0.0", notes="more"), words, now_s=NOW_S)


async def test_a_withdrawn_release_is_refused_by_devices(
    client: httpx.AsyncClient, folder: KeyFolder, tmp_path: Path
) -> None:
    await begin(client, folder)
    await publish(client, folder, lamp("1.0.0"))
    targets = signing.unlist_release(folder, "lamp", "1.0.0", words, now_s=NOW_S)
    await client.post("/trust", json={"targets": targets.decode()})
    device = Device(tmp_path / "device", folder.pinned.read_bytes())
    found = device.ask(lamp("1.0.0"), await served(client))
    assert (found.verdict, found.reason) == (REFUSED, Reason.UNSIGNED)


async def test_two_of_three_keys_sign(
    client: httpx.AsyncClient, folder: KeyFolder, tmp_path: Path
) -> None:
    await begin(client, folder, {"root": Quorum(3, 2), "targets": Quorum(3, 2)})
    device = Device(tmp_path / "device", folder.pinned.read_bytes())
    lost = min(folder.folder.glob("targets-*.pem"))
    known = [each for each in folder.every() if lost.name not in each.signer]
    (folder.folder / "keys.json").unlink()
    folder.add(known)
    await publish(client, folder, lamp("1.0.0"))
    assert device.ask(lamp("1.0.0"), await served(client)).verdict == GRANTED
    folder_keys = [each for each in known if each.role != "targets"]
    (folder.folder / "keys.json").unlink()
    folder.add(folder_keys)
    with pytest.raises(KeysUnusable, match="0 of the 2 keys that have to sign"):
        signing.list_release(folder, lamp("1.1.0"), words, now_s=NOW_S)


async def test_key_files_are_sealed_and_readable_by_their_owner_only(
    client: httpx.AsyncClient, folder: KeyFolder, tmp_path: Path
) -> None:
    await begin(client, folder)
    sealed = list(folder.folder.glob("*.pem"))
    assert len(sealed) == 2
    for path in sealed:
        assert path.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    online = list((tmp_path / "hub" / "trust").iterdir())
    assert len(online) == 3
    for path in [*sealed, *online]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(KeysUnusable, match="does not open"):
        signing.list_release(folder, lamp("1.0.0"), lambda: "another passphrase", now_s=NOW_S)
    with pytest.raises(KeysUnusable, match="at least 12"):
        folder.make("root", "short")
    with pytest.raises(KeysUnusable, match="already"):
        signing.begin(folder, {}, ONE, words, now_s=NOW_S)


def test_a_key_elsewhere_is_known_by_its_public_half_and_an_address(
    folder: KeyFolder, tmp_path: Path
) -> None:
    from securesystemslib.signer import CryptoSigner

    elsewhere = CryptoSigner.generate_ed25519()
    key = elsewhere.public_key
    assert isinstance(key, SSlibKey)
    plain = tmp_path / "key.pem"
    plain.write_bytes(elsewhere.private_bytes)
    public = tmp_path / "public.pem"
    public.write_text(key.keyval["public"] if "BEGIN" in key.keyval["public"] else _pem(elsewhere))
    known = folder.adopt("targets", f"file2:{plain}", public)
    assert known.keyid == key.keyid
    (signer,) = folder.signers_of([known], words)
    assert signer.public_key.keyid == key.keyid
    with pytest.raises(KeysUnusable, match="cannot sign"):
        folder.signers_of([folder.adopt("targets", "file2:/nowhere", public)], words)


def _pem(signer: Any) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = signer._private_key.public_key()
    return str(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())
