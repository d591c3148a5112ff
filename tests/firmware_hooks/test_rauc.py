"""The rauc installer with Debian's RAUC: its service, bundles that it made, a CA of its own."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from firmware_hooks.contract import InstallerError
from firmware_hooks.rauc import Rauc, RaucInstaller
from sync.stages import Reason
from tests.fakes.write_log import run
from tests.firmware_hooks.rauc_device import (
    RaucDevice,
    make_authority,
    make_bundle,
    order,
    require_rauc,
)
from tests.firmware_hooks.slots import FACTORY, image


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_rauc()
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def device(tmp_path: Path, authority: Path) -> Iterator[RaucDevice]:
    device = RaucDevice(tmp_path, authority)
    yield device
    device.stop()


def install(device: RaucDevice, authority: Path, version: str) -> bytes:
    wanted = order(device.folder, make_bundle(authority, version), version)
    device.installer().stage(wanted)
    device.installer().activate(wanted.digest)
    assert device.installer().awaits_reboot() == ()
    device.boot()
    device.installer().check_trial(wanted.digest)
    device.installer().commit(wanted.digest)
    return wanted.digest


def test_a_bundle_is_written_tried_and_committed(device: RaucDevice, authority: Path) -> None:
    first = install(device, authority, "1")
    assert device.installer().running() == first
    assert device.runs().startswith(image("1"))

    second = install(device, authority, "2")

    assert device.installer().running() == second
    assert [device.boot() for _ in range(2)] == ["A"] * 2
    assert device.runs().startswith(image("2"))


def test_a_bundle_that_is_staged_does_not_boot_also_if_rauc_activates_what_it_installs(
    tmp_path: Path, authority: Path
) -> None:
    device = RaucDevice(tmp_path, authority, activates=True)
    try:
        device.installer().stage(order(tmp_path, make_bundle(authority, "2")))
        assert [device.boot() for _ in range(2)] == ["A"] * 2
        assert device.runs().startswith(FACTORY)
    finally:
        device.stop()


def test_progress_is_what_rauc_says(device: RaucDevice, authority: Path) -> None:
    said: list[str] = []
    work = device.installer()
    work.on_progress = said.append

    work.stage(order(device.folder, make_bundle(authority, "2")))

    assert "90 % Copying image to rootfs.1" in said
    assert said[-1] == "100 % Installing done."


def test_a_slot_that_does_not_prove_itself_is_left_by_the_next_boot(
    device: RaucDevice, authority: Path
) -> None:
    old = install(device, authority, "1")
    wanted = order(device.folder, make_bundle(authority, "2"))
    device.installer().stage(wanted)
    device.installer().activate(wanted.digest)
    assert device.boot() == "A"
    assert device.boot() == "B"

    with pytest.raises(InstallerError) as refused:
        device.installer().check_trial(wanted.digest)

    assert refused.value.reason == Reason.FELL_BACK
    assert device.installer().roll_back(wanted.digest) == old
    assert device.installer().awaits_reboot() is None


def test_a_bundle_for_another_device_is_refused_in_raucs_words(
    device: RaucDevice, authority: Path
) -> None:
    wanted = order(device.folder, make_bundle(authority, "2", compatible="kettle"))

    with pytest.raises(InstallerError, match="RAUC: .*[Cc]ompatible mismatch"):
        device.installer().stage(wanted)

    assert device.runs().startswith(FACTORY)
    assert not device.installer().folder(wanted.digest).exists()


def test_a_bundle_of_another_authority_is_refused_in_raucs_words(
    device: RaucDevice, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stranger = make_authority(tmp_path_factory.mktemp("stranger"))
    with pytest.raises(InstallerError, match="RAUC: .*signature"):
        device.installer().stage(order(device.folder, make_bundle(stranger, "2")))


def test_a_slot_that_somebody_installed_to_by_hand_runs_nothing_that_is_known(
    device: RaucDevice, authority: Path
) -> None:
    install(device, authority, "1")
    install(device, authority, "2")
    old = device.installer().running()
    assert old is not None
    bundle = device.folder / "bundle-1"

    by_hand = Rauc(device.address)
    by_hand.install(bundle, 60, lambda line: None)

    assert device.installer().running() == old
    with pytest.raises(InstallerError, match="somebody wrote to it") as refused:
        device.installer().roll_back(old)
    assert refused.value.reason == Reason.ROLLBACK_FAILED


def test_an_install_that_is_under_way_is_waited_for(device: RaucDevice, authority: Path) -> None:
    bundle = device.folder / "by-hand.raucb"
    bundle.write_bytes(make_bundle(authority, "1"))
    wanted = order(device.folder, make_bundle(authority, "2"))
    has_begun = threading.Event()
    by_hand = threading.Thread(
        target=lambda: Rauc(device.address).install(bundle, 60, lambda line: has_begun.set())
    )
    by_hand.start()
    assert has_begun.wait(30)

    device.installer().stage(wanted)

    by_hand.join()
    device.installer().activate(wanted.digest)
    device.boot()
    assert device.runs().startswith(image("2"))


def test_a_service_that_dies_in_the_middle_ends_the_install(
    device: RaucDevice, authority: Path
) -> None:
    old = install(device, authority, "1")
    wanted = order(device.folder, make_bundle(authority, "2"))
    work = device.installer()
    work.on_progress = lambda line: device.kill_service()

    with pytest.raises(InstallerError, match="RAUC"):
        work.stage(wanted)

    assert [device.boot() for _ in range(2)] == ["B"] * 2
    assert device.installer().running() == old
    device.installer().stage(wanted)
    device.installer().activate(wanted.digest)
    device.boot()
    assert device.runs().startswith(image("2"))


def test_without_the_service_the_fault_is_named(tmp_path: Path) -> None:
    work = RaucInstaller("lamp", tmp_path, {"bus": f"unix:path={tmp_path}/nobody"})
    with pytest.raises(InstallerError, match="cannot be reached"):
        work.stage(order(tmp_path, b"bundle"))


def test_the_library_for_d_bus_is_not_loaded_before_it_is_used(tmp_path: Path) -> None:
    code = "import sys, firmware_hooks.rauc; sys.exit('dbus_fast' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_option_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(InstallerError, match="`slot_a` is unknown"):
        RaucInstaller("lamp", tmp_path, {"slot_a": "/dev/sda1"})


def test_raucs_own_program_says_the_same(device: RaucDevice, authority: Path) -> None:
    install(device, authority, "1")
    said = run(
        *("env", f"DBUS_SYSTEM_BUS_ADDRESS={device.address}"),
        *("rauc", "status", "--output-format=shell"),
    ).decode()
    assert "RAUC_SYSTEM_BOOTED_BOOTNAME='B'" in said
