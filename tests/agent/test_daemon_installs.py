"""What becomes of deployments, from the hub's wish to what runs and what is said about it."""

import asyncio
import shutil
import threading
from typing import Any

import pytest

from agent import acts
from agent.checks import Checks
from agent.command import Ended
from agent.installer import InstallEngine
from agent.work import Work
from firmware_hooks.contract import InstallerError
from firmware_hooks.directory import DirectoryInstaller
from sync.manifest import Check, Health
from sync.stages import Reason, Stage, is_final
from sync.transport.memory_broker import MemoryBroker
from tests.agent.agents import ALL_STAGES, DEVICE, NOWHERE, Device, lamp
from tests.fakes.blobs import Blobs
from tests.fakes.links import eventually
from tests.fakes.small_hub import SmallHub


@pytest.mark.parametrize("group", [False, True], ids=["to the device", "to its group"])
async def test_a_release_is_installed_and_every_stage_is_acknowledged_in_order(
    device: Device, hub: SmallHub, blobs: Blobs, *, group: bool
) -> None:
    manifest, tree = lamp("1.0.0")
    blobs.publish(manifest, tree)
    async with device.up():
        await hub.deployed("dfirst", manifest, group=group)
        await eventually(lambda: not any((device.folder / "state" / "downloads").iterdir()))

    assert hub.stages("dfirst") == ALL_STAGES
    assert device.runs() == "1.0.0"
    running = hub.running("lamp")
    assert running is not None
    assert (running.version, running.healthy, running.deployment) == ("1.0.0", True, "dfirst")
    assert running.release == manifest.digest()


async def test_a_release_that_fails_its_trial_is_rolled_back_and_the_old_one_is_proven_again(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    good, bad = lamp("1.0.0"), lamp("2.0.0", healthy=False)
    blobs.publish(*good)
    blobs.publish(*bad)
    async with device.up():
        await hub.deployed("dgood", good[0])
        hub.deploy("dbad", bad[0])
        await hub.reached("dbad", Stage.ROLLED_BACK)

    assert hub.stages("dbad") == [
        Stage.DELIVERED,
        Stage.VERIFIED,
        Stage.APPLIED,
        Stage.ROLLED_BACK,
    ]
    assert hub.acks("dbad")["dbad/B"].reason == "health_failed"
    assert device.runs() == "1.0.0"
    running = hub.running("lamp")
    assert running is not None
    assert (running.version, running.healthy) == ("1.0.0", True)


async def test_a_first_release_that_fails_its_trial_leaves_nothing_running(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    bad = lamp("1.0.0", healthy=False)
    blobs.publish(*bad)
    async with device.up():
        hub.deploy("dbad", bad[0])
        await hub.reached("dbad", Stage.ROLLED_BACK)

    assert device.runs() is None
    running = hub.running("lamp")
    assert running is not None
    assert (running.version, running.healthy) == ("", False)


async def test_a_restart_command_that_fails_leads_back(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    good = lamp("1.0.0")
    bad = lamp("2.0.0", restart=("sh", "-c", "echo no power; exit 3"))
    blobs.publish(*good)
    blobs.publish(*bad)
    async with device.up():
        await hub.deployed("dgood", good[0])
        hub.deploy("dbad", bad[0])
        await hub.reached("dbad", Stage.ROLLED_BACK)

    assert "no power" in hub.acks("dbad")["dbad/B"].detail
    assert device.runs() == "1.0.0"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"compatible": ("pump-controller",)}, "incompatible"),
        ({"installer": "telepathy"}, "unknown_installer"),
    ],
)
async def test_a_release_that_does_not_fit_is_given_up_before_its_artifacts_are_fetched(
    device: Device, hub: SmallHub, blobs: Blobs, change: dict[str, Any], reason: str
) -> None:
    manifest, tree = lamp("1.0.0", **change)
    blobs.publish(manifest, tree)
    async with device.up():
        hub.deploy("dfirst", manifest)
        await hub.reached("dfirst", Stage.FAILED)

    assert hub.acks("dfirst")["dfirst/F"].reason == reason
    assert [digest for digest, _ in blobs.requests] == [manifest.digest().hex()]


