"""One test, or some, for each numbered guarantee of docs/explanation/trust.md.

What needs a whole agent or hub (6 in part, 13, 14) is tested beside this file.
"""

import copy
import hashlib
import io
import json
import os
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner, Key, Signature
from tuf.api.metadata import Metadata

from agent.trust.carried import CannotImport, import_from
from agent.trust.floor import WORD_AHEAD_MAX_S
from agent.trust.question import GRANTED, REFUSED, UNREACHABLE, Answer
from agent.trust.shelf import IMPORTED
from agent.trust.sources import Unreachable
from hub.trust.repository import next_targets, sign, with_release
from sync.manifest import Artifact
from sync.metadata import Refused
from sync.stages import Reason
from sync.trust import Chain
from tests.trust.devices import BUDGET_S, Device
from tests.trust.workshop import DAY_S, NOW_S, Served, Workshop, lamp


@pytest.fixture
def workshop() -> Workshop:
    made = Workshop()
    made.release(lamp("1.0.0"))
    return made


@pytest.fixture
def device(tmp_path: Path, workshop: Workshop) -> Device:
    return Device(tmp_path / "device", workshop.pinned)


def refused(answer: Answer) -> str:
    assert answer.verdict == REFUSED, answer
    assert answer.detail
    return answer.reason


# 1. Only what was signed runs.


def test_01_a_signed_release_is_granted(workshop: Workshop, device: Device) -> None:
    found = device.ask(lamp("1.0.0"), workshop)
    assert (found.verdict, found.targets_version) == (GRANTED, 2)


def test_01_a_release_that_is_not_on_the_list_is_refused(
    workshop: Workshop, device: Device
) -> None:
    assert refused(device.ask(lamp("6.6.6"), workshop)) == Reason.UNSIGNED


def test_01_another_manifest_under_a_signed_name_is_refused(
    workshop: Workshop, device: Device
) -> None:
    other = lamp("1.0.0").model_copy(update={"notes": "with something extra"})
    assert refused(device.ask(other, workshop)) == Reason.UNSIGNED


def test_01_a_source_without_metadata_proves_nothing(device: Device) -> None:
    assert refused(device.ask(lamp("1.0.0"), Served({}))) == Reason.UNSIGNED


# 2. A taken-over hub signs no release.


def test_02_the_online_keys_sign_no_list_of_releases(workshop: Workshop, device: Device) -> None:
    evil = lamp("6.6.6")
    thief = copy.copy(workshop)
    thief.files = dict(workshop.files)
    thief.signers = {**workshop.signers, "targets": workshop.signers["snapshot"]}
    thief.release(evil)
    assert refused(device.ask(evil, thief)) == Reason.BELOW_THRESHOLD
    workshop.rotate("snapshot", "timestamp")
    assert device.ask(lamp("1.0.0"), workshop).verdict == GRANTED


def test_02_the_online_keys_name_no_keys(workshop: Workshop, device: Device) -> None:
    thief = copy.copy(workshop)
    thief.files = dict(workshop.files)
    thief.signers = {**workshop.signers, "root": workshop.signers["timestamp"]}
    thief.rotate("targets")
    assert refused(device.ask(lamp("1.0.0"), thief)) == Reason.BELOW_THRESHOLD


# 3. No way back.


@pytest.mark.parametrize("kept", ["timestamp.json", "everything"])
def test_03_older_metadata_is_refused(workshop: Workshop, device: Device, kept: str) -> None:
    before = dict(workshop.files)
    workshop.release(lamp("1.1.0"), now_s=NOW_S + DAY_S)
    assert device.ask(lamp("1.1.0"), workshop).verdict == GRANTED
    old = before if kept == "everything" else {**workshop.files, kept: before[kept]}
    assert refused(device.ask(lamp("1.0.0"), Served(old))) == Reason.ROLLBACK
    assert device.ask(lamp("1.1.0"), workshop).verdict == GRANTED


def test_03_an_older_list_under_a_newer_timestamp_is_refused(
    workshop: Workshop, device: Device
) -> None:
    old = workshop.files[f"{workshop.targets.version}.targets.json"]
    version = workshop.targets.version
    workshop.release(lamp("1.1.0"))
    assert device.ask(lamp("1.1.0"), workshop).verdict == GRANTED
    workshop.issue_online(old, NOW_S + DAY_S, version=version)
    assert refused(device.ask(lamp("1.0.0"), workshop)) == Reason.ROLLBACK


