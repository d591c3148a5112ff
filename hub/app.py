"""The hub as a running program: what is made, in which order it starts, and how it stops.

Owns every task of the hub. Holds no policy.

It starts from the inside out: store, broker, link, then HTTP; and says one line when it is ready.
It stops from the outside in: no more requests, then no more messages, then a goodbye to the broker,
then the store. Killed at any moment it loses nothing that it has acknowledged.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from hub.admission import Admission
from hub.api.app import build_api
from hub.api.device_app import build_device_api
from hub.api.status import Status, program_version
from hub.artifact_store import ArtifactStore, open_store
from hub.broker import EmbeddedBroker
from hub.broker_plan import BrokerProblem
from hub.clock import Clock, SystemClock
from hub.conversations import Conversations
from hub.correspondence import Correspondence
from hub.desired import DesiredDocuments
from hub.entries import Entries
from hub.errors import (
    BadSettings,
    BrokerUnusable,
    ExitCode,
    HubError,
    StateDirUnusable,
    StorageUnusable,
)
from hub.export.points import Point, points
from hub.export.secrets import otlp_headers, webhook_secret
from hub.export.webhooks import Webhooks
from hub.flood import Flood
from hub.groups import Groups
from hub.http import HttpServer, bind
from hub.https import HttpsServer
from hub.identity.office import Office, open_office
from hub.ingest import Ingest
from hub.mailroom import Mailroom
from hub.mending import Mender
from hub.offences import Offences
from hub.operations import Operations
from hub.packs import Packs
from hub.publisher import Publisher
from hub.settings import Settings
from hub.shown import ShownFormatter
from hub.start import Identity, begin
from hub.store.database import Database, open_database
from hub.tls import context_of
from hub.tokens import first_token
from hub.trust.desk import TrustDesk
from hub.trust.online import OnlineKeys
from hub.watch import Watch
from sync.topics import EVERY_PRESENCE, EVERY_UP, HUB_PRESENCE
from sync.transport.journal import JournalHandler, writes_to_journal
from sync.transport.mqtt import MqttTransport
from sync.transport.notify import notify, status, watchdog_s
from sync.transport.port import Birth, Link, Presence, Subscription

if TYPE_CHECKING:
    from hub.export.otlp import Otlp

logger = logging.getLogger(__name__)

CLIENT_ID: Final = "hub"
"""At the broker; no device may be called so."""

KEEPALIVE_S: Final = 30
RECONNECT_MAX_S: Final = 10.0

BROKER_DIRECTORY: Final = "broker"

PROGRAM: Final = "fieldfare-hub"

LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Ready(NamedTuple):
    """Where a hub that runs can be reached."""

    url: str
    broker_kind: str
    broker_host: str
    broker_port: int
    state_dir: str
    devices_url: str
    """Where devices enrol and fetch, over HTTPS; empty if there is no such place."""

    def line(self) -> str:
        """Return the same as one line for people."""
        devices = f" (devices: {self.devices_url})" if self.devices_url else ""
        return (
            f"fieldfare hub is ready: {self.url}{devices}, {self.broker_kind} broker at "
            f"{self.broker_host}:{self.broker_port}, state in {self.state_dir}"
        )


async def serve(
    settings: Settings,
    *,
    clock: Clock | None = None,
    say: Callable[[Ready], None] | None = None,
    tell_token: Callable[[str], None] | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Run the hub until SIGTERM, SIGINT or `stop`.

    Args:
        settings: What was chosen.
        clock: Where the time comes from; the machine's clocks if None.
        say: Is told where the hub can be reached; that is printed as one line if None.
        tell_token: Takes the first token at the first start, unless it goes to a file; prints it
            if None.
        stop: Ends the hub when set, as a signal does.

    Raises:
        HubError: It cannot run, and why. Nothing was left running.
    """
    clock = clock or SystemClock()
    stop = stop or asyncio.Event()
    database = open_database(settings.state_dir)
    try:
        mender = Mender(clock)
        database.mend = mender.mend
        artifacts = await open_store(settings)
        identity = database.transact(lambda db: begin(db, clock.now_ms()))
        desired = mender.desired = DesiredDocuments(identity.client_id)
        begun = _Begun(database, artifacts, identity, desired, mender)
        office = open_office(settings, database, clock.now_ms())
        with contextlib.ExitStack() as sockets:
            listening = sockets.enter_context(
                contextlib.closing(bind(settings.http_host, settings.http_port))
            )
            secure = None
            if settings.https_port is not None:
                secure = sockets.enter_context(
                    contextlib.closing(bind(settings.https_host, settings.https_port))
                )
            async with _broker(settings) as broker, _signals(stop):
                front = _Front(listening, secure, office)
                hub = _Hub.build(settings, clock, begun, broker, front)
                # Not before everything else is there: it is shown only once.
                _make_first_token(settings, clock, database, tell_token or _print_token)
                await hub.run(stop, say or _print)
    except StorageUnusable as error:
        raise StateDirUnusable(str(error)) from None
    finally:
        await database.close()


