"""Several real containers as one release, by the real podman-compose, in networks of their own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from firmware_hooks.compose import ComposeInstaller
from firmware_hooks.contract import InstallerError, Order
from sync.stages import Reason
from tests.firmware_hooks.composed import TWO, Composed, both, composed
from tests.firmware_hooks.releases import put

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def runs() -> Iterator[Composed]:
    with composed() as made:
        yield made


class Device:
    def __init__(self, folder: Path, runs: Composed) -> None:
        self.folder = folder
        self.runs = runs

    def installer(self, **options: str | float) -> ComposeInstaller:
        return ComposeInstaller("lamp", self.folder / "install", self.runs.options(**options))

    def order(self, version: str, **more: str) -> Order:
        return self.runs.order(self.folder, version, **more)

    def images(self) -> set[str]:
        listed = self.runs.podman("images", "--format", "{{.Repository}}:{{.Tag}}").split()
        return {name for name in listed if name.startswith("localhost/fieldfare/")}


@pytest.fixture
def device(tmp_path: Path, runs: Composed) -> Iterator[Device]:
    yield Device(tmp_path, runs)
    runs.clear()


def test_all_containers_of_a_release_run_together_and_the_old_ones_come_back_together(
    device: Device,
) -> None:
    old = put(device.installer(), device.order("1"))
    assert device.runs.shows() == both("1")
    new = device.order("2")
    device.installer().stage(new)
    assert device.runs.shows() == both("1")
    device.installer().activate(new.digest)
    assert device.installer().running() == new.digest
    assert device.runs.shows() == both("2")

    assert device.installer().roll_back(new.digest) == old

    assert device.runs.shows() == both("1")


def test_the_way_back_from_the_first_release_leaves_neither_container_nor_network(
    device: Device,
) -> None:
    new = device.order("1")
    device.installer().stage(new)
    device.installer().activate(new.digest)
    assert device.runs.networks() == {"fieldfare-lamp_default"}

    assert device.installer().roll_back(new.digest) is None

    assert device.runs.podman("ps", "--all", "--quiet") == ""
    assert device.runs.networks() == set()


def test_a_service_that_ends_is_no_success_although_podman_compose_says_so(device: Device) -> None:
    old = put(device.installer(), device.order("1"))
    new = device.order("2", store_does="exit 1", file=TWO.replace("restart: always", ""))
    device.installer().stage(new)

    with pytest.raises(InstallerError) as failed:
        device.installer().activate(new.digest)

    assert failed.value.detail == "service 'store' does not run"
    assert device.installer().roll_back(new.digest) == old
    assert device.runs.shows() == both("1")


@pytest.mark.parametrize(
    ("written", "instead", "says"),
    [
        (
            "image: ${FIELDFARE_IMAGE_WEB}",
            "image: localhost:1/web:latest",
            "names an image that the release does not carry",
        ),
        (
            "image: ${FIELDFARE_IMAGE_WEB}",
            "image: ${FIELDFARE_IMAGE_WEB}\n    pull_policy: always",
            "says when its image is pulled",
        ),
        (
            "image: ${FIELDFARE_IMAGE_WEB}",
            'image: ${FIELDFARE_IMAGE_WEB}\n    volumes: ["./data:/data"]',
            "keeps data in the folder of the release",
        ),
    ],
    ids=["another image", "one that is pulled", "data beside the file"],
)
def test_a_file_that_would_fetch_images_or_lose_data_is_refused_before_anything_is_touched(
    written: str, instead: str, says: str, device: Device
) -> None:
    put(device.installer(), device.order("1"))

    with pytest.raises(InstallerError) as refused:
        device.installer().stage(device.order("2", file=TWO.replace(written, instead)))

    assert refused.value.reason == Reason.MANIFEST_INVALID
    assert says in refused.value.detail
    assert device.runs.shows() == both("1")


def test_a_release_runs_only_while_each_of_its_services_does(device: Device) -> None:
    order = device.order("1")
    put(device.installer(), order)
    device.runs.podman("stop", "--time=0", "fieldfare-lamp_store_1")
    assert device.installer().running() is None
    with pytest.raises(InstallerError, match="service 'store' does not run"):
        device.installer().check_trial(order.digest)

    put(device.installer(), order)

    assert device.runs.shows() == both("1")


def test_images_of_releases_that_are_gone_are_removed_and_those_removed_are_loaded_again(
    device: Device,
) -> None:
    orders = [device.order(version) for version in "123"]
    for order in orders:
        put(device.installer(), order)
    kept = [order.digest.hex()[:32] for order in orders[1:]]
    assert device.images() == {
        f"localhost/fieldfare/lamp:{digest}-{name}" for digest in kept for name in ("web", "store")
    }
    device.runs.podman("image", "prune", "--all", "--force")

    assert device.installer().roll_back(orders[2].digest) == orders[1].digest

    assert device.runs.shows() == both("2")


SHARED = (
    TWO
    + """
networks:
  default:
    external: true
    name: podman
"""
)
"""On a network that is nobody's: what comes late would find it there."""

ACTIVATES = """
import json, sys
from pathlib import Path
from firmware_hooks.compose import ComposeInstaller
installer = ComposeInstaller("lamp", Path(sys.argv[1]), json.loads(sys.argv[2]))
installer.activate(bytes.fromhex(sys.argv[3]))
"""


def test_what_an_agent_that_died_has_started_does_not_mix_with_the_way_back(
    device: Device,
) -> None:
    old = put(device.installer(), device.order("1", file=SHARED))
    new = device.order("2", file=SHARED)
    device.installer().stage(new)
    # Tells when podman-compose has begun with the first container, which then takes its time.
    mark = device.folder / "begun"
    os.mkfifo(mark)
    podman = device.folder / "podman"
    plain = device.runs.options()["podman"]
    podman.write_text(
        f'#!/bin/sh\n[ "$1" != run ] || {{ echo >{mark}; sleep 3; }}\nexec {plain} "$@"\n'
    )
    podman.chmod(0o755)
    options = device.runs.options(compose=f"podman-compose --podman-path {podman}")
    words = [str(device.folder / "install"), json.dumps(options), new.digest.hex()]
    with subprocess.Popen([sys.executable, "-c", ACTIVATES, *words]) as agent:
        mark.read_text()
        agent.send_signal(signal.SIGKILL)
    podman.write_text(f'#!/bin/sh\nexec {plain} "$@"\n')

    assert device.installer().roll_back(new.digest) == old

    assert device.runs.shows() == both("1")
    assert device.installer().running() == old


@pytest.mark.parametrize(
    "more",
    [{"colour": "red"}, {"services": ""}, {"file": "services: ["}, {"file": "hello"}],
    ids=["an unknown parameter", "no services", "no YAML", "no compose file"],
)
def test_a_release_that_cannot_be_read_is_refused_and_nothing_of_it_stays(
    more: dict[str, str], device: Device
) -> None:
    order = device.order("1", **more)
    with pytest.raises(InstallerError) as refused:
        device.installer().stage(order)

    assert refused.value.reason == Reason.MANIFEST_INVALID
    assert not device.installer().folder(order.digest).exists()
    assert device.images() == set()


def test_a_device_without_podman_compose_says_so(device: Device) -> None:
    with pytest.raises(InstallerError) as refused:
        device.installer(compose="/no/such/compose").stage(device.order("1"))

    assert "/no/such/compose" in refused.value.detail