def test_03_an_older_list_is_refused_even_after_the_online_keys_were_replaced(
    workshop: Workshop, device: Device
) -> None:
    old = workshop.files[f"{workshop.targets.version}.targets.json"]
    version = workshop.targets.version
    workshop.release(lamp("1.1.0"))
    assert device.ask(lamp("1.1.0"), workshop).verdict == GRANTED
    workshop.rotate("snapshot", "timestamp")
    workshop.issue_online(old, NOW_S + DAY_S, version=version)
    assert refused(device.ask(lamp("1.0.0"), workshop)) == Reason.ROLLBACK


def test_03_an_older_root_is_refused(workshop: Workshop, device: Device) -> None:
    workshop.rotate("root")
    workshop.rotate("root")
    assert device.ask(lamp("1.0.0"), workshop).root_version == 3
    chain = workshop.chain()
    with pytest.raises(Refused) as caught:
        chain.add_root(workshop.files["2.root.json"])
    assert caught.value.reason is Reason.ROLLBACK


def test_03_a_withdrawn_release_is_not_installed_again(workshop: Workshop, device: Device) -> None:
    assert device.ask(lamp("1.0.0"), workshop).verdict == GRANTED
    workshop.withdraw(lamp("1.0.0"), now_s=NOW_S + 5)
    assert refused(device.ask(lamp("1.0.0"), workshop)) == Reason.UNSIGNED


# 4. A freeze is noticed.


def test_04_a_source_that_stands_still_is_noticed_once_its_term_and_the_budget_are_over(
    workshop: Workshop, device: Device
) -> None:
    assert device.ask(lamp("1.0.0"), workshop).verdict == GRANTED
    device.pass_time(7 * DAY_S + BUDGET_S - DAY_S)
    assert device.ask(lamp("1.0.0"), workshop).verdict == GRANTED
    device.pass_time(2 * DAY_S)
    assert refused(device.ask(lamp("1.0.0"), workshop)) == Reason.FREEZE


def test_04_what_is_new_and_ran_out_long_ago_is_stale(workshop: Workshop, device: Device) -> None:
    device.hub_ms = (NOW_S + 100 * DAY_S) * 1000
    assert refused(device.ask(lamp("1.0.0"), workshop)) == Reason.STALE


def test_04_within_the_budget_a_device_installs_and_says_how_stale_it_is(
    workshop: Workshop, device: Device
) -> None:
    device.hub_ms = (NOW_S + 1 + 10 * DAY_S) * 1000
    found = device.ask(lamp("1.0.0"), workshop)
    assert (found.verdict, found.overdue_s) == (GRANTED, 3 * DAY_S)


def test_04_without_a_budget_nothing_expired_is_acted_on(
    workshop: Workshop, device: Device
) -> None:
    device.hub_ms = (NOW_S + 8 * DAY_S) * 1000
    assert refused(device.ask(lamp("1.0.0"), workshop, budget_s=0)) == Reason.STALE


# 5. Nothing is mixed.


def test_05_a_snapshot_of_another_moment_is_refused(workshop: Workshop, device: Device) -> None:
    old = workshop.snapshot_version
    workshop.release(lamp("1.1.0"))
    files = dict(workshop.files)
    files[f"{workshop.snapshot_version}.snapshot.json"] = files[f"{old}.snapshot.json"]
    assert refused(device.ask(lamp("1.1.0"), Served(files))) == Reason.MIX_AND_MATCH


def test_05_a_list_of_another_moment_is_refused(workshop: Workshop, device: Device) -> None:
    version = workshop.targets.version
    other = copy.deepcopy(workshop)
    other.signers = workshop.signers
    # Of the same length and version, and as well signed: only the digest tells them apart.
    other.files = dict(workshop.files)
    other.edit(
        f"{version}.targets.json",
        lambda each: each.signed.unrecognized_fields.update(signed_at="2026-01-01T00:00:00Z"),
        role="targets",
    )
    name = f"{version}.targets.json"
    served = Served({**workshop.files, name: _same_length(other.files[name], workshop.files[name])})
    assert refused(device.ask(lamp("1.0.0"), served)) == Reason.MIX_AND_MATCH