async def test_a_stage_is_told_at_once_however_long_the_next_takes(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    shines = device.folder / "shines"
    manifest, tree = lamp("1.0.0")
    health = Health(command=("test", "-e", str(shines)), deadline_s=600, pause_s=0.05)
    manifest = manifest.model_copy(update={"health": health})
    blobs.publish(manifest, tree)
    async with device.up():
        hub.deploy("dfirst", manifest)
        await hub.reached("dfirst", Stage.APPLIED)
        assert Stage.HEALTHY not in hub.stages("dfirst")
        shines.touch()
        await hub.reached("dfirst")

    assert hub.stages("dfirst") == ALL_STAGES


async def test_a_release_whose_files_the_hub_lost_is_given_up(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    manifest, _ = lamp("1.0.0")
    blobs.publish(manifest)
    async with device.up():
        hub.deploy("dfirst", manifest)
        await hub.reached("dfirst", Stage.FAILED)

    assert hub.acks("dfirst")["dfirst/F"].reason == "not_found"


async def test_deliveries_and_ends_are_acknowledged_at_once_whatever_is_under_way(
    device: Device, hub: SmallHub
) -> None:
    device.hub_url = NOWHERE
    async with device.up():
        hub.deploy("dlong", lamp("1.0.0")[0])
        await hub.until(lambda: hub.stages("dlong") == [Stage.DELIVERED])
        hub.deploy("dother", lamp("1.0.0", component="pump")[0])
        hub.deploy("dgone", lamp("1.0.1", component="pump")[0], cancelled=True)
        await hub.until(lambda: hub.stages("dother") == [Stage.DELIVERED])
        await hub.until(lambda: set(hub.stages("dgone")) == {Stage.DELIVERED, Stage.CANCELLED})

    assert hub.stages("dlong") == [Stage.DELIVERED]


@pytest.mark.parametrize("end", [Stage.SUPERSEDED, Stage.CANCELLED, Stage.EXPIRED])
async def test_a_download_ends_when_its_deployment_does(
    device: Device, hub: SmallHub, blobs: Blobs, end: Stage
) -> None:
    device.hub_url = NOWHERE
    manifest, newer = lamp("1.0.0")[0], lamp("1.1.0")
    async with device.up():
        hub.deploy("dlong", manifest, expires_ms=hub.now_ms + 1000)
        await hub.until(lambda: hub.stages("dlong") == [Stage.DELIVERED])
        if end is Stage.SUPERSEDED:
            hub.deploy("dnewer", newer[0])
        elif end is Stage.CANCELLED:
            hub.deploy("dlong", manifest, cancelled=True)
        else:
            hub.now_ms += 2000
            hub.wish("mode", "eco")  # any message of the hub proves that its time has passed
        await hub.until(lambda: end in hub.stages("dlong"))

    assert hub.stages("dlong") == [Stage.DELIVERED, end]


async def test_a_download_waits_for_the_hub_to_come_within_reach(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    manifest, tree = lamp("1.0.0")
    device.hub_url = NOWHERE
    async with device.up():
        hub.deploy("dfirst", manifest)
        await hub.until(lambda: hub.stages("dfirst") == [Stage.DELIVERED])
    blobs.publish(manifest, tree)
    device.hub_url = blobs.url
    async with device.up():
        await hub.reached("dfirst")

    assert hub.stages("dfirst") == ALL_STAGES


async def test_a_start_proves_what_is_installed_anew(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    manifest, tree = lamp("1.0.0")
    blobs.publish(manifest, tree)
    async with device.up():
        await hub.deployed("dfirst", manifest)
    before = hub.running("lamp")
    assert before is not None
    (device.folder / "install" / "lamp" / "current" / "VERSION").write_text("spoilt\n")
    async with device.up():
        await hub.until(lambda: hub.running("lamp") != before)

    after = hub.running("lamp")
    assert after is not None
    assert (after.version, after.healthy, after.deployment) == ("1.0.0", False, "dfirst")
    assert after.reason == "health_failed"


async def test_the_same_release_deployed_again_is_acknowledged_without_being_installed(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    manifest, tree = lamp("1.0.0")
    blobs.publish(manifest, tree)
    async with device.up():
        await hub.deployed("dfirst", manifest)
        fetched = len(blobs.requests)
        await hub.deployed("dagain", manifest)

    assert hub.stages("dagain") == [Stage.DELIVERED, Stage.HEALTHY, Stage.ACKNOWLEDGED]
    assert hub.acks("dagain")["dagain/K"].reason == "already_running"
    assert len(blobs.requests) == fetched


async def test_a_release_that_ran_before_the_agent_knew_it_is_gone_back_to_and_not_called_proven(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    good, bad = lamp("1.0.0"), lamp("2.0.0", healthy=False)
    blobs.publish(*good)
    blobs.publish(*bad)
    async with device.up():
        await hub.deployed("dgood", good[0])
        shutil.rmtree(device.folder / "state" / "manifests")
        hub.deploy("dbad", bad[0])
        await hub.reached("dbad", Stage.ROLLED_BACK)

    assert device.runs() == "1.0.0"
    running = hub.running("lamp")
    assert running is not None
    assert (running.release, running.healthy) == (good[0].digest(), False)


async def test_a_health_command_of_a_release_speaks_for_nobody_else(
    device: Device, hub: SmallHub, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/nobody")
    script = (
        'test -z "$NOTIFY_SOCKET" && test "$FIELDFARE_COMPONENT" = lamp '
        '&& test "$FIELDFARE_VERSION" = 1.0.0 && test "$FIELDFARE_DEVICE" = lamp-1 '
        '&& test "$FIELDFARE_RELEASE_DIR" = "$(pwd -P)" && touch "$FIELDFARE_STATE_DIR/seen"'
    )
    manifest, tree = lamp("1.0.0")
    health = manifest.health.model_copy(update={"command": ("sh", "-c", script)})
    manifest = manifest.model_copy(update={"health": health})
    blobs.publish(manifest, tree)
    async with device.up():
        hub.deploy("dfirst", manifest)
        await hub.until(lambda: any(is_final(stage) for stage in hub.stages("dfirst")))

    assert hub.stages("dfirst") == ALL_STAGES
    assert (device.folder / "state" / "components" / "lamp" / "seen").exists()


@pytest.mark.parametrize("replaced", [False, True], ids=["taken back", "replaced"])
async def test_a_deployment_that_vanishes_from_the_hub_s_document_ends_and_nothing_of_it_goes_on(
    device: Device, hub: SmallHub, broker: MemoryBroker, *, replaced: bool
) -> None:
    device.hub_url = NOWHERE
    end = Stage.SUPERSEDED if replaced else Stage.CANCELLED
    async with device.up():
        hub.deploy("dbegun", lamp("1.0.0")[0])
        hub.deploy("dwaits", lamp("1.0.0", component="pump")[0])
        await hub.until(lambda: hub.stages("dwaits") == [Stage.DELIVERED])
        broker.partition(DEVICE)
        if replaced:
            for component in ("lamp", "pump"):
                hub.deploy(f"dnew{component}", lamp("2.0.0", component=component)[0])
        hub.forget("dbegun", "dwaits")
        broker.heal(DEVICE)
        await hub.until(lambda: end in hub.stages("dbegun") and end in hub.stages("dwaits"))

    assert hub.stages("dbegun") == hub.stages("dwaits") == [Stage.DELIVERED, end]


async def test_an_install_whose_deployment_vanished_while_the_device_was_off_is_not_taken_up(
    device: Device, hub: SmallHub
) -> None:
    url, device.hub_url = device.hub_url, NOWHERE
    async with device.up():
        hub.deploy("dbegun", lamp("1.0.0")[0])
        await hub.until(lambda: hub.stages("dbegun") == [Stage.DELIVERED])
    hub.forget("dbegun")
    async with device.up():
        await hub.reached("dbegun", Stage.CANCELLED)
    device.hub_url = url
    async with device.up():
        hub.deploy("dnext", lamp("1.0.0")[0])
        await hub.reached("dnext", Stage.FAILED)

    assert device.runs() is None


async def test_a_wish_that_vanishes_with_the_first_word_of_the_hub_ends_all_the_same(
    device: Device, hub: SmallHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, acknowledge = InstallEngine.load, Work.acknowledge

    def is_wanted(work: Work) -> bool:
        return bool(work._documents.wanted().get(hub.desired))

    async def never(_: InstallEngine) -> None:
        await asyncio.Event().wait()

    async def after_the_hub(engine: InstallEngine) -> None:
        while engine._documents.wanted().get(hub.desired):
            await asyncio.sleep(0)
        await load(engine)

    async def when_gone(work: Work) -> None:
        if not is_wanted(work):
            await acknowledge(work)

    monkeypatch.setattr(InstallEngine, "load", never)
    async with device.up():
        hub.deploy("dbegun", lamp("1.0.0")[0])
        await hub.until(lambda: hub.stages("dbegun") == [Stage.DELIVERED])
    hub.forget("dbegun")
    monkeypatch.setattr(InstallEngine, "load", after_the_hub)
    monkeypatch.setattr(Work, "acknowledge", when_gone)
    async with device.up():
        await hub.reached("dbegun", Stage.CANCELLED)

    assert hub.stages("dbegun") == [Stage.DELIVERED, Stage.CANCELLED]


async def test_a_release_that_runs_and_cannot_be_committed_is_reported_as_such(
    device: Device, hub: SmallHub, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[bytes] = []

    def refuses(_: DirectoryInstaller, digest: bytes) -> None:
        tries.append(digest)
        raise InstallerError(Reason.INSTALLER_FAILED, "current: Read-only file system")

    first, second = lamp("1.0.0"), lamp("2.0.0")
    for each in (first, second):
        blobs.publish(*each)
    async with device.up():
        await hub.deployed("dfirst", first[0])
        monkeypatch.setattr(DirectoryInstaller, "commit", refuses)
        monkeypatch.setattr(acts, "COMMIT_AGAIN_S", 0.01)
        hub.deploy("dsecond", second[0])
        await hub.reached("dsecond", Stage.FAILED)

    assert len(tries) == acts.COMMIT_TRIES
    assert Stage.ACKNOWLEDGED not in hub.stages("dsecond")
    ack = hub.acks("dsecond")["dsecond/F"]
    assert ack.reason == "installer_failed"
    assert "could not be committed" in ack.detail
    running = hub.running("lamp")
    assert running is not None
    assert (running.version, device.runs()) == ("2.0.0", "2.0.0")


async def test_a_proven_release_is_committed_before_the_hub_is_looked_for(
    device: Device, hub: SmallHub, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    commit = DirectoryInstaller.commit

    def commits(self: DirectoryInstaller, digest: bytes) -> None:
        commit(self, digest)
        done.append("committed")

    async def looks(*_: object) -> Ended:
        done.append("looked for the hub")
        return Ended(0, "")

    monkeypatch.setattr(DirectoryInstaller, "commit", commits)
    monkeypatch.setattr(Checks, "_hub", looks)
    manifest, tree = lamp("1.0.0")
    health = manifest.health.model_copy(update={"checks": (Check(kind="hub", budget_s=600),)})
    manifest = manifest.model_copy(update={"health": health})
    blobs.publish(manifest, tree)
    async with device.up():
        await hub.deployed("dfirst", manifest)

    assert done == ["committed", "looked for the hub"]
    assert hub.acks("dfirst")["dfirst/H"].detail == ""


async def test_a_hub_that_is_away_for_longer_than_its_budget_is_told_with_the_success(
    device: Device, hub: SmallHub, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checks, "_hub", _away)
    manifest, tree = lamp("1.0.0")
    health = manifest.health.model_copy(update={"checks": (Check(kind="hub", budget_s=5),)})
    manifest = manifest.model_copy(update={"health": health})
    blobs.publish(manifest, tree)
    async with device.up():
        await hub.deployed("dfirst", manifest)

    assert hub.acks("dfirst")["dfirst/H"].detail == "the hub was not reached"


async def _away(*_: object) -> Ended:
    return Ended(1, "the hub was not reached")


async def test_an_install_under_way_is_not_said_to_have_ended_before_it_is_known_to_be_under_way(
    device: Device, hub: SmallHub, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, tried = asyncio.get_running_loop(), asyncio.Event()
    gate, load = threading.Event(), InstallEngine.load

    def hangs(_: DirectoryInstaller, digest: bytes) -> None:
        loop.call_soon_threadsafe(tried.set)
        gate.wait()

    async def late(engine: InstallEngine) -> None:
        await hub.reached("dlater", Stage.DELIVERED)
        await load(engine)

    manifest, tree = lamp("1.0.0")
    blobs.publish(manifest, tree)
    with monkeypatch.context() as patched:
        patched.setattr(DirectoryInstaller, "check_trial", hangs)
        async with device.up():
            hub.deploy("dfirst", manifest)
            await tried.wait()
        gate.set()
    monkeypatch.setattr(InstallEngine, "load", late)
    hub.deploy("dlater", lamp("2.0.0")[0])
    async with device.up():
        await hub.until(lambda: any(map(is_final, hub.stages("dfirst"))))

    assert hub.stages("dfirst") == ALL_STAGES