def run(settings: Settings) -> ExitCode:
    """Run the hub as a program and return its exit code; a reason not to run goes to stderr."""
    told: logging.Handler = logging.StreamHandler(sys.stderr)
    if writes_to_journal():
        told = JournalHandler(PROGRAM, lambda record: {"event": record.msg})
    told.setFormatter(ShownFormatter(LOG_FORMAT))
    logging.basicConfig(handlers=[told], level=settings.log_level.upper(), force=True)
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, logging.root.level))
    try:
        asyncio.run(serve(settings))
    except HubError as error:
        print(f"fieldfare hub: {error}", file=sys.stderr)  # noqa: T201 - the program's own words
        return error.exit_code
    return ExitCode.OK


@dataclass(frozen=True, slots=True)
class _Begun:
    """What is there before anybody hears of the hub."""

    database: Database
    artifacts: ArtifactStore
    identity: Identity
    desired: DesiredDocuments
    mender: Mender


@dataclass(frozen=True, slots=True)
class _Broker:
    """The broker to connect to."""

    kind: str
    host: str
    port: int
    child: EmbeddedBroker | None


@dataclass(frozen=True, slots=True)
class _Front:
    """Where requests come in, and what TLS rests on."""

    listening: socket.socket
    secure: socket.socket | None
    office: Office | None


@contextlib.asynccontextmanager
async def _broker(settings: Settings) -> AsyncIterator[_Broker]:
    """Give the broker, running and watched if it is the hub's own.

    Raises:
        BrokerUnusable: The embedded broker cannot run.
    """
    address = settings.broker_address
    if address is not None:
        yield _Broker("external", *address, None)
        return
    try:
        child = EmbeddedBroker(settings.state_dir / BROKER_DIRECTORY, port=settings.broker_port)
    except BrokerProblem as problem:
        raise BrokerUnusable(str(problem)) from None
    running = asyncio.create_task(child.run(), name="broker")
    ready = asyncio.create_task(child.ready(), name="broker-ready")
    try:
        await asyncio.wait({running, ready}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await _raise_broker_problem(running)
        yield _Broker(child.plan.kind.value, "127.0.0.1", child.port, child)
    finally:
        for task in (ready, running):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError, BrokerProblem):
            await running


async def _raise_broker_problem(running: "asyncio.Task[None]") -> None:
    try:
        await running
    except BrokerProblem as problem:
        raise BrokerUnusable(str(problem)) from None