def test_05_a_list_that_is_named_and_withheld_is_refused(
    workshop: Workshop, device: Device
) -> None:
    del workshop.files[f"{workshop.targets.version}.targets.json"]
    assert refused(device.ask(lamp("1.0.0"), workshop)) == Reason.MIX_AND_MATCH


def test_05_a_root_that_skips_one_is_refused(workshop: Workshop, device: Device) -> None:
    workshop.rotate("root")
    workshop.rotate("root")
    workshop.files["2.root.json"] = workshop.files["3.root.json"]
    assert refused(device.ask(lamp("1.0.0"), workshop)) == Reason.MIX_AND_MATCH


# 6. Everything ends.


def test_06_metadata_beyond_its_bound_is_refused(workshop: Workshop, device: Device) -> None:
    workshop.files["timestamp.json"] += b" " * 20_000
    assert refused(device.ask(lamp("1.0.0"), workshop)) == Reason.ENDLESS


def test_06_metadata_longer_than_announced_is_refused(workshop: Workshop, device: Device) -> None:
    workshop.files[f"{workshop.targets.version}.targets.json"] += b" "
    assert refused(device.ask(lamp("1.0.0"), workshop)) == Reason.ENDLESS


def test_06_metadata_shorter_than_announced_is_refused(workshop: Workshop, device: Device) -> None:
    name = f"{workshop.targets.version}.targets.json"
    workshop.files[name] = workshop.files[name][:-1]
    assert refused(device.ask(lamp("1.0.0"), workshop)) == Reason.WRONG_LENGTH


def test_06_a_manifest_of_another_length_than_signed_is_refused(
    workshop: Workshop, device: Device
) -> None:
    def lengthen(metadata: "Metadata[Any]") -> None:
        metadata.signed.targets["lamp/1.0.0.json"].length += 1

    version = workshop.targets.version
    workshop.edit(f"{version}.targets.json", lengthen, role="targets")
    workshop.issue_online(workshop.files[f"{version}.targets.json"], NOW_S + 2)
    assert refused(device.ask(lamp("1.0.0"), workshop)) == Reason.WRONG_LENGTH


# 7. Fewer keys than the threshold are worth nothing.


@pytest.mark.parametrize("role", ["targets", "root"])
def test_07_one_stolen_key_of_two_is_worth_nothing(tmp_path: Path, role: str) -> None:
    workshop = Workshop(offline_count=2, threshold=2)
    workshop.release(lamp("1.0.0"))
    device = Device(tmp_path / "device", workshop.pinned)
    assert device.ask(lamp("1.0.0"), workshop).verdict == GRANTED
    stolen = workshop.signers[role][:1]
    workshop.signers = {**workshop.signers, role: stolen}
    if role == "root":
        workshop.root.version += 1
        workshop.sign_root(workshop.root, stolen)
    workshop.release(lamp("6.6.6"))
    assert refused(device.ask(lamp("6.6.6"), workshop)) == Reason.BELOW_THRESHOLD


def test_07_signing_twice_with_one_key_is_signing_once(tmp_path: Path) -> None:
    workshop = Workshop(offline_count=2, threshold=2)
    device = Device(tmp_path / "device", workshop.pinned)
    one = workshop.signers["targets"][0]
    workshop.signers["targets"] = [one, one]
    workshop.release(lamp("6.6.6"))
    assert refused(device.ask(lamp("6.6.6"), workshop)) == Reason.BELOW_THRESHOLD


def test_07_what_nobody_signed_is_refused(workshop: Workshop, device: Device) -> None:
    workshop.edit("timestamp.json", lambda each: each.signatures.clear())
    assert refused(device.ask(lamp("1.0.0"), workshop)) == Reason.UNSIGNED


def test_07_what_strangers_signed_is_refused(workshop: Workshop, device: Device) -> None:
    workshop.signers["timestamp"] = [CryptoSigner.generate_ed25519()]
    workshop.issue(NOW_S + 5)
    assert refused(device.ask(lamp("1.0.0"), workshop)) == Reason.BELOW_THRESHOLD


