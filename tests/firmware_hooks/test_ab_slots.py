import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from firmware_hooks import slot as slot_module
from firmware_hooks.ab_slots import AbSlotsInstaller
from firmware_hooks.contract import InstallerError, Order, Reboots, TellsProgress
from firmware_hooks.deaths import in_child
from firmware_hooks.slot import Slot
from sync.stages import Reason
from tests.crash.boot_child import die_before
from tests.fakes.firmware import BOARDS
from tests.fakes.write_log import run
from tests.firmware_hooks.slots import (
    FACTORY,
    booted,
    image,
    installer,
    make_device,
    options,
    order,
    packed_as,
)

BOARD = "tryboot"
MIB = 1024 * 1024


@pytest.fixture
def home(tmp_path: Path) -> Path:
    make_device(tmp_path, BOARD)
    return tmp_path


def made(home: Path, **more: str | float | bool) -> AbSlotsInstaller:
    return installer(home, BOARD, **more)


def restart(home: Path) -> str:
    given = made(home).awaits_reboot()
    assert given is not None
    return BOARDS[BOARD](home).boot(*given)


def install(home: Path, version: str, **more: str | float | bool) -> Order:
    wanted = order(home, image(version), version)
    made(home, **more).stage(wanted)
    made(home, **more).activate(wanted.digest)
    restart(home)
    made(home, **more).check_trial(wanted.digest)
    made(home, **more).commit(wanted.digest)
    return wanted


# The way of a release


def test_a_slot_runs_after_the_reboot_that_is_asked_for_and_not_before(home: Path) -> None:
    old, new = install(home, "1"), order(home, image("2"))
    ours = made(home)
    assert isinstance(ours, Reboots)
    assert isinstance(ours, TellsProgress)

    ours.stage(new)
    assert made(home).awaits_reboot() is None
    made(home).activate(new.digest)

    assert made(home).awaits_reboot() == ("0 tryboot",)
    assert made(home).running() == old.digest
    with pytest.raises(InstallerError, match="slot 3 runs, which does not hold the release"):
        made(home).check_trial(new.digest)
    restart(home)
    assert made(home).awaits_reboot() is None
    assert made(home).running() == new.digest
    made(home).check_trial(new.digest)


def test_a_misspelt_check_of_the_image_is_refused_before_a_slot_is_touched(home: Path) -> None:
    old = install(home, "1")
    before = [(home / name).read_bytes() for name in ("slot_a", "slot_b")]
    new = order(home, image("2"), parameters={"image_sha265": "0" * 64})
    with pytest.raises(InstallerError, match="'image_sha265' is not known to the ab-slots") as no:
        made(home).stage(new)
    assert no.value.reason == Reason.MANIFEST_INVALID
    assert made(home).running() == old.digest
    assert [(home / name).read_bytes() for name in ("slot_a", "slot_b")] == before


def test_a_bootloader_that_went_back_is_said_to_have_fallen_back(home: Path) -> None:
    old, new = install(home, "1"), order(home, image("2"))
    made(home).stage(new)
    made(home).activate(new.digest)
    restart(home)

    BOARDS[BOARD](home).boot()  # the trial ended badly, and the flag is gone

    assert made(home).awaits_reboot() is None
    assert made(home).running() == old.digest
    with pytest.raises(InstallerError, match="the bootloader went back") as refused:
        made(home).check_trial(new.digest)
    assert refused.value.reason == Reason.FELL_BACK
    assert made(home).roll_back(new.digest) == old.digest
    assert made(home).awaits_reboot() is None


def test_what_is_rolled_back_in_its_trial_is_left_by_a_plain_reboot(home: Path) -> None:
    old, new = install(home, "1"), order(home, image("2"))
    made(home).stage(new)
    made(home).activate(new.digest)
    restart(home)

    assert made(home).roll_back(new.digest) == old.digest

    assert made(home).running() == new.digest
    assert made(home).awaits_reboot() == ()
    restart(home)
    assert made(home).running() == old.digest


def test_a_power_cut_between_trial_and_commit_is_made_good_by_a_reboot(home: Path) -> None:
    install(home, "1")
    new = order(home, image("2"))
    made(home).stage(new)
    made(home).activate(new.digest)
    restart(home)
    made(home).check_trial(new.digest)
    BOARDS[BOARD](home).boot()

    made(home).commit(new.digest)

    assert made(home).awaits_reboot() == ()
    restart(home)
    assert made(home).running() == new.digest
    assert BOARDS[BOARD](home).boot() == "2"


def test_a_release_that_a_slot_holds_is_not_written_again(home: Path) -> None:
    install(home, "1")
    new = order(home, image("2"))
    made(home).stage(new)
    new.artifacts["root.img"].unlink()

    made(home).stage(new)
    made(home).activate(new.digest)

    restart(home)
    assert booted(home, BOARD).startswith(image("2"))


