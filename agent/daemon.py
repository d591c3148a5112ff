"""The agent's life: start, the tasks, stop. The only module of the agent that starts tasks.

Owns the order of start and stop and what is connected to what. Decides nothing else.
Ready means: the store is open, what a crash interrupted is known and its ends are told, and
applications can connect. A network is not needed for that.
"""

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
from collections.abc import Iterable
from functools import partial
from random import Random
from typing import Any, Final, Protocol

from agent.clock import Clock
from agent.documents import Documents
from agent.facts import AGENT_VERSION, facts, news
from agent.faults import first_of
from agent.flags import Flags
from agent.holding import Holding
from agent.identity import Identity, identity_of
from agent.installer import InstallEngine
from agent.kills import Kills
from agent.local import LocalSocket
from agent.lock import lock_state
from agent.log import say
from agent.measuring import Measuring
from agent.patience import Patience
from agent.renewal import Renewal
from agent.settings import Settings
from agent.store import Store, StoreError, StoreFull, open_store
from agent.values import Values
from agent.work import Work
from sync import documents as names
from sync import topics
from sync.records import Running, select
from sync.transport.mqtt import MqttTransport
from sync.transport.notify import notify, status, watchdog_s
from sync.transport.port import (
    Birth,
    Congested,
    Connected,
    Delivery,
    Disconnected,
    Event,
    Link,
    Presence,
    Transport,
)

logger = logging.getLogger(__name__)

BATCH_MAX: Final = 100
BIRTH_BITS: Final = 20
REOPEN_SPREAD_S: Final = 3.0
"""After the hub came back, devices begin anew spread over this time."""

PAYLOAD_BYTES_MAX: Final = 256 * 1024

FEEDS: Final = 4
"""So often the watchdog of the service manager is fed in the time that it allows."""

RETRY_S: Final = 30.0
"""Wait before what found the disk full is tried again."""


class Connect(Protocol):
    """Makes a transport. Only this module knows that it is MQTT."""

    def __call__(self, link: Link, *, presence: Presence) -> Transport:
        """Return a transport that is not yet running."""
        ...