@contextlib.asynccontextmanager
async def _signals(stop: asyncio.Event) -> AsyncIterator[None]:
    """Let SIGTERM and SIGINT ask for a clean stop."""
    loop = asyncio.get_running_loop()
    caught = []
    for each in (signal.SIGTERM, signal.SIGINT):
        # Only the main thread may; a test that runs the hub in another has `stop`.
        with contextlib.suppress(ValueError, RuntimeError):
            loop.add_signal_handler(each, stop.set)
            caught.append(each)
    try:
        yield
    finally:
        for each in caught:
            loop.remove_signal_handler(each)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hub:
    """The parts that run."""

    transport: MqttTransport
    mailroom: Mailroom
    publisher: Publisher
    packs: Packs
    artifacts: ArtifactStore
    http: HttpServer
    https: HttpServer | None
    beside: tuple[Callable[[], Coroutine[Any, Any, None]], ...]
    """What tells other systems; each runs for as long as messages come in."""
    ready: Ready

    @classmethod
    def build(
        cls,
        settings: Settings,
        clock: Clock,
        begun: "_Begun",
        broker: _Broker,
        front: _Front,
    ) -> "_Hub":
        database, identity, desired = begun.database, begun.identity, begun.desired
        offences = Offences()
        groups = Groups()
        database.transact(groups.load)
        conversations = Conversations()
        watch = Watch(conversations, offences)
        entries = Entries(offences)
        correspondence = Correspondence(desired, groups, conversations, offences)
        ingest = Ingest(
            run=identity.run,
            flood=Flood(
                rate_per_s=settings.device_messages_per_s, burst_count=settings.device_burst_count
            ),
            offences=offences,
            entries=entries,
            watch=watch,
            correspondence=correspondence,
            admission=Admission(
                devices_max_count=settings.devices_max_count,
                per_hour_max_count=settings.new_devices_per_hour_max_count,
            ),
        )
        ingest.enrolled_only = settings.broker_tls
        transport = MqttTransport(
            _link(settings, broker, front.office),
            subscriptions=(Subscription(EVERY_UP), Subscription(EVERY_PRESENCE)),
            presence=Presence(HUB_PRESENCE, _births(identity)),
        )
        publisher = Publisher(transport, database, groups, clock, identity.run)
        packs = Packs(
            settings.state_dir,
            begun.artifacts,
            count_max=settings.packs_max_count,
            make_s=settings.pack_make_s,
            bytes_max=settings.pack_tree_bytes_max,
        )
        operations = Operations(
            settings=settings,
            clock=clock,
            database=database,
            artifacts=begun.artifacts,
            desired=desired,
            entries=entries,
            groups=groups,
            conversations=conversations,
            publisher=publisher,
            packs=packs,
        )
        mailroom = Mailroom(
            transport=transport,
            database=database,
            ingest=ingest,
            watch=watch,
            groups=groups,
            conversations=conversations,
            correspondence=correspondence,
            publisher=publisher,
            clock=clock,
            run_id=identity.run,
            batch_max_count=settings.batch_max_count,
        )
        database.recall = mailroom.recall

        webhooks = _webhooks(settings, clock, begun)

        def counters() -> dict[str, int]:
            own: dict[str, int] = asdict(ingest.counters)
            return {
                **own,
                "offence_count": offences.total_count,
                "conversation_count": len(conversations),
                "unsent_count": mailroom.unsent_count,
                "fault_count": mailroom.fault_count,
                "mended_count": begun.mender.mended_count,
                **begun.artifacts.counters(),
                **(asdict(webhooks.counters) if webhooks is not None else {}),
                **{f"mqtt_{name}": count for name, count in transport.counters.as_dict().items()},
            }

        host, port = front.listening.getsockname()[:2]
        trust_desk = TrustDesk(database, clock, OnlineKeys(settings.state_dir), operations.ledger)
        desk, https, devices_url = None, None, ""
        if front.office is not None and front.secure is not None:
            secure_port = front.secure.getsockname()[1]
            secure_address = f"{_in_url(settings.https_names[0])}:{secure_port}"
            devices_url = f"https://{secure_address}"
            desk = front.office.desk(database, clock, secure_address, operations.ledger)
            https = HttpsServer(
                build_device_api(operations, trust_desk, desk),
                front.secure,
                front.office.for_devices,
                connections_max_count=settings.http_connections_max_count,
                stall_s=settings.http_stall_s,
            )
        status = Status(
            run=identity.run.hex(),
            broker_kind=broker.kind,
            broker_host=broker.host,
            broker_port=broker.port,
            started_at_ms=clock.now_ms(),
            is_connected=lambda: transport.connected,
            counters=counters,
        )
        beside = [webhooks.run] if webhooks is not None else []
        if settings.otlp_url is not None:
            beside.append(_otlp(settings, operations, status).run)
        tls = context_of(settings)
        url = f"{'http' if tls is None else 'https'}://{_in_url(host)}:{port}"
        return cls(
            transport=transport,
            mailroom=mailroom,
            publisher=publisher,
            packs=packs,
            artifacts=begun.artifacts,
            http=HttpServer(
                build_api(operations, status, trust_desk, desk),
                front.listening,
                context=tls,
                connections_max_count=settings.http_connections_max_count,
                stall_s=settings.http_stall_s,
            ),
            https=https,
            beside=tuple(beside),
            ready=Ready(
                url,
                broker.kind,
                broker.host,
                broker.port,
                str(settings.state_dir),
                devices_url,
            ),
        )

    async def run(self, stop: asyncio.Event, say: Callable[[Ready], None]) -> None:
        """Run every part until `stop`, then end them from the outside in."""
        async with asyncio.TaskGroup() as tasks:
            link = tasks.create_task(self.transport.run(), name="transport")
            inward = [
                tasks.create_task(self.http.run(), name="http"),
                tasks.create_task(self.publisher.run(), name="publisher"),
                tasks.create_task(self.publisher.kill_topic.run(), name="kill topic"),
                tasks.create_task(self.packs.run(), name="packs"),
                tasks.create_task(self.artifacts.run(), name="artifacts"),
                *(tasks.create_task(run(), name="told others") for run in self.beside),
                tasks.create_task(self.mailroom.keep_time(), name="time"),
                tasks.create_task(self.mailroom.run(), name="mailroom"),
                link,
            ]
            if self.https is not None:
                outward = tasks.create_task(self.https.run(), name="https")
                await self.https.started()
            await self.http.started()
            # What exists now lives as long as the hub; the collector need not walk it again.
            gc.collect()
            gc.freeze()
            say(self.ready)
            notify(f"READY=1\n{status(self.ready.line())}")
            if watchdog_s(os.environ, os.getpid()) is not None:
                self.mailroom.turned = partial(notify, "WATCHDOG=1")
            await stop.wait()
            notify("STOPPING=1")
            logger.info("stopping")
            self.http.stop()
            if self.https is not None:
                self.https.stop()
                await asyncio.wait([outward])
            await asyncio.wait([inward[0]])
            for task in inward[1:]:
                task.cancel()
                await asyncio.wait([task])