def test_07_one_key_under_two_ids_signs_once(workshop: Workshop) -> None:
    signer = workshop.signers["targets"][0]
    shouted = signer.public_key.to_dict()
    shouted["keyval"] = {"public": shouted["keyval"]["public"].upper()}
    keyid = hashlib.sha256(str(encode_canonical(shouted)).encode()).hexdigest()
    root = workshop._root(2, NOW_S)
    root.add_key(Key.from_dict(keyid, dict(shouted)), "targets")
    root.roles["targets"].threshold = 2
    chain = Chain(workshop.pinned)
    chain.add_root(workshop.sign_root(root, workshop.signers["root"]))
    listed = Metadata(next_targets(workshop.targets, now_s=NOW_S))
    made = listed.sign(signer)
    listed.signatures[keyid] = Signature(keyid, made.signature)
    with pytest.raises(Refused) as caught:
        chain.check_targets(listed.to_bytes())
    assert caught.value.reason == Reason.BELOW_THRESHOLD


# 8. The road does not matter.


def test_08_what_is_refused_leaves_what_was_believed(workshop: Workshop, device: Device) -> None:
    assert device.ask(lamp("1.0.0"), workshop).verdict == GRANTED
    before = _stored(device)
    workshop.edit("timestamp.json", lambda each: each.signatures.clear())
    refused(device.ask(lamp("1.0.0"), workshop))
    assert _stored(device) == before


def test_08_a_device_without_a_network_acts_on_what_a_stick_has_brought(
    workshop: Workshop, device: Device, tmp_path: Path
) -> None:
    assert device.ask(lamp("1.0.0"), Silent()).verdict == UNREACHABLE
    write_folder(tmp_path / "stick", workshop)
    import_from(tmp_path / "stick", device.folder, workshop.pinned, disk_reserve_bytes=0)
    assert device.ask(lamp("1.0.0"), Silent()).verdict == GRANTED


def test_08_a_stick_that_comes_late_is_refused_and_harms_nothing(
    workshop: Workshop, device: Device, tmp_path: Path
) -> None:
    write_folder(tmp_path / "stick", workshop)
    workshop.release(lamp("1.1.0"), now_s=NOW_S + DAY_S)
    assert device.ask(lamp("1.1.0"), workshop).verdict == GRANTED
    with pytest.raises(Refused) as caught:
        import_from(tmp_path / "stick", device.folder, workshop.pinned, disk_reserve_bytes=0)
    assert caught.value.reason is Reason.ROLLBACK
    assert device.ask(lamp("1.1.0"), Silent()).verdict == GRANTED


def test_08_the_same_metadata_twice_changes_nothing(workshop: Workshop, device: Device) -> None:
    assert device.ask(lamp("1.0.0"), workshop).verdict == GRANTED
    before = _stored(device)
    assert device.ask(lamp("1.0.0"), workshop).verdict == GRANTED
    assert _stored(device) == before


# 9. Time only moves forward.


def test_09_the_floor_rises_with_signed_metadata_hub_messages_and_uptime(
    workshop: Workshop, device: Device
) -> None:
    assert device.now_s() == 0
    device.ask(lamp("1.0.0"), workshop)
    assert device.now_s() == NOW_S + 1
    device.pass_time(60)
    assert device.now_s() == NOW_S + 61
    device.hub_ms = (NOW_S + 1000) * 1000
    assert device.now_s() == NOW_S + 1000


def test_09_the_floor_survives_a_restart_and_never_falls(
    workshop: Workshop, device: Device
) -> None:
    device.hub_ms = (NOW_S + 1000) * 1000
    device.ask(lamp("1.0.0"), workshop)
    device.restart()
    assert device.now_s() == NOW_S + 1000
    device.ask(lamp("1.0.0"), workshop)
    assert device.now_s() == NOW_S + 1000


def test_09_a_lie_about_the_time_ends_with_the_liar(workshop: Workshop, device: Device) -> None:
    device.hub_ms = (NOW_S + 3000 * DAY_S) * 1000
    assert refused(device.ask(lamp("1.0.0"), workshop)) == Reason.STALE
    device.hub_ms = (NOW_S + 10) * 1000
    assert device.ask(lamp("1.0.0"), workshop).verdict == GRANTED
    device.hub_ms = (NOW_S + 3000 * DAY_S) * 1000
    assert refused(device.ask(lamp("1.0.0"), workshop)) == Reason.FREEZE
    device.restart()
    device.hub_ms = 0
    assert device.ask(lamp("1.0.0"), workshop).verdict == GRANTED
    assert device.now_s() == NOW_S + 1 + WORD_AHEAD_MAX_S