class Daemon:
    """One run of the agent."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        clock: Clock,
        connect: Connect = MqttTransport,
        identity: Identity | None = None,
    ) -> None:
        """Connect the parts; `connect` makes the transport, `identity` says who this device is."""
        self._settings = settings
        self._store = store
        self._clock = clock
        self._random = Random()  # noqa: S311 - jitter only
        self._documents = Documents(settings, store, clock)
        self._births = 0
        self._hub_run = ""
        self._reopen = asyncio.Event()
        self._up = topics.up_topic(settings.device)
        self._down = topics.down_topic(settings.device)
        self._kill_topics = frozenset(topics.kill_topic(group) for group in settings.groups)
        self._transport: Transport = connect(
            Link(
                client_id=settings.device,
                host=settings.broker_host,
                port=settings.broker_port,
                tls=identity.context if identity is not None and settings.broker_tls else None,
                version=settings.mqtt_version,
                keepalive_s=settings.keepalive_s,
                reconnect_max_s=settings.reconnect_max_s,
                payload_max_bytes=PAYLOAD_BYTES_MAX,
            ),
            presence=Presence(topics.presence_topic(settings.device), self._birth),
        )
        self._documents.on_stage = self._on_written
        self._values = Values(self._documents, on_written=self._on_written)
        self._work: Work  # made below; until then nothing changes
        self._kills = Kills(store, self._documents, on_changed=self._on_killed)
        self._flags = Flags(
            settings, store, self._documents, self._kills, clock, on_written=self._on_written
        )
        self._holding = Holding(store, clock, on_changed=lambda: self._work.wake())  # noqa: PLW0108
        patience = Patience(
            settings,
            store,
            self._documents,
            clock,
            locks=self._holding.held,
            on_written=self._on_written,
        )
        self._engine = InstallEngine(
            settings,
            store,
            self._documents,
            clock,
            identity,
            patience,
            lambda: self._transport.connected,
        )
        self._renewal: Renewal | None = None
        if identity is not None:
            self._renewal = Renewal(
                identity,
                settings.hub_url,
                settings.device_key,
                clock,
                lambda: self._transport.connected,
            )
        self._work = Work(
            settings,
            self._documents,
            self._engine,
            on_written=self._on_written,
            off=self._kills.deployments,
        )
        self._engine.ask_features(partial(self._flags.is_on, default=True))
        self._measuring = Measuring(
            settings, store, self._documents, clock, on_written=self._on_written
        )
        self._local = LocalSocket(
            settings.socket_path,
            allowed_uids=frozenset(settings.local_allowed_uids),
            operations={
                "get": self._values.get,
                "set": self._values.set,
                "unset": self._values.unset,
                "list": self._values.list_all,
                "status": self._status,
                "why": self._why,
                "wake": self._woken,
                "inhibitors": self._holding.inhibitors,
                "flag": self._flags.flag,
                "flags": self._flags.flags,
                "measure": self._measuring.measure,
                "measures": self._measuring.rows,
            },
            personal={"inhibit": self._holding.inhibit, "release": self._holding.release},
            snapshots={
                "settings": lambda: {"settings": self._values.rows()},
                "flags": self._flags.snapshot,
            },
        )
        self._listening = asyncio.Event()
        self._written = asyncio.Event()
        self._rearm = asyncio.Event()
        self._missed: dict[str, bytes] = {}
        self._has_missed = asyncio.Event()

    async def run(self) -> None:
        """Run until cancelled."""
        await self._documents.start()
        self._work.remember()
        await self._holding.load()
        await self._kills.load()
        await self._flags.load()
        await self._measuring.load()
        # Births are numbered within a start and starts within the device, so they only grow.
        self._births = self._documents.start_number << BIRTH_BITS
        known = self._documents.reported()
        told = facts(self._settings, self._clock.stamp().boot, self._store.opened.kept)
        with contextlib.suppress(StoreError):  # a full disk: the facts are told at a later start
            await self._documents.write(news(told, known))
        if self._store.opened.damaged is not None:
            kept_as = self._store.opened.damaged
            say(logger, "database_damaged", level=logging.ERROR, kept_as=kept_as)
        groups = [topics.group_topic(group) for group in self._settings.groups]
        for topic in (self._down, topics.HUB_PRESENCE, *self._kill_topics, *groups):
            self._transport.subscribe(topic)
        gc.collect()
        gc.freeze()  # what the start has made stays; looking at it again would only cost
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._local.run(self._listening.set), name="local socket")
            tasks.create_task(self._ready(), name="ready")
            tasks.create_task(self._transport.run(), name="transport")
            tasks.create_task(self._receive(), name="receive")
            tasks.create_task(self._tell(), name="tell")
            tasks.create_task(self._repeat(), name="repeat")
            tasks.create_task(self._compare(), name="compare")
            tasks.create_task(self._catch_up(), name="catch up")
            tasks.create_task(self._work.run(), name="work")
            tasks.create_task(self._flags.watch_lease(self._ask), name="lease")
            tasks.create_task(self._measuring.run(), name="measuring")
            if self._settings.share_host and self._settings.share_keep_bytes:
                # Imported here: most agents serve nobody.
                from agent.shared import FOLDER, Shared  # noqa: PLC0415
                from agent.sharing import Sharing  # noqa: PLC0415

                kept = Shared(self._settings.state_dir / FOLDER, self._settings.share_keep_bytes)
                sharing = Sharing(self._settings, kept)
                tasks.create_task(sharing.run(), name="sharing")
            if self._renewal is not None:
                tasks.create_task(self._renewal.run(), name="renewal")

    async def _ready(self) -> None:
        """Say that the agent is ready once it is, then for as long as its work goes on."""
        await self._listening.wait()
        await self._work.recovered.wait()
        notify(f"READY=1\n{status(self._engine.activity)}")
        self._engine.on_activity = lambda activity: notify(status(activity))
        groups = ",".join(self._settings.groups)
        self._engine.admission.say_how()
        say(logger, "ready", device=self._settings.device, groups=groups)
        within_s = watchdog_s(os.environ, os.getpid())
        while within_s is not None:
            await self._store.answers()
            if await self._work.goes_on():
                notify("WATCHDOG=1")
            await asyncio.sleep(within_s / FEEDS)

    def _on_written(self) -> None:
        self._written.set()

    def _on_killed(self) -> None:
        self._work.killed()
        self._on_written()

    async def _ask(self) -> None:
        """Make the hub say something: comparing documents is what it answers to."""
        if self._transport.connected:
            self._send(await self._documents.opened())
            self._rearm.set()

    # The tasks.

    async def _receive(self) -> None:
        while True:
            for event in await self._transport.receive(BATCH_MAX):
                try:
                    await self._take(event)
                except StoreError as error:
                    say(logger, "store_refused", level=logging.ERROR, error=error)
                    self._miss(event)
                except Exception:  # a retained message would end the agent at every start, for good
                    logger.exception("message_not_taken")

    async def _take(self, event: Event) -> None:
        match event:
            case Connected():
                say(logger, "connected", version=event.version)
                self._measuring.link(is_connected=True)
                self._send(await self._documents.opened())
                self._rearm.set()
                self._work.wake()
            case Disconnected():
                say(logger, "disconnected", reason=event.reason)
                self._measuring.link(is_connected=False)
                self._documents.closed()
            case Delivery(topic=topics.HUB_PRESENCE):
                self._transport.acknowledge(event)
                self._hear_hub(event.payload)
            case Delivery(topic=topic) if topic in self._kill_topics:
                try:
                    await self._kills.take(event.payload)
                finally:
                    self._transport.acknowledge(event)  # as in `_mail`
                self._missed.pop(topic, None)
            case Delivery():
                await self._mail(event)

    async def _mail(self, event: Delivery) -> None:
        direct = event.topic == self._down
        try:
            replies, changed = await self._documents.receive(event.payload, direct=direct)
        finally:
            # Whatever happened: unacknowledged messages would fill the broker's window and make
            # this device deaf. What was not stored is not confirmed, so the hub says it again,
            # but for what it says to groups; see `_catch_up`.
            self._transport.acknowledge(event)
        self._missed.pop(event.topic, None)  # this one is newer
        await self._heard(replies, changed=changed)
        if direct and await self._flags.heard():
            self._local.announce()

    async def _heard(self, replies: Iterable[bytes], *, changed: bool) -> None:
        self._send(replies)
        self._rearm.set()
        if changed:
            self._flags.look()
            self._work.killed()
            self._work.wake()
            await self._work.acknowledge()
            if await self._values.record_conflicts():
                self._on_written()
            self._local.announce()

    def _hear_hub(self, payload: bytes) -> None:
        """A hub that started anew may have forgotten, or been restored: compare documents."""
        try:
            run = str(json.loads(payload)["run"]) if payload else ""
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        if run and run != self._hub_run:
            is_other, self._hub_run = bool(self._hub_run), run
            if is_other:
                self._reopen.set()

    async def _tell(self) -> None:
        """Gather writes for a moment, then tell the hub of all of them at once."""
        while True:
            await self._written.wait()
            await asyncio.sleep(self._settings.linger_ms / 1000)
            self._written.clear()
            await self._flags.settle()
            self._send(await self._documents.changed())
            self._rearm.set()
            self._local.announce()

    async def _repeat(self) -> None:
        """Say again what was not answered, exactly when it is due."""
        while True:
            self._rearm.clear()
            wake = self._documents.wake_mono()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(
                    None if wake is None else max(0.0, wake - self._clock.mono_s())
                ):
                    await self._rearm.wait()
                    continue
            self._send(await self._documents.due())

    async def _compare(self) -> None:
        """Compare documents with the hub from time to time, and when another hub has begun."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(
                    self._settings.anti_entropy_s * self._random.uniform(0.5, 1.5)
                ):
                    await self._reopen.wait()
                    self._reopen.clear()
                await asyncio.sleep(self._random.uniform(0, REOPEN_SPREAD_S))
            await self._ask()

    def _miss(self, event: Event) -> None:
        """Remember what there was no room to keep: nobody says a group's wishes a second time."""
        if isinstance(event, Delivery) and event.topic not in (self._down, topics.HUB_PRESENCE):
            self._missed[event.topic] = event.payload
            self._has_missed.set()

    async def _catch_up(self) -> None:
        """Take what there was no room for again, the last of each topic, until there is room."""
        wait_s = self._settings.retry_first_s
        while True:
            await self._has_missed.wait()
            await asyncio.sleep(wait_s * self._random.uniform(0.5, 1.5))
            wait_s = min(2 * wait_s, RETRY_S)
            for topic, payload in list(self._missed.items()):
                try:
                    if topic in self._kill_topics:
                        await self._kills.take(payload)
                    else:
                        replies, changed = await self._documents.receive(payload, direct=False)
                        await self._heard(replies, changed=changed)
                except StoreError:
                    break  # said when it was refused first; the disk is still full
                if self._missed.get(topic) == payload:
                    del self._missed[topic]
            if not self._missed:
                self._has_missed.clear()
                wait_s = self._settings.retry_first_s

    # Parts.

    def _send(self, frames: Iterable[bytes]) -> None:
        for frame in frames:
            try:
                self._transport.publish_soon(self._up, frame)
            except Congested:
                return  # the session says it again

    def _birth(self) -> Birth:
        """Return the presence of one connection; its number is used only once."""
        self._births += 1
        boot = self._clock.stamp().boot.hex()
        birth = {
            "birth": self._births,
            "boot": boot,
            "version": AGENT_VERSION,
            "keepalive_s": self._settings.keepalive_s,
        }

        def payload(**more: Any) -> bytes:
            return json.dumps({**birth, **more}, separators=(",", ":")).encode()

        return Birth(
            payload(online=True),
            payload(online=False),
            payload(online=False, clean=True),
        )

    async def _why(self, _: Any) -> dict[str, Any]:
        told = self._work.why(self._clock.stamp(), connected=self._transport.connected)
        return {"device": self._settings.device, **told, "locks": self._holding.rows()}

    async def _woken(self, _: Any) -> dict[str, Any]:
        """Something was imported: what waits for the hub may not need it any more."""
        self._work.wake()
        return {}

    async def _status(self, _: Any) -> dict[str, Any]:
        running = select(Running, names.VERSION, self._documents.reported())
        return {
            "device": self._settings.device,
            "connected": self._transport.connected,
            "settled": self._documents.settled,
            "activity": self._engine.activity,
            "trust": self._engine.admission.status(),
            "running": {
                component: {"version": record.version, "healthy": record.healthy}
                for component, record in sorted(running.items())
            },
            "refused_from_hub": self._documents.offence_count,
            **self._measuring.status(),
        }


