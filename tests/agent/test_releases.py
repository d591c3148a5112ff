import asyncio
import os
import signal
from pathlib import Path

import pytest

from agent import releases as module
from agent.releases import Releases, calls
from agent.settings import Settings
from firmware_hooks.contract import InstallerError, Order
from firmware_hooks.directory import DirectoryInstaller
from firmware_hooks.durable import write_durably
from sync.manifest import Health, Manifest
from sync.stages import Reason
from tests.fakes.clock import FakeClock
from tests.firmware_hooks.trees import release


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.model_validate(
        {"device": "lamp-1", "state_dir": tmp_path / "state", "install_dir": tmp_path / "install"}
    )


@pytest.fixture
def releases(settings: Settings) -> Releases:
    return Releases(settings)


def put(settings: Settings, releases: Releases, made: tuple[Manifest, bytes]) -> bytes:
    """Lay a release down and switch to it, as an install does."""
    manifest, tree = made
    artifact = manifest.artifacts[0]
    path = settings.state_dir / "tree"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tree)
    digest = manifest.digest()
    installer = DirectoryInstaller(manifest.component, settings.install_dir)
    installer.stage(Order(manifest, digest, {artifact.name: path}, 10**6))
    releases.keep(manifest.component, digest, manifest.canonical())
    installer.activate(digest)
    installer.clean_up()
    return digest


def lamp(version: str, *command: str) -> tuple[Manifest, bytes]:
    manifest, tree = release({"VERSION": version.encode()}, version=version)
    health = Health(command=command or ("true",), deadline_s=0.2, pause_s=0.05)
    return manifest.model_copy(update={"health": health}), tree


def test_on_a_new_device_there_is_nothing(releases: Releases) -> None:
    assert releases.components() == []
    assert releases.kept("lamp") == []
    assert releases.running("lamp") is None
    releases.clean_up()


def test_what_runs_is_the_release_that_the_installer_says_runs(
    settings: Settings, releases: Releases
) -> None:
    put(settings, releases, lamp("1.0.0"))
    second = put(settings, releases, lamp("2.0.0"))

    running = releases.running("lamp")

    assert releases.components() == ["lamp"]
    assert running is not None
    assert (running.digest, running.manifest.version) == (second, "2.0.0")


def test_manifests_stay_as_long_as_their_releases_do(
    settings: Settings, releases: Releases
) -> None:
    digests = [put(settings, releases, lamp(f"{number}.0.0")) for number in range(1, 4)]
    releases.clean_up()

    kept = {each.digest for each in releases.kept("lamp")}
    assert kept == set(digests[1:])


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 10_000])
def test_a_manifest_that_cannot_be_read_hides_no_other(
    settings: Settings, releases: Releases, content: bytes
) -> None:
    digest = put(settings, releases, lamp("1.0.0"))
    folder = settings.state_dir / "manifests" / "lamp"
    (folder / f"{'0' * 64}.json").write_bytes(content)
    (folder / "notes.json").write_bytes(content)

    assert [each.digest for each in releases.kept("lamp")] == [digest]
    releases.clean_up()


def test_a_manifest_that_was_changed_on_disk_counts_for_nothing(
    settings: Settings, releases: Releases
) -> None:
    digest = put(settings, releases, lamp("1.0.0"))
    path = settings.state_dir / "manifests" / "lamp" / f"{digest.hex()}.json"
    path.write_bytes(path.read_bytes().replace(b"1.0.0", b"9.9.9"))

    assert releases.running("lamp") is None


def test_an_installer_that_is_not_there_is_named(releases: Releases) -> None:
    with pytest.raises(InstallerError, match="telepathy") as refused:
        releases.installer("lamp", "telepathy")

    assert refused.value.reason == Reason.UNKNOWN_INSTALLER


async def test_an_installer_that_falls_over_has_failed_and_nothing_worse() -> None:
    def fall_over() -> None:
        raise KeyError("slot")

    with pytest.raises(InstallerError, match="KeyError: 'slot'") as failed:
        await calls(fall_over)

    assert failed.value.reason == Reason.INSTALLER_FAILED


async def test_a_trial_of_what_does_not_run_fails_without_running_anything(
    settings: Settings, releases: Releases, tmp_path: Path
) -> None:
    touched = tmp_path / "touched"
    manifest, tree = lamp("1.0.0", "touch", str(touched))
    put(settings, releases, (manifest, tree))
    first = releases.running("lamp")
    assert first is not None
    put(settings, releases, lamp("2.0.0"))

    verdict = await releases.trial(first, FakeClock().mono_s)

    assert not verdict.healthy
    assert not touched.exists()


async def test_what_a_restart_starts_lives_on_and_what_a_health_check_starts_does_not(
    settings: Settings, releases: Releases, tmp_path: Path
) -> None:
    leave = "sleep 60 >/dev/null 2>&1 & echo $! > "
    manifest, tree = lamp("1.0.0", "sh", "-c", f"{leave}{tmp_path / 'checked'}")
    restart = ("sh", "-c", f"{leave}{tmp_path / 'started'}")
    put(settings, releases, (manifest.model_copy(update={"restart": restart}), tree))
    running = releases.running("lamp")
    assert running is not None

    await releases.restart(running)
    assert (await releases.trial(running, FakeClock().mono_s)).healthy

    started = int((tmp_path / "started").read_text())
    checked = Path("/proc") / (tmp_path / "checked").read_text().strip()
    try:
        assert Path(f"/proc/{started}").exists()
        while checked.exists() and ") Z" not in (checked / "stat").read_text():
            await asyncio.sleep(0.01)
    finally:
        os.kill(started, signal.SIGKILL)


def test_a_file_is_put_in_place_whole_over_what_a_crash_left(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_durably(path, b"one")
    path.with_name("file.partial").write_bytes(b"half")

    write_durably(path, b"two")

    assert path.read_bytes() == b"two"
    assert [each.name for each in path.parent.iterdir()] == ["file"]


def in_parts(component: str) -> Manifest:
    manifest, _ = lamp("1.0.0")
    fields = manifest.model_dump()
    fields["component"] = component
    fields["parts"] = [{"name": "app", "installer": "container"}]
    fields["artifacts"][0]["part"] = "app"
    return Manifest.model_validate(fields)


class Told:
    """An entry point that remembers what its installer was told."""

    def __init__(self) -> None:
        self.names: list[tuple[str, Path]] = []

    def load(self) -> "Told":
        return self

    def __call__(self, component: str, install_dir: Path, _: object) -> DirectoryInstaller:
        self.names.append((component, install_dir))
        return DirectoryInstaller(component, install_dir)


def test_parts_of_one_name_in_two_components_have_nothing_in_common(
    settings: Settings, releases: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    monkeypatch.setattr(module, "entry_points", lambda **_: [told])
    # An earlier program has put this one there.
    (settings.install_dir / "vision" / "parts" / "app").mkdir(parents=True)

    for component in ("kiosk", "station", "vision"):
        releases.release(in_parts(component), bytes(32))

    assert told.names == [
        ("kiosk.app", settings.install_dir / "kiosk" / "parts"),
        ("station.app", settings.install_dir / "station" / "parts"),
        ("app", settings.install_dir / "vision" / "parts"),
    ]