def test_09_what_people_sign_with_a_clock_that_is_ahead_stops_nobody(
    workshop: Workshop, device: Device
) -> None:
    device.ask(lamp("1.0.0"), workshop)
    far_s = NOW_S + 400 * DAY_S
    workshop.targets = with_release(workshop.targets, lamp("1.1.0"), now_s=far_s)
    content = sign(workshop.targets, workshop.signers["targets"])
    workshop.files[f"{workshop.targets.version}.targets.json"] = content
    workshop.issue_online(content, NOW_S + 2)
    assert device.ask(lamp("1.1.0"), workshop).verdict == GRANTED
    workshop.sign_root(workshop._root(2, far_s), workshop.signers["root"])
    found = device.ask(lamp("1.1.0"), workshop)
    assert (found.verdict, found.root_version) == (GRANTED, 2)
    assert device.now_s() == NOW_S + 2


# 10. Expired never means locked out.


def test_10_a_device_that_was_dark_for_years_takes_newer_metadata(
    workshop: Workshop, device: Device
) -> None:
    device.ask(lamp("1.0.0"), workshop)
    device.hub_ms = (NOW_S + 3000 * DAY_S) * 1000
    assert refused(device.ask(lamp("1.0.0"), workshop)) == Reason.FREEZE
    workshop.rotate(now_s=NOW_S + 3000 * DAY_S)
    workshop.release(lamp("2.0.0"), now_s=NOW_S + 3000 * DAY_S)
    assert device.ask(lamp("2.0.0"), workshop).verdict == GRANTED


def test_10_expired_metadata_is_believed_so_that_it_still_protects_against_older(
    workshop: Workshop, device: Device
) -> None:
    before = dict(workshop.files)
    workshop.release(lamp("1.1.0"), now_s=NOW_S + DAY_S)
    device.hub_ms = (NOW_S + 500 * DAY_S) * 1000
    assert refused(device.ask(lamp("1.1.0"), workshop)) == Reason.STALE
    assert refused(device.ask(lamp("1.0.0"), Served(before))) == Reason.ROLLBACK


def test_10_a_hub_from_the_future_is_forgotten_once_its_keys_are_replaced(
    workshop: Workshop, device: Device
) -> None:
    far_s = NOW_S + 10_000 * DAY_S
    honest = workshop.files[f"{workshop.targets.version}.targets.json"]
    workshop.issue_online(honest, far_s)
    device.hub_ms = far_s * 1000
    refused(device.ask(lamp("1.0.0"), workshop))
    assert device.now_s() == far_s
    workshop.snapshot_version = workshop.timestamp_version = 0
    workshop.rotate("snapshot", "timestamp", now_s=NOW_S + DAY_S)
    assert device.ask(lamp("1.0.0"), workshop).verdict == GRANTED
    assert device.now_s() == NOW_S + DAY_S


def test_10_what_is_damaged_on_the_disk_is_fetched_again(
    workshop: Workshop, device: Device
) -> None:
    device.ask(lamp("1.0.0"), workshop)
    for path in (device.folder / "trust").glob("*/*.json"):
        path.write_bytes(b"\0" * 100)
    assert device.ask(lamp("1.0.0"), workshop).verdict == GRANTED


def test_10_a_power_cut_between_two_files_is_made_good(workshop: Workshop, device: Device) -> None:
    device.ask(lamp("1.0.0"), workshop)
    workshop.release(lamp("1.1.0"), now_s=NOW_S + DAY_S)
    name = f"{workshop.targets.version}.targets.json"
    cut = Served({each: text for each, text in workshop.files.items() if each != name})
    refused(device.ask(lamp("1.1.0"), cut))
    assert device.ask(lamp("1.1.0"), workshop).verdict == GRANTED


# 11. Keys can be replaced.


def test_11_a_device_follows_the_chain_of_roots_from_the_one_it_knows(
    workshop: Workshop, device: Device
) -> None:
    for role in ("root", "targets", "timestamp", "root", "snapshot"):
        workshop.rotate(role)
    found = device.ask(lamp("1.0.0"), workshop)
    assert (found.verdict, found.root_version) == (GRANTED, 6)