async def serve(settings: Settings, clock: Clock, connect: Connect = MqttTransport) -> None:
    """Run the agent until SIGTERM or SIGINT.

    A full disk is waited for, also at the start: whoever makes room must not have to come twice.

    Raises:
        StoreError: The state folder or database cannot be used.
        LocalSocketError: The socket for applications cannot be opened.
        NotEnrolled: `broker_tls` is set, and there is no identity.
    """
    running = asyncio.ensure_future(_live(settings, clock, connect))

    def stop() -> None:
        notify("STOPPING=1")
        running.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        await running
    except asyncio.CancelledError:
        say(logger, "stopped")
    except BaseExceptionGroup as group:
        raise first_of(group) from group


async def _live(settings: Settings, clock: Clock, connect: Connect) -> None:
    with lock_state(settings.state_dir):
        identity = identity_of(settings)
        while True:
            try:
                async with await open_store(settings.state_dir) as store:
                    await Daemon(settings, store, clock, connect, identity).run()
            except StoreFull as error:
                say(logger, "store_full", level=logging.ERROR, error=error, retry_s=RETRY_S)
                # The service manager must not take it for a start that failed.
                notify(f"EXTEND_TIMEOUT_USEC={round(3e6 * RETRY_S)}\n{status(str(error))}")
                await asyncio.sleep(RETRY_S)