# Images


@pytest.mark.parametrize("packed_by", ["raw", "gz", "zst"])
@pytest.mark.parametrize("length_bytes", [1, 4096, 4097, MIB, MIB + 1, 2 * MIB])
def test_an_image_of_any_length_comes_out_as_it_went_in(
    packed_by: str, length_bytes: int, home: Path
) -> None:
    content = image("2", length_bytes)
    wanted = order(home, content, packed_by=packed_by)

    made(home).stage(wanted)
    made(home).activate(wanted.digest)
    restart(home)

    assert booted(home, BOARD)[:length_bytes] == content
    assert len(booted(home, BOARD)) == 2 * MIB


@pytest.mark.parametrize("packed_by", ["gz", "zst"])
def test_an_image_packed_in_several_pieces_is_unpacked_whole(packed_by: str, home: Path) -> None:
    pieces = [image("a", 700_000), image("b", 5), image("c", 300_001)]
    packed = b"".join(packed_as(piece, packed_by) for piece in pieces)
    wanted = order(home, packed, packed_by="as it is")

    made(home).stage(wanted)
    made(home).activate(wanted.digest)
    restart(home)

    assert booted(home, BOARD).startswith(b"".join(pieces))


@pytest.mark.parametrize("packed_by", ["gz", "zst"])
def test_an_image_that_ends_too_early_is_refused(packed_by: str, home: Path) -> None:
    old = install(home, "1")
    cut = order(home, packed_as(image("2"), packed_by)[:-100], packed_by="as it is")

    with pytest.raises(InstallerError, match="ends too early"):
        made(home).stage(cut)

    assert made(home).running() == old.digest


@pytest.mark.parametrize("packed_by", ["gz", "zst"])
def test_a_spoilt_artifact_is_told_from_a_badly_made_one(packed_by: str, home: Path) -> None:
    content = packed_as(image("2"), packed_by)
    bad = content[:12] + b"\xff" * 20 + content[32:]
    with pytest.raises(InstallerError) as refused:
        made(home).stage(order(home, bad, packed_by="as it is"))
    assert refused.value.reason == Reason.INSTALLER_FAILED

    spoilt = order(home, content, packed_by="as it is")
    spoilt.artifacts["root.img"].write_bytes(bad)
    with pytest.raises(InstallerError) as refused:
        made(home).stage(spoilt)
    assert refused.value.reason == Reason.DIGEST_MISMATCH


def test_a_zstd_frame_that_would_take_the_devices_memory_is_refused(home: Path) -> None:
    ended = subprocess.run(
        ["zstd", "--long=27", "-q", "-c"], input=bytes(200 * MIB), capture_output=True, check=False
    )
    if ended.returncode != 0:
        pytest.skip("zstd cannot be run (Debian package zstd)")

    with pytest.raises(InstallerError, match=re.escape("windows of at most 2**24 bytes")):
        made(home).stage(order(home, ended.stdout, packed_by="as it is"))


def test_the_manifest_may_say_what_the_image_inside_has_to_be(home: Path) -> None:
    wanted = order(home, image("2"), packed_by="gz", parameters={"image_sha256": "0" * 64})

    with pytest.raises(InstallerError, match="not the one that `image_sha256` names"):
        made(home).stage(wanted)

    assert not made(home).folder(wanted.digest).exists()


