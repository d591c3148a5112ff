"""Real containers of the real podman, as root, without a network."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from firmware_hooks.container import ContainerInstaller
from firmware_hooks.contract import InstallerError, Order
from sync.stages import Reason
from tests.firmware_hooks.podman import LOOP, Podman, podman
from tests.firmware_hooks.releases import order_of, put


@pytest.fixture(scope="module")
def runs() -> Iterator[Podman]:
    with podman() as made:
        yield made


class Device:
    def __init__(self, folder: Path, runs: Podman) -> None:
        self.folder = folder
        self.podman = runs

    def installer(self, **options: str | float) -> ContainerInstaller:
        return ContainerInstaller("lamp", self.folder / "install", self.podman.options(**options))

    def order(self, version: str, does: str = LOOP, **parameters: str) -> Order:
        archive = self.podman.image(version, self.folder / f"image-{version}", does)
        return order_of(
            self.folder,
            version,
            {"image": archive.read_bytes()},
            installer="container",
            parameters=parameters,
        )

    def images(self) -> set[str]:
        listed = self.podman("images", "--format", "{{.Repository}}:{{.Tag}}").split()
        return {name for name in listed if name.startswith("localhost/fieldfare/")}


@pytest.fixture
def device(tmp_path: Path, runs: Podman) -> Iterator[Device]:
    yield Device(tmp_path, runs)
    runs.clear()


def test_one_container_runs_at_a_time_and_the_old_one_comes_back(device: Device) -> None:
    old = put(device.installer(), device.order("1"))
    new = device.order("2")
    device.installer().stage(new)
    assert device.podman.shows() == "1"
    device.installer().activate(new.digest)
    assert device.podman.shows() == "2"

    assert device.installer().roll_back(new.digest) == old

    assert device.podman.shows() == "1"
    assert device.podman("ps", "--all", "--format", "{{.Names}}") == "fieldfare-lamp"


def test_a_release_says_how_its_container_is_run_and_what_in_it(device: Device) -> None:
    command = "sh -c 'echo \"$COLOUR\" >/said; exec sleep 600'"
    put(
        device.installer(),
        device.order("1", run_options="--env 'COLOUR=dark red'", command=command),
    )

    assert device.podman("exec", "fieldfare-lamp", "cat", "/said") == "dark red"


def test_images_of_releases_that_are_gone_are_removed_and_others_left_alone(
    device: Device,
) -> None:
    archive = device.podman.image("9", device.folder / "theirs")
    device.podman("load", "--input", str(archive))
    digests = [put(device.installer(), device.order(version)).hex()[:32] for version in "123"]

    assert device.images() == {f"localhost/fieldfare/lamp:{digest}" for digest in digests[1:]}
    assert "localhost/made:9" in device.podman("images", "--format", "{{.Repository}}:{{.Tag}}")


def test_the_container_is_of_the_image_that_came_whatever_its_tag_says_later(
    device: Device,
) -> None:
    new = device.order("1")
    device.installer().stage(new)
    theirs = device.podman.image("6", device.folder / "theirs")
    device.podman("load", "--input", str(theirs))
    tag = f"localhost/fieldfare/lamp:{new.digest.hex()[:32]}"
    device.podman("tag", "localhost/made:6", tag)

    device.installer().activate(new.digest)

    assert device.podman.shows() == "1"


def test_an_image_that_somebody_removed_is_loaded_again_from_the_release(device: Device) -> None:
    old = put(device.installer(), device.order("1"))
    new = device.order("2")
    device.installer().stage(new)
    device.installer().activate(new.digest)
    device.podman("image", "prune", "--all", "--force")

    assert device.installer().roll_back(new.digest) == old

    assert device.podman.shows() == "1"


def test_a_container_that_somebody_ended_no_longer_runs_and_is_started_again(
    device: Device,
) -> None:
    order = device.order("1")
    old = put(device.installer(), order)
    device.podman("stop", "--time=0", "fieldfare-lamp")
    assert device.installer().running() is None
    with pytest.raises(InstallerError):
        device.installer().check_trial(old)

    put(device.installer(), order)

    assert device.installer().running() == old
    assert device.podman.shows() == "1"


def test_a_container_of_that_name_that_is_not_ours_is_not_taken_for_the_release(
    device: Device,
) -> None:
    old = put(device.installer(), device.order("1"))
    device.podman("rm", "--force", "--time=0", "fieldfare-lamp")
    archive = device.podman.image("6", device.folder / "theirs")
    device.podman("load", "--input", str(archive))
    words = device.podman.options()["run_options"]
    device.podman(
        "run", "--detach", "--name=fieldfare-lamp", *str(words).split(), "localhost/made:6"
    )

    assert device.installer().running() is None
    with pytest.raises(InstallerError) as refused:
        device.installer().check_trial(old)
    assert "is not as the release" in refused.value.detail


def test_a_container_that_will_not_end_is_ended(device: Device) -> None:
    stubborn = "trap '' TERM; while :; do sleep 0.1; done"
    put(device.installer(), device.order("1", stubborn))

    put(device.installer(), device.order("2"))

    assert device.podman.shows() == "2"


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"run_options": "--no-such-option"}, "podman create ended with"),
        ({"command": "/no/such/program"}, "podman start ended with"),
        ({"run_options": "--env A=1 localhost:1/other/image"}, "podman create ended with"),
    ],
    ids=["option", "program", "image of a registry"],
)
def test_a_container_that_cannot_start_ends_the_install_and_the_old_one_comes_back(
    parameters: dict[str, str], says: str, device: Device
) -> None:
    old = put(device.installer(), device.order("1"))
    new = device.order("2", **parameters)
    device.installer().stage(new)

    with pytest.raises(InstallerError) as failed:
        device.installer(timeout_s=30).activate(new.digest)

    assert failed.value.reason == Reason.INSTALLER_FAILED
    assert failed.value.detail.startswith(says)
    assert "registry" not in failed.value.detail
    assert device.installer().roll_back(new.digest) == old
    assert device.podman.shows() == "1"


def test_what_is_no_image_is_refused_and_nothing_of_it_stays(device: Device) -> None:
    order = order_of(device.folder, "1", {"image": b"rubbish" * 100}, installer="container")

    with pytest.raises(InstallerError) as refused:
        device.installer().stage(order)

    assert refused.value.detail.startswith("podman load ended with")
    assert not device.installer().folder(order.digest).exists()
    assert device.images() == set()


@pytest.mark.parametrize(
    "parameters",
    [
        {"colour": "red"},
        {"run_options": "'"},
        {"command": "'"},
        {"run_options": "--name other"},
        {"run_options": "--name=other"},
        {"run_options": "--env A=b -d"},
        {"run_options": "-itd"},
        {"run_options": "--rm"},
        {"run_options": "--restart=no"},
    ],
)
def test_a_parameter_that_is_wrong_is_refused_before_anything_is_loaded(
    parameters: dict[str, str], device: Device
) -> None:
    with pytest.raises(InstallerError) as refused:
        device.installer().stage(device.order("1", **parameters))

    assert refused.value.reason == Reason.MANIFEST_INVALID
    assert device.images() == set()


def test_the_device_does_not_take_over_the_name_of_containers_either(device: Device) -> None:
    with pytest.raises(InstallerError, match="'--name' is for the installer alone"):
        device.installer(run_options="--name other")


def test_options_with_values_that_look_like_ours_are_none_of_ours(device: Device) -> None:
    words = device.podman.options()["run_options"]
    installer = device.installer(run_options=f"{words} -eWORD=d --env NAME=--rm")
    order = device.order("1", run_options="--label fieldfare.release=another")
    installer.stage(order)
    installer.activate(order.digest)
    installer.check_trial(order.digest)


def test_a_device_without_podman_says_so(device: Device) -> None:
    with pytest.raises(InstallerError) as refused:
        device.installer(podman="/no/such/podman").stage(device.order("1"))

    assert refused.value.reason == Reason.REQUIREMENT_UNMET
    assert "/no/such/podman" in refused.value.detail
