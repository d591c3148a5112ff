"""The demo's course: what happens in which order, and what is waited for.

Owns the script. What is done to whom, and what should come of it, stands in `hub.demo.cast`; how it
is compared in `hub.demo.record`.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

from hub import answers
from hub.client import HubClient, HubFailure, NoHub
from hub.demo.board import Board
from hub.demo.cast import CAST, COMPONENT, LINKED, NEW, OLD, Expected, Fault, Part
from hub.demo.fleet import SILENCE_S, DeviceProgram, HubProgram, state_dir_of
from hub.demo.ground import LOOPBACK, CannotStart, Ground
from hub.demo.record import NOTHING, Act, Look, Record, check_look
from hub.demo.secure import refuses_strangers
from hub.link_proxy import LinkProxy
from hub.outcomes.silence import Verdict
from hub.release_build import DESCRIPTION, build_release
from hub.trust import signing
from hub.trust.keys import KeyFolder

T = TypeVar("T")

HUB_MAX_S: Final = 40.0
"""Longest wait for the hub, and for each step of the preparation, on a slow machine."""

STEP_MAX_S: Final = 45.0
"""Longest wait for what is expected at a look; then it is looked all the same, and compared."""

POLL_S: Final = 0.3

POWER_OFF_S: Final = 1.0
"""How long the killed agent stays away."""


class Play:
    """One run of the demo on a ground."""

    def __init__(
        self, ground: Ground, example: Path, board: Board, *, is_secure: bool = False
    ) -> None:
        self.record = Record(silence_s=SILENCE_S)
        self._ground = ground
        self._example = example
        self._board = board
        self._hub = HubProgram(ground, is_secure=is_secure)
        self._client = HubClient(self._hub.url, token=self._token)
        self._keys = KeyFolder(ground.folder / "keys")
        self._secret = secrets.token_urlsafe()
        self._devices: list[DeviceProgram] = []
        self._deployment = ""

    async def run(self) -> Record:
        """Run the whole demo and return what was done and found.

        Raises:
            CannotStart: The preparation failed; says what, and what a program said last.
        """
        try:
            async with self._prepared():
                requested_mono = await self._go_wrong()
                await self._look("first", requested_mono)
                self._repair()
                await self._look("final", requested_mono)
        finally:
            for device in self._devices:
                device.over.set()
        self.record.took_s = self._board.elapsed_s()
        return self.record

    # Preparation: everything is fine, and everybody runs the old version.

    @asynccontextmanager
    async def _prepared(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            self._board.phase("Starting a hub with its broker")
            secure = self._hub.secure
            if secure is not None:
                secure.broker.start()
            self._hub.program.start()
            about = await self._until(self._hub_answers, "the hub did not start", HUB_MAX_S)
            self.record.broker = about.broker.kind
            if secure is not None:
                self.record.strangers_are_refused = await asyncio.to_thread(
                    refuses_strangers, self._hub.broker_port
                )
            self._board.say(f"the hub runs at {self._hub.url}, its broker is {about.broker.kind}")
            await asyncio.to_thread(self._make_keys)
            self._board.say("releases will be signed with keys that the hub does not have")
            for part in CAST:
                link, tls = None, None
                if secure is not None:
                    state_dir = state_dir_of(self._ground, part)
                    await asyncio.to_thread(secure.enrol, self._client, part.device, state_dir)
                    tls = secure.link_tls(state_dir)
                if part.fault in LINKED:
                    link = LinkProxy(self._hub.broker_port, broker_host=LOOPBACK, tls=tls)
                    await stack.enter_async_context(link)
                device = DeviceProgram(self._ground, part, self._hub, link, self._keys.pinned)
                device.program.start()
                self._devices.append(device)
            self._board.phase(f"Starting {len(CAST)} agents")
            await self._until(self._all_connected, "not every agent connected", HUB_MAX_S)
            self._board.phase(f"Deploying {COMPONENT} {OLD} to all of them")
            await asyncio.to_thread(self._publish, OLD)
            accepted = await asyncio.to_thread(
                lambda: self._client.deploy(f"{COMPONENT}@{OLD}", group="all")
            )
            everybody = {
                part.device: Expected(verdict=Verdict.ACKNOWLEDGED, version=OLD) for part in CAST
            }
            if not await self._wait_for(accepted.deployment, everybody):
                raise CannotStart(f"not every device came to run {OLD}: {self._last_words()}")
            self._board.say(f"all {len(CAST)} devices run {OLD} and have proven it")
            yield

    def _token(self) -> str:
        return self._hub.token_file.read_text().strip()

    async def _hub_answers(self) -> answers.Hub | None:
        if not self._hub.token_file.exists():
            return None
        try:
            found = await asyncio.to_thread(self._client.hub)
        except NoHub:
            return None
        return found if found.broker.connected else None

    async def _all_connected(self) -> bool | None:
        found = await asyncio.to_thread(lambda: list(self._client.devices()))
        return sum(bool(each.online) for each in found) == len(CAST) or None

    def _make_keys(self) -> None:
        quorums = {role: signing.Quorum(1, 1) for role in ("root", "targets")}
        online = self._client.trust()["online"]
        signing.begin(self._keys, online, quorums, self._passphrase, now_s=int(time.time()))
        self._client.hand_in(self._keys.roots(), self._keys.targets()[1])

    def _passphrase(self) -> str:
        return self._secret

    def _publish(self, version: str) -> None:
        trees = [self._example / "common", self._example / version]
        with build_release(trees, trees[-1] / DESCRIPTION, work_dir=self._ground.folder) as built:
            targets = signing.list_release(
                self._keys, built.manifest, self._passphrase, now_s=int(time.time())
            )
            self._client.put_blob(built.artifact, built.manifest.artifacts[0].sha256)
            self._client.hand_in([], targets)
            self._client.publish(built.manifest)

    # The release, and what goes wrong.

    async def _go_wrong(self) -> float:
        """Break what is to be broken, deploy the new version, and return when it was asked for."""
        self._board.phase("Breaking things on purpose")
        for device in self._devices:
            self._act(device.part, device.part.done)
            if device.link is not None and device.part.fault is Fault.OFFLINE:
                device.link.cut()
            elif device.link is not None and device.part.fault is Fault.DEAF:
                device.link.deafen()
        await self._until(self._cut_is_known, "the hub did not notice the cut link", HUB_MAX_S)
        await asyncio.to_thread(self._publish, NEW)
        killed = self._one(Fault.KILLED)
        before = killed.switched_to()
        kill = asyncio.create_task(asyncio.to_thread(killed.kill_after_switch, before, STEP_MAX_S))
        self._board.phase(
            f"Deploying {NEW}; a connected device counts as silent after {SILENCE_S:g} s here"
        )
        requested_mono = time.monotonic()
        accepted = await asyncio.to_thread(
            lambda: self._client.deploy(f"{COMPONENT}@{NEW}", group="all")
        )
        self._deployment = accepted.deployment
        self._board.say(f"deployment {accepted.deployment} for {len(accepted.targeted)} devices")
        if await kill:
            self._act(killed.part, "its agent got SIGKILL right after it had thrown the switch")
            await asyncio.sleep(POWER_OFF_S)
            report = await asyncio.to_thread(self._client.deployment, self._deployment)
            self.record.faults.is_killed = True
            self.record.faults.killed_at = next(
                (each.stage for each in report.devices if each.device == killed.part.device), None
            )
            killed.program.start()
            self._act(killed.part, "its agent was started again")
        return requested_mono

    async def _cut_is_known(self) -> bool | None:
        name = self._one(Fault.OFFLINE).part.device
        found = await asyncio.to_thread(self._client.device, name)
        return found.online is False or None

    def _repair(self) -> None:
        self._board.phase("Repairing the links")
        for device in self._devices:
            if device.link is None:
                continue
            if device.part.fault is Fault.DEAF:
                device.link.undeafen()
                # What was swallowed is gone for good; a new connection asks anew.
                device.link.cut()
            device.link.restore()
            self._act(device.part, "its link was repaired")

    # Looking.

    async def _look(self, name: str, requested_mono: float) -> None:
        """Wait for what is expected, look, and compare; whatever is there then, is compared."""
        expected = {part.device: part.first if name == "first" else part.final for part in CAST}
        if not await self._wait_for(self._deployment, expected):
            self._board.say(f"after {STEP_MAX_S:g} s not everything is as expected; looking anyway")
        runs = await asyncio.to_thread(self._runs)
        report = await asyncio.to_thread(self._client.deployment, self._deployment)
        fleet = await asyncio.to_thread(self._client.fleet)
        devices = {
            part.device: await asyncio.to_thread(self._client.device, part.device) for part in CAST
        }
        look = Look(
            name=name,
            at_s=self._board.elapsed_s(),
            since_request_s=time.monotonic() - requested_mono,
            report=report,
            fleet=fleet,
            devices=devices,
            runs=runs,
        )
        deaf = self._one(Fault.DEAF).link
        self.record.faults.swallowed_count = deaf.swallowed_count if deaf is not None else 0
        self.record.looks.append(look)
        self.record.checks += check_look(look, self.record.faults)
        self._board.say(report.sentence)

    async def _wait_for(self, deployment: str, expected: Mapping[str, Expected]) -> bool:
        """Wait until report and devices are as expected; False if that takes too long."""
        deadline = time.monotonic() + STEP_MAX_S
        while True:
            runs = await asyncio.to_thread(self._runs)
            try:
                report = await asyncio.to_thread(self._client.deployment, deployment)
            except HubFailure as failure:
                raise CannotStart(f"{failure}; {self._last_words()}") from None
            self._board.show(report, runs)
            found = {each.device: each.verdict for each in report.devices}
            if all(
                found.get(device) is wish.verdict and runs[device] == wish.version
                for device, wish in expected.items()
            ):
                return True
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(POLL_S)

    def _runs(self) -> dict[str, str]:
        return {device.part.device: device.runs() or NOTHING for device in self._devices}

    # Parts.

    async def _until(
        self, ask: Callable[[], Awaitable[T | None]], problem: str, wait_s: float
    ) -> T:
        deadline = time.monotonic() + wait_s
        while True:
            found = await ask()
            if found is not None:
                return found
            if not self._hub.program.is_running() or time.monotonic() > deadline:
                raise CannotStart(f"{problem}: {self._last_words()}")
            await asyncio.sleep(POLL_S)

    def _one(self, fault: Fault) -> DeviceProgram:
        return next(device for device in self._devices if device.part.fault is fault)

    def _act(self, part: Part, what: str) -> None:
        if part.fault is not Fault.NONE:
            self.record.acts.append(
                Act(at_s=self._board.elapsed_s(), device=part.device, what=what)
            )
            self._board.say(f"{part.device}: {what}")

    def _last_words(self) -> str:
        dead = [
            program
            for program in [self._hub.program, *(each.program for each in self._devices)]
            if not program.is_running()
        ]
        if not dead:
            return f"every program runs; their logs are in {self._ground.folder} (--keep)"
        return "; ".join(f"{program.name} ended: {program.last_words()}" for program in dead)