MEASURE = """
import json, resource, sys
from pathlib import Path
from tests.firmware_hooks.slots import installer
from firmware_hooks.contract import Order
from sync.manifest import parse_manifest
home = Path(sys.argv[1])
manifest = parse_manifest((home / "manifest").read_bytes())
work = installer(home, "tryboot")
import firmware_hooks.image, firmware_hooks.frames
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
work.stage(Order(manifest, manifest.digest(), {"root.img": home / "image-2"}, 1))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("packed_by", ["gz", "zst"])
def test_an_image_of_any_size_takes_less_than_64_mib_of_memory(
    packed_by: str, tmp_path: Path
) -> None:
    make_device(tmp_path, BOARD, slot_bytes=128 * MIB)
    wanted = order(tmp_path, image("2", 128 * MIB), packed_by=packed_by)
    (tmp_path / "manifest").write_bytes(wanted.manifest.canonical())

    ended = subprocess.run(
        [sys.executable, "-B", "-c", MEASURE, str(tmp_path)],
        capture_output=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )

    assert ended.returncode == 0, ended.stderr.decode()
    assert int(ended.stdout) < 64 * 1024


# Slots that do not take an image


def test_an_image_larger_than_its_slot_is_refused_and_the_slot_does_not_grow(home: Path) -> None:
    old = install(home, "1")

    with pytest.raises(InstallerError, match="does not fit") as refused:
        made(home).stage(order(home, image("2", 2 * MIB + 1)))

    assert refused.value.reason == Reason.TOO_LARGE
    assert {(home / name).stat().st_size for name in ("slot_a", "slot_b")} == {2 * MIB}
    assert made(home).running() == old.digest


def test_a_slot_that_gives_back_something_else_is_found_out(home: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield image("2", MIB)
        yield image("2", 500_000)
        with (home / "slot_b").open("r+b") as file:
            file.seek(700_000)
            file.write(b"\0")

    with pytest.raises(InstallerError, match="gives back something else .* 1048576 bytes at 0"):
        Slot(home / "slot_b").write(chunks(), lambda line: None)


def test_a_full_disk_below_a_slot_ends_the_install_and_the_old_release_goes_on(
    home: Path,
) -> None:
    """A limit on the length of files stands for the full disk; it holds for root as well."""
    old, new = install(home, "1"), order(home, image("2"))

    def stage() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB))
        made(home).stage(new)

    said = in_child(stage)

    assert said["raised"] == "InstallerError", said
    assert made(home).running() == old.digest
    assert not made(home).folder(new.digest).exists()
    with pytest.raises(InstallerError, match="not staged"):
        made(home).activate(new.digest)
    made(home).stage(new)
    made(home).activate(new.digest)


def test_where_the_medium_has_no_direct_access_an_image_is_written_all_the_same() -> None:
    folder = Path("/dev/shm") / f"fieldfare-{os.getpid()}"  # noqa: S108 - it is in memory
    folder.mkdir()
    try:
        (folder / "slot").write_bytes(bytes(2 * MIB))
        written = Slot(folder / "slot").write([image("2")], lambda line: None)
        assert Slot(folder / "slot").holds(written)
        assert Slot(folder / "slot").seems_to_hold(written)
    finally:
        shutil.rmtree(folder)


# Slots that somebody else wrote


def spoil(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"somebody else's")


def test_a_staged_slot_that_somebody_wrote_to_is_not_booted(home: Path) -> None:
    old, new = install(home, "1"), order(home, image("2"))
    made(home).stage(new)
    with (home / "slot_a").open("r+b") as file:
        file.seek(777_777)
        file.write(b"one byte in a place that no sample meets")

    with pytest.raises(InstallerError, match="slot 2 holds something else"):
        made(home).activate(new.digest)

    assert made(home).awaits_reboot() is None
    assert made(home).running() == old.digest
    made(home).stage(new)
    made(home).activate(new.digest)


def test_a_running_slot_that_somebody_wrote_to_runs_nothing_that_is_known(home: Path) -> None:
    old = install(home, "1")
    spoil(home / "slot_b")

    assert made(home).running() is None
    assert made(home, writable=True).running() == old.digest


def test_a_booted_slot_that_somebody_wrote_to_does_not_pass_its_trial(home: Path) -> None:
    install(home, "1")
    new = order(home, image("2"))
    made(home).stage(new)
    made(home).activate(new.digest)
    restart(home)
    spoil(home / "slot_a")

    with pytest.raises(InstallerError, match="slot 2 holds something else"):
        made(home).check_trial(new.digest)


def test_there_is_no_way_back_to_a_slot_that_somebody_wrote_to(home: Path) -> None:
    install(home, "1")
    new = install(home, "2")
    spoil(home / "slot_b")

    with pytest.raises(InstallerError, match="slot 3 holds something else") as refused:
        made(home).roll_back(new.digest)

    assert refused.value.reason == Reason.ROLLBACK_FAILED
    assert made(home).awaits_reboot() is None
    assert made(home).running() == new.digest


def test_a_slot_that_its_filesystem_changes_can_be_gone_back_to(home: Path) -> None:
    old = install(home, "1", writable=True)
    new = install(home, "2", writable=True)
    spoil(home / "slot_b")
    spoil(home / "slot_a")

    made(home, writable=True).check_trial(new.digest)
    assert made(home, writable=True).roll_back(new.digest) == old.digest


def test_what_is_remembered_wrongly_is_forgotten(home: Path) -> None:
    install(home, "1")
    (home / "install/lamp/slots.json").write_text('{"slots": 7}')

    assert made(home).running() is None
    new = install(home, "2")
    assert made(home).running() == new.digest


# Slots that are in use


def test_nothing_is_written_while_the_way_back_is_the_other_slot(home: Path) -> None:
    """In a trial the slot that does not run is the one that the device would go back to."""
    install(home, "1")
    new = order(home, image("2"))
    made(home).stage(new)
    made(home).activate(new.digest)
    restart(home)
    before = (home / "slot_b").read_bytes()

    with pytest.raises(InstallerError, match="restart the device first") as refused:
        made(home).stage(order(home, image("3"), "3"))

    assert refused.value.reason == Reason.BUSY
    assert (home / "slot_b").read_bytes() == before


@pytest.fixture
def loop(home: Path) -> Iterator[Path]:
    """Attach the second slot to a loop device."""
    if os.geteuid() != 0:
        pytest.skip("only root can attach loop devices")
    device = Path(run("losetup", "--find", "--show", home / "slot_b").decode().strip())
    yield device
    run("losetup", "--detach", device)


def test_a_block_device_takes_an_image(home: Path, loop: Path) -> None:
    wanted = order(home, image("2"), packed_by="zst")
    work = made(home, slot_b=str(loop))

    work.stage(wanted)

    work.activate(wanted.digest)
    assert loop.read_bytes().startswith(image("2"))


def test_a_file_that_a_loop_device_uses_is_refused(home: Path, loop: Path) -> None:
    before = (home / "slot_b").read_bytes()
    with pytest.raises(InstallerError, match=f"is in use as {loop}"):
        made(home).stage(order(home, image("2")))
    assert (home / "slot_b").read_bytes() == before


def test_a_mounted_block_device_is_refused(home: Path, loop: Path) -> None:
    run("mkfs.ext4", "-q", loop)
    point = home / "mounted"
    point.mkdir()
    run("mount", loop, point)
    try:
        with pytest.raises(InstallerError, match=f"is mounted at {point}"):
            made(home, slot_b=str(loop)).stage(order(home, image("2")))
        with pytest.raises(InstallerError, match="is in use"):  # and the kernel says so too
            Slot(loop).write([b"x"], lambda line: None)
    finally:
        run("umount", point)


def test_the_root_filesystem_is_refused_whatever_the_bootloader_says(home: Path) -> None:
    number = Path("/").stat().st_dev
    found = [
        Path("/dev") / line.split()[-1]
        for line in Path("/proc/partitions").read_text().splitlines()[2:]
        if line.split()[:2] == [str(os.major(number)), str(os.minor(number))]
    ]
    if not found or not found[0].exists():
        pytest.skip("the root filesystem is on no block device here")

    with pytest.raises(InstallerError, match="is the root filesystem of what runs"):
        made(home, slot_b=str(found[0])).stage(order(home, image("2")))


@pytest.mark.parametrize(
    ("path", "why"), [("/dev/null", "neither a block device nor a file"), ("/nowhere", "No such")]
)
def test_what_is_no_slot_is_refused(path: str, why: str, home: Path) -> None:
    with pytest.raises(InstallerError, match=why):
        made(home, slot_b=path).stage(order(home, image("2")))


# Options


def test_options_that_are_wrong_are_named(home: Path) -> None:
    with pytest.raises(InstallerError, match="`slot_c` is unknown"):
        made(home, slot_c="/dev/sda3")
    with pytest.raises(InstallerError, match="slot_a and slot_b are both"):
        made(home, slot_a=str(home / "slot_b"))
    with pytest.raises(InstallerError, match="`writable` must be true or false"):
        made(home, writable="yes")
    with pytest.raises(InstallerError, match="`boot` is missing"):
        AbSlotsInstaller("lamp", home, {})


def test_it_says_how_far_it_is(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot_module, "TOLD_BYTES", MIB)
    said: list[str] = []
    work = made(home)
    work.on_progress = said.append

    work.stage(order(home, image("2")))

    assert said == [
        f"1 MiB written to {home}/slot_b",
        f"1500001 bytes written to {home}/slot_b and read back",
    ]


# Deaths


def test_killed_before_any_write_of_an_image_the_device_keeps_what_runs(tmp_path: Path) -> None:
    """Every write of the image, and whatever lies between them; with blocks small enough."""
    deaths = 0
    for number in range(1, 1000):
        home = tmp_path / f"{number}"
        home.mkdir()
        make_device(home, BOARD)
        old, new = install(home, "1"), order(home, image("2"))

        def stage(number: int = number, home: Path = home, new: Order = new) -> None:
            work = made(home)
            die_before(number)
            work.stage(new)

        if "signal" not in in_child(stage):
            break
        deaths += 1
        assert BOARDS[BOARD](home).boot() == "3"
        assert made(home).running() == old.digest
        held = json.loads((home / "install/lamp/slots.json").read_text())["slots"]
        if "2" in held and held["2"]["release"] == new.digest.hex():
            assert (home / "slot_a").read_bytes().startswith(image("2"))
        made(home).stage(new)
        made(home).activate(new.digest)
        assert restart(home) == "2"
        assert booted(home, BOARD).startswith(image("2"))
        shutil.rmtree(home)
    assert deaths > 5


def test_the_factorys_slot_is_what_an_untouched_device_boots(home: Path) -> None:
    assert options(home, BOARD)["boot"] == BOARD
    assert made(home).running() is None
    assert booted(home, BOARD).startswith(FACTORY)