def test_11_a_replaced_key_signs_nothing_any_more(workshop: Workshop, device: Device) -> None:
    stolen = workshop.signers["targets"]
    workshop.rotate("targets")
    assert device.ask(lamp("1.0.0"), workshop).verdict == GRANTED
    workshop.signers["targets"] = stolen
    workshop.release(lamp("6.6.6"))
    assert refused(device.ask(lamp("6.6.6"), workshop)) == Reason.BELOW_THRESHOLD


def test_11_a_root_needs_the_keys_of_the_one_before_and_its_own(workshop: Workshop) -> None:
    before = workshop.signers["root"]
    workshop.rotate("root")
    for signers in (before, workshop.signers["root"]):
        content = workshop.sign_root(workshop.root, signers)
        with pytest.raises(Refused) as caught:
            Chain(workshop.pinned).add_root(content)
        assert caught.value.reason is Reason.BELOW_THRESHOLD


def test_11_pinning_another_root_begins_anew(
    workshop: Workshop, device: Device, tmp_path: Path
) -> None:
    device.ask(lamp("1.0.0"), workshop)
    other = Workshop(now_s=NOW_S - 100 * DAY_S)
    other.release(lamp("1.0.0"), now_s=NOW_S - 99 * DAY_S)
    device.root.write_bytes(other.pinned)
    assert device.ask(lamp("1.0.0"), other).verdict == GRANTED
    assert refused(device.ask(lamp("1.0.0"), workshop)) == Reason.BELOW_THRESHOLD


# 12. A carried archive writes nothing but what was signed.


def test_12_only_files_that_signed_manifests_name_are_kept(tmp_path: Path) -> None:
    workshop, files = stocked()
    device = Device(tmp_path / "device", workshop.pinned)
    files["b" * 64] = b"a stowaway"
    write_folder(tmp_path / "stick", workshop, files)
    found = import_from(tmp_path / "stick", device.folder, workshop.pinned, disk_reserve_bytes=0)
    assert found.releases == ("lamp@2.0.0",)
    kept = {path.name for path in (device.folder / IMPORTED).iterdir()}
    assert kept == set(files) - {"b" * 64}


def test_12_a_file_that_is_not_what_its_name_says_is_dropped(tmp_path: Path) -> None:
    workshop, files = stocked()
    device = Device(tmp_path / "device", workshop.pinned)
    artifact = next(digest for digest, content in files.items() if content == TREE)
    for wrong in (b"?" * len(TREE), TREE[:-1], TREE + b"more"):
        write_folder(tmp_path / "stick", workshop, {**files, artifact: wrong})
        found = import_from(
            tmp_path / "stick", device.folder, workshop.pinned, disk_reserve_bytes=0
        )
        kept = (device.folder / IMPORTED / artifact).exists()
        assert kept == (wrong == TREE + b"more")  # no more than was signed is read
        assert bool(found.releases) == kept


def test_12_hostile_members_of_an_archive_are_never_looked_at(tmp_path: Path) -> None:
    workshop, files = stocked()
    device = Device(tmp_path / "device", workshop.pinned)
    stick = tmp_path / "stick.tar"
    with tarfile.open(stick, "w") as archive:
        for name in ("../outside", f"{tmp_path}/outside", "blobs/../../outside", "metadata/x.json"):
            add(archive, name, b"out")
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo("blobs/" + "c" * 64)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        for name, content in carried(workshop, files).items():
            add(archive, name, content)
    before = set(tmp_path.rglob("*"))
    found = import_from(stick, device.folder, workshop.pinned, disk_reserve_bytes=0)
    assert found.releases == ("lamp@2.0.0",)
    new = {path for path in tmp_path.rglob("*") if path not in before}
    assert {path.relative_to(device.folder).parts[0] for path in new} == {"trust", IMPORTED}
    assert {path.name for path in (device.folder / IMPORTED).iterdir()} == set(files)


