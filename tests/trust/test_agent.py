"""A whole agent: what is signed is installed, a refusal ends a deployment with its reason."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from agent.__main__ import main
from agent.requirements import check_versions
from agent.store import open_store
from agent.trust import admission
from agent.trust.sources import HubSource, Unreachable
from firmware_hooks.contract import InstallerError
from sync.manifest import Manifest
from sync.metadata import Refused
from sync.stages import Reason, Stage
from tests.agent.agents import ALL_STAGES, DEVICE, NOWHERE, Device, lamp
from tests.fakes.blobs import Blobs
from tests.fakes.small_hub import SmallHub
from tests.trust.test_guarantees import write_folder
from tests.trust.workshop import NOW_S, Workshop


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "BACKOFF_FIRST_S", 0.01)


@pytest.fixture
def workshop() -> Workshop:
    return Workshop()


def serve(blobs: Blobs, workshop: Workshop) -> None:
    for name, content in workshop.files.items():
        blobs.contents[f"/api/v1/trust/metadata/{name}"] = content


def signed(workshop: Workshop, manifest: Manifest) -> Manifest:
    workshop.release(manifest)
    return manifest


def pinning(device: Device, workshop: Workshop) -> Any:
    path = device.folder / "root.json"
    path.write_bytes(workshop.pinned)
    return partial(device.up, trust_root=path, allow_unsigned=False)


async def end_of(hub: SmallHub, deployment: str) -> str:
    await hub.reached(deployment, Stage.FAILED)
    return hub.acks(deployment)[f"{deployment}/F"].reason


async def test_01_a_signed_release_is_installed(
    device: Device, hub: SmallHub, blobs: Blobs, workshop: Workshop
) -> None:
    manifest, tree = lamp("1.0.0")
    blobs.publish(signed(workshop, manifest), tree)
    serve(blobs, workshop)
    async with pinning(device, workshop)():
        await hub.deployed("dsigned", manifest)
        status = await device.ask(op="status")
    assert hub.stages("dsigned") == ALL_STAGES
    assert device.runs() == "1.0.0"
    assert status["trust"] == {
        "signed": True,
        "root_version": 1,
        "targets_version": 2,
        "overdue_s": 0,
    }


def _unsigned(_: Workshop) -> None:
    pass


def _without_signatures(workshop: Workshop) -> None:
    workshop.edit("timestamp.json", lambda each: each.signatures.clear())


def _by_strangers(workshop: Workshop) -> None:
    workshop.signers["targets"] = Workshop().signers["targets"]
    workshop.issue(NOW_S + 9)


def _endless(workshop: Workshop) -> None:
    workshop.files["timestamp.json"] += b" " * 100_000


def _mixed(workshop: Workshop) -> None:
    del workshop.files[f"{workshop.targets.version}.targets.json"]


def _short(workshop: Workshop) -> None:
    name = f"{workshop.targets.version}.targets.json"
    workshop.files[name] = workshop.files[name][:-1]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_unsigned, Reason.UNSIGNED),
        (_without_signatures, Reason.UNSIGNED),
        (_by_strangers, Reason.BELOW_THRESHOLD),
        (_endless, Reason.ENDLESS),
        (_mixed, Reason.MIX_AND_MATCH),
        (_short, Reason.WRONG_LENGTH),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
async def test_14_a_refusal_ends_the_deployment_with_its_reason(
    device: Device,
    hub: SmallHub,
    blobs: Blobs,
    workshop: Workshop,
    spoil: Callable[[Workshop], None],
    reason: Reason,
) -> None:
    manifest, tree = lamp("1.0.0")
    blobs.publish(manifest, tree)
    if spoil is not _unsigned:
        signed(workshop, manifest)
    spoil(workshop)
    serve(blobs, workshop)
    async with pinning(device, workshop)():
        hub.deploy("dbad", manifest)
        assert await end_of(hub, "dbad") == reason
    assert hub.stages("dbad") == [Stage.DELIVERED, Stage.FAILED]
    assert device.runs() is None
    assert not [each for each in blobs.requests if each[0] in (manifest.digest().hex(), "")]


async def test_14_rollback_and_freeze_are_told_to_the_hub(
    device: Device, hub: SmallHub, blobs: Blobs, workshop: Workshop
) -> None:
    first, second, third = lamp("1.0.0"), lamp("1.1.0"), lamp("1.2.0")
    for manifest, tree in (first, second, third):
        blobs.publish(manifest, tree)
    signed(workshop, first[0])
    before = dict(workshop.files)
    workshop.release(second[0], now_s=NOW_S + 100)
    serve(blobs, workshop)
    hub.now_ms = (NOW_S + 200) * 1000
    async with pinning(device, workshop)():
        await hub.deployed("dsecond", second[0])
        blobs.contents["/api/v1/trust/metadata/timestamp.json"] = before["timestamp.json"]
        hub.deploy("dfirst", first[0])
        assert await end_of(hub, "dfirst") == Reason.ROLLBACK
        serve(blobs, workshop)
        hub.now_ms = (NOW_S + 365 * 86_400) * 1000
        hub.deploy("dagain", first[0])
        assert await end_of(hub, "dagain") == Reason.FREEZE
    assert device.runs() == "1.1.0"


async def test_a_device_without_a_root_installs_nothing_and_says_what_to_do(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    manifest, tree = lamp("1.0.0")
    blobs.publish(manifest, tree)
    async with device.up(allow_unsigned=False):
        hub.deploy("dplain", manifest)
        assert await end_of(hub, "dplain") == Reason.NO_ROOT
        status = await device.ask(op="status")
    assert "trust_root" in hub.acks("dplain")["dplain/F"].detail
    assert status["trust"]["signed"] is False
    assert device.runs() is None


async def test_allowing_unsigned_releases_counts_for_nothing_once_a_root_is_pinned(
    device: Device, hub: SmallHub, blobs: Blobs, workshop: Workshop
) -> None:
    manifest, tree = lamp("1.0.0")
    blobs.publish(manifest, tree)
    serve(blobs, workshop)
    async with pinning(device, workshop)(allow_unsigned=True):
        hub.deploy("dplain", manifest)
        assert await end_of(hub, "dplain") == Reason.UNSIGNED
    assert device.runs() is None


async def test_allowing_unsigned_releases_is_said_loudly(
    device: Device, hub: SmallHub, blobs: Blobs, caplog: pytest.LogCaptureFixture
) -> None:
    async with device.up():
        status = await device.ask(op="status")
    assert "ANYTHING is installed" in status["trust"]["problem"]
    assert [each.levelname for each in caplog.records if each.message == "unsigned_allowed"] == [
        "ERROR"
    ]


async def test_08_a_waiting_install_goes_on_with_what_a_stick_has_brought(
    device: Device,
    hub: SmallHub,
    workshop: Workshop,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    manifest, tree = lamp("1.0.0")
    signed(workshop, manifest)
    files = {manifest.digest().hex(): manifest.canonical(), manifest.artifacts[0].sha256: tree}
    stick = device.folder / "stick"
    write_folder(stick, workshop, files)
    environment = {
        "DEVICE": DEVICE,
        "STATE_DIR": str(device.folder / "state"),
        "LOCAL_SOCKET": str(device.folder / "a.sock"),
        "TRUST_ROOT": str(device.folder / "root.json"),
        "DISK_RESERVE_BYTES": "0",
    }
    for name, value in environment.items():
        monkeypatch.setenv(f"FIELDFARE_AGENT_{name}", value)
    device.hub_url = NOWHERE
    async with pinning(device, workshop)():
        hub.deploy("doffline", manifest)
        await hub.reached("doffline", Stage.DELIVERED)
        code = await asyncio.to_thread(main, ["import", str(stick)])
        assert (code, capsys.readouterr().err) == (0, "")
        await hub.reached("doffline")
    assert device.runs() == "1.0.0"


def test_import_says_why_it_refuses(
    device: Device,
    workshop: Workshop,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FIELDFARE_AGENT_DEVICE", DEVICE)
    monkeypatch.setenv("FIELDFARE_AGENT_STATE_DIR", str(device.folder / "state"))
    assert main(["import", str(device.folder)]) == 1
    assert "no root is pinned" in capsys.readouterr().err
    root = device.folder / "root.json"
    root.write_bytes(workshop.pinned)
    monkeypatch.setenv("FIELDFARE_AGENT_TRUST_ROOT", str(root))
    assert main(["import", str(device.folder / "nothing")]) == 1
    assert "neither a folder nor a file" in capsys.readouterr().err
    assert main(["import", str(device.folder)]) == 1
    assert "is refused (unsigned)" in capsys.readouterr().err


def is_open_to_all(path: Path) -> bool:
    return all(each.stat().st_mode & 0o001 for each in (path, *path.parents))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.skipif(
    not all(is_open_to_all(Path(each)) for each in (sys.prefix, sys.base_prefix)),
    reason="this Python lies where only root can read it",
)
@pytest.mark.parametrize("leads", [False, True], ids=["plain", "link"])
def test_import_by_root_touches_nothing_that_the_agent_could_not(
    workshop: Workshop, leads: bool
) -> None:
    manifest, tree = lamp("1.0.0")
    signed(workshop, manifest)
    files = {manifest.digest().hex(): manifest.canonical(), manifest.artifacts[0].sha256: tree}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        write_folder(place / "stick", workshop, files)
        (place / "root.json").write_bytes(workshop.pinned)
        state, victim = place / "state", place / "victim"
        for folder, owner in ((state, 12345), (victim, 0)):
            folder.mkdir(mode=0o755)
            os.chown(folder, owner, owner)
        (victim / "shadow").write_text("secret")
        (victim / "shadow").chmod(0o600)
        if leads:
            (state / "trust").symlink_to(victim)
        done = subprocess.run(
            [sys.executable, "-m", "agent", "import", str(place / "stick")],
            env={
                **os.environ,
                "PYTHONDONTWRITEBYTECODE": "1",
                "FIELDFARE_AGENT_DEVICE": DEVICE,
                "FIELDFARE_AGENT_STATE_DIR": str(state),
                "FIELDFARE_AGENT_TRUST_ROOT": str(place / "root.json"),
                "FIELDFARE_AGENT_DISK_RESERVE_BYTES": "0",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode == 0) is not leads, done.stderr
        assert [each.name for each in victim.iterdir()] == ["shadow"]
        assert (victim / "shadow").stat().st_uid == 0
        if not leads:
            assert {each.stat().st_uid for each in state.rglob("*")} == {12345}
            assert (state / "imported" / manifest.artifacts[0].sha256).read_bytes() == tree


async def test_09_the_floor_is_kept_in_the_store(
    device: Device, hub: SmallHub, blobs: Blobs, workshop: Workshop
) -> None:
    manifest, tree = lamp("1.0.0")
    blobs.publish(signed(workshop, manifest), tree)
    serve(blobs, workshop)
    hub.now_ms = (NOW_S + 5000) * 1000
    async with pinning(device, workshop)():
        await hub.deployed("dsigned", manifest)
    async with await open_store(device.folder / "state") as store:
        assert await store.number("trust_floor_s") >= NOW_S + 5000


async def test_an_install_that_waits_for_the_verifier_can_be_withdrawn(
    device: Device, hub: SmallHub, workshop: Workshop
) -> None:
    manifest, _ = lamp("1.0.0")
    with _silent_server() as url:
        device.hub_url = url
        async with pinning(device, workshop)():
            hub.deploy("dslow", manifest)
            await hub.reached("dslow", Stage.DELIVERED)
            hub.deploy("dslow", manifest, cancelled=True)
            await hub.reached("dslow", Stage.CANCELLED)


# 6. Everything ends: over a real connection.


def test_06_a_hub_that_drips_is_given_up() -> None:
    clock = count(0, 20)
    with _server(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\nabc", b"d", b"e") as url:
        source = HubSource(url, stall_s=20, mono_s=lambda: float(next(clock)))
        with pytest.raises(Refused) as caught:
            source.get("timestamp.json", 10_000)
    assert caught.value.reason is Reason.SLOW


def test_06_a_hub_that_never_ends_is_given_up() -> None:
    endless = b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 50_000
    with _server(*endless) as url, pytest.raises(Refused) as caught:
        HubSource(url, stall_s=20).get("timestamp.json", 10_000)
    assert caught.value.reason is Reason.ENDLESS


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nabc",
        b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n<html>log in</html>\r\n",
        b'HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{"error":"busy"}',
    ],
)
def test_06_a_hub_that_breaks_off_is_out_of_reach(answer: bytes) -> None:
    with _server(answer) as url, pytest.raises(Unreachable):
        HubSource(url, stall_s=20).get("timestamp.json", 10_000)


# Versions.


@pytest.mark.parametrize(
    ("fields", "running", "reason"),
    [
        ({"requires": {"base": ("2.*",)}}, {"base": "2.1"}, None),
        ({"requires": {"base": ("2.*", "3.0")}}, {"base": "3.0"}, None),
        ({"requires": {"base": ("2.*",)}}, {"base": "1.9"}, Reason.REQUIREMENT_UNMET),
        ({"requires": {"base": ("*",)}}, {}, Reason.REQUIREMENT_UNMET),
        ({"forbids": {"lamp": ("0.*",)}}, {"lamp": "0.9"}, Reason.FORBIDDEN_VERSION),
        ({"forbids": {"lamp": ("0.*",)}}, {"lamp": "1.0"}, None),
        ({"forbids": {"lamp": ("*",)}}, {}, None),
    ],
)
def test_a_release_says_which_versions_it_needs_and_which_it_must_not_meet(
    fields: dict[str, Any], running: dict[str, str], reason: Reason | None
) -> None:
    manifest = lamp("1.0.0")[0].model_copy(update=fields)
    if reason is None:
        check_versions(manifest, running)
        return
    with pytest.raises(InstallerError) as caught:
        check_versions(manifest, running)
    assert caught.value.reason is reason


async def test_a_requirement_that_is_not_met_ends_the_deployment(
    device: Device, hub: SmallHub, blobs: Blobs
) -> None:
    manifest, tree = lamp("1.0.0", requires={"base": ("2.*",)})
    blobs.publish(manifest, tree)
    async with device.up():
        hub.deploy("dneedy", manifest)
        assert await end_of(hub, "dneedy") == Reason.REQUIREMENT_UNMET
    assert device.runs() is None


# Parts.


@contextmanager
def _server(*pieces: bytes, keeps_open: bool = False) -> Iterator[str]:
    """Give the address of a server that answers each caller with these pieces."""
    listening = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve_one() -> None:
        try:
            caller, _ = listening.accept()
        except OSError:
            return
        with caller:
            if pieces:
                caller.recv(10_000)
            for piece in pieces:
                caller.sendall(piece)
                over.wait(0.05)  # so that each arrives alone
            if keeps_open:
                over.wait(30)

    thread = threading.Thread(target=serve_one)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        over.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def _silent_server() -> Any:
    return _server(keeps_open=True)