def _webhooks(settings: Settings, clock: Clock, begun: _Begun) -> Webhooks | None:
    if not settings.webhook_urls:
        return None
    return Webhooks(
        settings=settings,
        database=begun.database,
        clock=clock,
        source=f"urn:fieldfare:hub:{begun.identity.client_id:x}",
        secret=webhook_secret(settings),
    )


def _otlp(settings: Settings, operations: Operations, status: Status) -> "Otlp":
    """Return what sends measures on.

    Raises:
        BadSettings: The extra is not installed, or the headers cannot be read.
    """
    try:
        # Imported here: an extra, of 20 MB, that most hubs do without.
        from hub.export.otlp import Otlp, exporter_to  # noqa: PLC0415
    except ModuleNotFoundError:
        raise BadSettings(
            "otlp_url needs the extra `otlp`: pip install 'fieldfare[hub,otlp]'"
        ) from None

    async def now() -> list[Point]:
        return points(await operations.fleet(), status.view())

    assert settings.otlp_url is not None  # noqa: S101 - the caller asked
    return Otlp(
        now,
        exporter_to(settings.otlp_url, otlp_headers(settings)),
        every_s=settings.otlp_every_s,
        resource={
            "service.name": "fieldfare-hub",
            "service.version": program_version(),
            "service.instance.id": status.run,
        },
    )


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _link(settings: Settings, broker: _Broker, office: Office | None) -> Link:
    own = broker.child is not None
    password = settings.broker_password
    return Link(
        client_id=CLIENT_ID,
        host=broker.host,
        port=broker.port,
        username=None if own else settings.broker_username,
        password=None if own or password is None else password.get_secret_value(),
        tls=office.to_broker if office is not None and settings.broker_tls else None,
        version=settings.mqtt_version,
        keepalive_s=KEEPALIVE_S,
        reconnect_max_s=RECONNECT_MAX_S,
        receive_maximum=2 * settings.batch_max_count,
        inbound_max_count=2 * settings.batch_max_count,
    )


def _births(identity: Identity) -> Callable[[], Birth]:
    count = 0

    def birth() -> Birth:
        nonlocal count
        count += 1
        said: dict[str, Any] = {"birth": identity.birth(count), "run": identity.run.hex()}
        return Birth(
            online=msgspec.json.encode({"online": True, **said}),
            offline=msgspec.json.encode({"online": False, **said}),
            stopped=msgspec.json.encode({"online": False, "clean": True, **said}),
        )

    return birth


def _make_first_token(
    settings: Settings, clock: Clock, database: Database, tell: Callable[[str], None]
) -> None:
    """Make the token of the first admin if there never was one, and let it be known."""
    file = settings.bootstrap_token_file
    shown = database.transact(
        lambda db: first_token(
            db, file, now_ms=clock.now_ms(), rows_max_count=settings.audit_max_count
        )
    )
    if shown is not None and file is not None:
        logger.info("the token of the first admin is in %s", file)
    elif shown is not None:
        tell(shown.text())


def _print_token(text: str) -> None:
    print(  # noqa: T201 - the program's own words
        f"fieldfare hub: the token of the first admin, shown this once: {text} (if it gets lost, "
        "`fieldfare token bootstrap` makes another)",
        flush=True,
    )


def _print(ready: Ready) -> None:
    print(ready.line(), flush=True)  # noqa: T201 - the program's own words