def test_12_an_endless_header_is_not_read(tmp_path: Path) -> None:
    workshop, _ = stocked()
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 7 * 1024**3
    stick = tmp_path / "stick.tar"
    stick.write_bytes(header.tobuf(tarfile.USTAR_FORMAT) + b"x" * 4096)
    with pytest.raises(CannotImport, match="unexpected end"):
        import_from(stick, tmp_path / "device", workshop.pinned, disk_reserve_bytes=0)


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g", b"S", b"V", b"1", b"2"])
def test_12_headers_before_headers_are_passed_over_and_cost_no_memory(
    kind: bytes, tmp_path: Path
) -> None:
    workshop, files = stocked()
    stick = tmp_path / "stick.tar"
    content = b"40 path=" + b"x" * 30 + b"\n"
    with stick.open("wb") as file:
        for _ in range(3000):
            header = tarfile.TarInfo("././@LongLink")
            header.type, header.size = kind, len(content) * 200
            file.write(header.tobuf(tarfile.GNU_FORMAT))
            file.write((content * 200).ljust(-(-header.size // 512) * 512, b"\0"))
        with tarfile.open(fileobj=file, mode="w") as archive:
            for name, text in carried(workshop, files).items():
                add(archive, name, text)
    tracemalloc.start()
    try:
        found = import_from(stick, tmp_path / "device", workshop.pinned, disk_reserve_bytes=0)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.releases
    assert peak_bytes < 16 * 1024 * 1024


def test_12_pipes_and_links_in_a_folder_are_passed_over(tmp_path: Path) -> None:
    workshop, files = stocked()
    device = Device(tmp_path / "device", workshop.pinned)
    artifact = next(digest for digest, content in files.items() if content == TREE)
    stick = tmp_path / "stick"
    write_folder(stick, workshop, files)
    (tmp_path / "elsewhere").write_bytes(TREE)
    (stick / "blobs" / artifact).unlink()
    (stick / "blobs" / artifact).symlink_to(tmp_path / "elsewhere")
    assert not import_from(stick, device.folder, workshop.pinned, disk_reserve_bytes=0).releases
    (stick / "metadata" / "timestamp.json").unlink()
    os.mkfifo(stick / "metadata" / "timestamp.json")
    with pytest.raises(Refused):
        import_from(stick, device.folder, workshop.pinned, disk_reserve_bytes=0)


def test_12_a_full_disk_is_said_before_it_is_filled(tmp_path: Path) -> None:
    workshop, files = stocked()
    device = Device(tmp_path / "device", workshop.pinned)
    write_folder(tmp_path / "stick", workshop, files)
    with pytest.raises(CannotImport, match="make room"):
        import_from(tmp_path / "stick", device.folder, workshop.pinned, disk_reserve_bytes=2**60)
    assert device.ask(lamp("2.0.0"), Silent()).targets_version == workshop.targets.version


# Parts.

TREE = b"the files of a release" * 1000


class Silent:
    """A hub out of reach."""

    def get(self, name: str, bytes_max: int) -> bytes | None:
        raise Unreachable("nobody answers")


def stocked() -> tuple[Workshop, dict[str, bytes]]:
    """Return a workshop with one release, and its files by digest."""
    digest = hashlib.sha256(TREE).hexdigest()
    part = Artifact(name="tree.tar.gz", sha256=digest, length_bytes=len(TREE))
    manifest = lamp("2.0.0").model_copy(update={"artifacts": (part,)})
    workshop = Workshop()
    workshop.release(manifest)
    return workshop, {digest: TREE, manifest.digest().hex(): manifest.canonical()}


def carried(workshop: Workshop, files: dict[str, bytes]) -> dict[str, bytes]:
    metadata = {f"metadata/{name}": content for name, content in workshop.files.items()}
    return metadata | {f"blobs/{digest}": content for digest, content in files.items()}


def write_folder(folder: Path, workshop: Workshop, files: dict[str, bytes] | None = None) -> None:
    for name, content in carried(workshop, files or {}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _stored(device: Device) -> dict[str, bytes]:
    trust = device.folder / "trust"
    return {str(path): path.read_bytes() for path in trust.glob("*/*.json")}


def _same_length(content: bytes, like: bytes) -> bytes:
    """Pad JSON with spaces, which no signature covers."""
    assert len(content) <= len(like) + 10_000
    compact = json.dumps(json.loads(content), separators=(",", ":")).encode()
    assert len(compact) <= len(like)
    return compact + b" " * (len(like) - len(compact))
