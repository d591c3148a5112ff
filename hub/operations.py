"""Everything an operator can ask of the hub, as one object that knows no HTTP.

Owns the order of an operation: check, one transaction, then publish. Whoever calls gets the answer
when it is durable.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Final, TypeVar

from firmware_hooks.tree import tree_named
from hub import deployments, judging, measures, releases, terms, views, wishes
from hub.artifact_store import ArtifactStore
from hub.artifacts import is_digest
from hub.audit import DONE, UNCHANGED, Act, Ledger, who_acts
from hub.clock import Clock
from hub.conversations import Conversations
from hub.deployments import Accepted, Request
from hub.desired import DesiredDocuments
from hub.entries import Entries
from hub.errors import NotFound, Refusal, WrongContent
from hub.groups import Groups
from hub.looks import Looks
from hub.outcomes.progress import Limits
from hub.packs import NoPack, Pack, Packs, Tree
from hub.publisher import Publisher
from hub.settings import Settings
from hub.store import audit as audit_store
from hub.store import deployments as deployment_store
from hub.store import devices as device_store
from hub.store import queries
from hub.store import releases as release_store
from hub.store.audit import Row
from hub.store.database import Connection, Database
from hub.store.measures import Asked
from hub.store.releases import Release
from hub.terms import Order
from hub.trust import notary
from sync.documents import BadName, DocumentName, Kind
from sync.manifest import parse_manifest
from sync.selector import BadSelector
from sync.topics import check_device, check_group

T = TypeVar("T")

UNMEASURED: Final = (
    "{name} has no owner or no outcome, so nobody will know how it fared: give both in its "
    "description, or say why not (`unmeasured`)"
)

PAGE_MAX: Final = 1000

CHEAP_S: Final = 0.02
"""An answer that took longer to work out is kept for a while."""

KEPT_FOR_COST: Final = 10.0
"""For how many times what it took. So reports cost at most a tenth of a core, however often
somebody asks."""

KEPT_MAX: Final = 100

ASKED_S: Final = 60.0
"""For so long a count of devices is good enough to judge a pack by: a whole fleet asks for the same
one at once, and counting 100,000 devices takes 5 ms."""


def limits_of(settings: Settings) -> Limits:
    """Return what judgements hold against what was seen."""
    return Limits(
        execution_gap_ms=round(settings.limit_execution_gap_s * 1000),
        handshake_ms=round(settings.limit_handshake_s * 1000),
        devices_min=settings.limit_devices_min_count,
        failed_ratio=settings.limit_failed_ratio,
        adopted_ratio=settings.limit_adopted_ratio,
        passed_ratio=settings.limit_passed_ratio,
        human_ratio=settings.limit_human_ratio,
        crashed_ratio=settings.limit_crashed_ratio,
        canary_ratio=settings.limit_canary_ratio,
        look_after_ms=round(settings.limit_look_after_s * 1000),
    )


_Ends = tuple[Release | None, Release | None, int]
"""Two releases, and how many devices run the first."""


@dataclass(slots=True, kw_only=True)
class Operations:
    """What can be asked."""

    settings: Settings
    clock: Clock
    database: Database
    artifacts: ArtifactStore
    desired: DesiredDocuments
    entries: Entries
    groups: Groups
    conversations: Conversations
    publisher: Publisher
    packs: Packs
    ledger: Ledger = field(init=False)
    _kept: dict[object, tuple[float, Any]] = field(default_factory=dict)
    _asked: dict[tuple[str, str], tuple[float, "_Ends"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Write every change together with who made it."""
        self.ledger = Ledger(self.database, self.clock, self.settings.audit_max_count)

    # ------------------------------------------------------------------------------ releases
    async def publish_release(self, fields: object) -> tuple[Release, bool]:
        """Add a release whose artifacts are here; return it, and whether it is new.

        Raises:
            WrongContent: It is no manifest, or nobody would know how it fares.
            Clash: Artifacts are missing, the version was released with other content, or this hub
                has a root and the release is not on its signed list.
        """
        manifest = releases.check_release(fields, self.artifacts)
        if not manifest.says_how_it_is_judged:
            raise WrongContent(UNMEASURED.format(name=f"{manifest.component}@{manifest.version}"))
        await self.artifacts.keep(manifest.canonical())
        now_ms = self.clock.now_ms()
        asked = {"digest": manifest.digest().hex()}
        act = Act("release.publish", f"{manifest.component}@{manifest.version}", asked)

        def job(db: Connection) -> tuple[Release, bool]:
            notary.require_listed(db, manifest)
            found, is_new = releases.publish(db, manifest, now_ms)
            act.outcome = DONE if is_new else UNCHANGED
            return found, is_new

        return await self._write(act, job)

    async def releases(self) -> list[Release]:
        """Return all releases, newest first."""
        return await self.database.read(release_store.every)

    async def pack(self, base: str, target: str) -> Pack | None:
        """Return the pack between two releases by their digests, None if it is being made.

        Raises:
            NotFound: There is none; says why.
        """
        if not (is_digest(base) and is_digest(target)):
            raise Refusal("a release is named by its manifest's SHA-256: 64 lower-case hex digits")

        def job(db: Connection) -> _Ends:
            ends = [release_store.by_digest(db, bytes.fromhex(each)) for each in (base, target)]
            return ends[0], ends[1], queries.count_running(db, bytes.fromhex(base))

        now_mono = self.clock.mono_s()
        asked_mono, found = self._asked.get((base, target), (0.0, None))
        if found is None or now_mono - asked_mono >= ASKED_S:
            found = await self.database.read(job)
            if len(self._asked) >= KEPT_MAX:
                self._asked.clear()
            if found[2]:
                self._asked[base, target] = now_mono, found
        before, after, devices_count = found
        try:
            if before is None or after is None or before.component != after.component:
                raise NoPack("these are not two releases of one component")  # noqa: TRY301
            if not devices_count:
                raise NoPack("no device is known to run the first of them")  # noqa: TRY301
            return self.packs.offer(_tree_of(before), _tree_of(after), devices_count)
        except NoPack as error:
            raise NotFound(f"there is no pack from {base} to {target}: {error}") from None

    # --------------------------------------------------------------------------- deployments
    async def deploy(self, request: Request) -> Accepted:
        """Accept a deployment and publish it.

        Raises:
            Refusal: The request makes no sense, or names what is not there.
        """
        requested_ms = self.clock.now_ms()
        deployments.check(request)
        act = Act("deployment.create", request.release, asdict(request))

        def job(db: Connection) -> Accepted:
            accepted = deployments.accept(
                db,
                self.desired,
                self.entries,
                request,
                requested_ms=requested_ms,
                now_ms=self.clock.now_ms(),
            )
            self._changed(db, accepted.documents)
            act.object = accepted.deployed.id
            return accepted

        accepted = await self._write(act, job)
        self.publisher.ask(accepted.documents)
        return accepted

    async def cancel(self, deployment: str) -> dict[str, Any]:
        """Take a deployment back and return what it was.

        Raises:
            NotFound: There is none of this id.
        """
        act = Act("deployment.cancel", deployment, {})

        def job(db: Connection) -> tuple[Any, tuple[DocumentName, ...]]:
            now_ms = self.clock.now_ms()
            before = deployment_store.load(db, deployment)
            if before is not None and before.cancelled_ms is not None:
                act.outcome = UNCHANGED
            deployed, changed = deployments.cancel(db, self.desired, deployment, now_ms)
            self._changed(db, changed)
            return deployed, changed

        deployed, changed = await self._write(act, job)
        self.publisher.ask(changed)
        return views.request_view(deployed)

    async def set_terms(
        self, deployment: str, order: Order, device: str | None
    ) -> list[dict[str, Any]]:
        """Say how devices may wait with a deployment and publish it; return what stands then.

        Raises:
            Refusal: The order makes no sense.
            NotFound: There is no such deployment, or it does not concern the device.
            Clash: Nobody waits with it any more.
        """
        terms.check(order)
        order = replace(order, who=who_acts() or order.who)
        act = Act("deployment.terms", deployment, {"device": device, **asdict(order)})

        def job(db: Connection) -> tuple[tuple[DocumentName, ...], list[dict[str, Any]]]:
            now_ms = self.clock.now_ms()
            changed = terms.write(db, self.desired, deployment, order, device, now_ms)
            self._changed(db, changed)
            return changed, terms.view(db, deployment)

        changed, standing = await self._write(act, job)
        self.publisher.ask(changed)
        return standing

    async def deployments(self, limit: int) -> list[dict[str, Any]]:
        """Return the newest deployments, newest first."""
        limit = min(limit, PAGE_MAX)
        found = await self.database.read(lambda db: deployment_store.latest(db, limit))
        return [views.request_view(deployed) for deployed in found]

    async def report(self, deployment: str) -> dict[str, Any]:
        """Return the report on a deployment.

        Raises:
            NotFound: There is none of this id.
        """

        def job(db: Connection) -> dict[str, Any]:
            deployed = deployment_store.load(db, deployment)
            if deployed is None:
                raise NotFound(f"there is no deployment {deployment[:40]!r}")
            report = views.report_of(
                db, deployed, silence_s=self.settings.silence_s, now_ms=self.clock.now_ms()
            )
            return views.report_view(deployed, report) | {"terms": terms.view(db, deployment)}

        return await self._kept_read(("report", deployment), job)

    async def verdicts(self, deployment: str) -> dict[str, Any]:
        """Return every judgement on a deployment.

        Raises:
            NotFound: There is none of this id.
        """

        def job(db: Connection) -> tuple[dict[str, Any], Looks]:
            deployed = deployment_store.load(db, deployment)
            if deployed is None:
                raise NotFound(f"there is no deployment {deployment[:40]!r}")
            return judging.verdicts_of(
                db,
                deployed,
                silence_s=self.settings.silence_s,
                active_window_s=self.settings.active_window_s,
                limits=limits_of(self.settings),
                now_ms=self.clock.now_ms(),
            )

        answer, looks = await self._kept_read(("verdicts", deployment), job)
        await self.keep(looks)
        return answer

    async def keep(self, looks: Looks) -> None:
        """Keep planned looks that were made now."""
        if looks.made:
            await self.database.write(looks.keep)
            looks.made.clear()

    async def outcomes(self, limit: int) -> list[dict[str, Any]]:
        """Return every judgement on each of the latest deployments, latest first."""
        return [
            await self.verdicts(str(each["deployment"])) for each in await self.deployments(limit)
        ]

    # ----------------------------------------------------------------------------- measures
    async def measures(self, asked: Asked, device: str, where: str) -> dict[str, Any]:
        """Return what devices measured, merged by series.

        Raises:
            Refusal: `where` is no selector.
        """
        return await self._measured(
            ("measures", asked, device, where),
            device,
            where,
            partial(measures.overview, asked=asked),
        )

    async def measure(self, asked: Asked, device: str, where: str) -> dict[str, Any]:
        """Return one metric with the shape of its values, and device by device.

        Raises:
            NotFound: Nothing that is asked about has measured it.
            Refusal: `where` is no selector.
        """
        found = await self._measured(
            ("measure", asked, device, where), device, where, partial(measures.one, asked=asked)
        )
        if not found["series"]:
            raise NotFound(f"no device that was asked about has measured {asked.metric[:64]!r}")
        return found

    async def events(self, code: str, release: str, device: str, where: str) -> dict[str, Any]:
        """Return what went wrong on devices and broke nothing.

        Raises:
            Refusal: `where` is no selector.
        """
        act = partial(measures.events, code=code, release=release)
        return await self._measured(("events", code, release, device, where), device, where, act)

    async def cases(self, release: str, device: str, where: str) -> dict[str, Any]:
        """Return what applications intended, and what it came to.

        Raises:
            Refusal: `where` is no selector.
        """
        act = partial(measures.cases, release=release)
        return await self._measured(("cases", release, device, where), device, where, act)

    async def _measured(
        self, key: object, device: str, where: str, act: Callable[..., dict[str, Any]]
    ) -> dict[str, Any]:
        def job(db: Connection) -> dict[str, Any]:
            try:
                is_chosen = measures.chosen(db, device, where)
            except BadSelector as error:
                raise Refusal(str(error)) from None
            return act(db, is_chosen=is_chosen)

        return await self._kept_read(key, job)

    # -------------------------------------------------------------------------------- fleet
    async def fleet(self) -> dict[str, Any]:
        """Return how the fleet is."""

        def job(db: Connection) -> dict[str, Any]:
            return views.fleet_view(
                db,
                silence_s=self.settings.silence_s,
                active_window_s=self.settings.active_window_s,
                now_ms=self.clock.now_ms(),
            )

        return await self._kept_read("fleet", job)

    async def devices(self, after: str, limit: int) -> tuple[list[dict[str, Any]], str | None]:
        """Return registered devices after a name, and the name to go on from, None at the end."""
        limit = min(limit, PAGE_MAX)

        def job(db: Connection) -> tuple[list[dict[str, Any]], str | None]:
            found = queries.page(db, after, limit + 1)
            items = [views.listed_view(db, each) for each in found[:limit]]
            return items, found[limit - 1].device if len(found) > limit else None

        return await self.database.read(job)

    async def device(self, name: str) -> dict[str, Any]:
        """Return everything that is known of one device.

        Raises:
            NotFound: It is not registered.
        """

        def job(db: Connection) -> dict[str, Any]:
            found = queries.device(db, name)
            if found is None:
                raise NotFound(
                    f"no device {name[:64]!r} is registered here: a device registers by connecting"
                )
            return views.device_view(
                db, found, silence_s=self.settings.silence_s, now_ms=self.clock.now_ms()
            )

        return await self.database.read(job)

    async def forget(self, name: str) -> None:
        """Remove a device and all that was ever heard of it.

        Raises:
            NotFound: It is not registered.
        """

        def job(db: Connection) -> None:
            n = device_store.number_of(db, name)
            if n is None:
                raise NotFound(f"no device {name[:64]!r} is registered here")
            device_store.remove(db, name, n)

        await self._write(Act("device.forget", name, {}), job)
        # Numbers of devices are used again, and much is remembered by number.
        self.database.doubt()
        self.publisher.clear_presence(name)

    # -------------------------------------------------------------------------------- audit
    async def audit(self, before_n: int, since_ms: int, limit: int) -> list[Row]:
        """Return rows of the audit before a number and not older than a moment, newest first."""
        limit = min(limit, PAGE_MAX + 1)
        return await self.database.read(lambda db: audit_store.page(db, before_n, since_ms, limit))

    async def change(
        self, act: Act, job: Callable[[Connection], tuple[T, Iterable[DocumentName]]]
    ) -> T:
        """Make a change of the hub's documents and publish it; return what came of it.

        `job` returns that and the documents that it changed. It runs in the transaction of the
        row of `act`.

        Raises:
            Refusal: Of `job`; nothing was changed.
        """

        def recorded(db: Connection) -> tuple[T, tuple[DocumentName, ...]]:
            result, documents = job(db)
            changed = tuple(documents)
            self._changed(db, changed)
            return result, changed

        result, changed = await self._write(act, recorded)
        self.publisher.ask(changed)
        return result

    # ------------------------------------------------------------------------------- wishes
    async def wish(
        self, kind: Kind, about: str, key: str, value: str | None, policy: str
    ) -> dict[str, Any]:
        """Write a wish for a setting (None takes it back) and publish it.

        Raises:
            Refusal: The key, the value, the policy or the device cannot be.
        """
        document = self._document(kind, about)
        wishes.check_key(key)
        chosen = wishes.check_policy(policy)
        if value is None:
            act = Act("setting.unwish", f"{document} {key}", {})
        else:
            asked = {"value": json.loads(value), "policy": chosen.value}
            act = Act("setting.wish", f"{document} {key}", asked)

        def job(db: Connection) -> dict[str, Any]:
            now_ms = self.clock.now_ms()
            record = wishes.wish(db, self.desired, document, key, value, chosen, now_ms)
            self._changed(db, [document])
            return {"document": str(document), "key": key, "clock": record.clock}

        done = await self._write(act, job)
        self.publisher.ask([document])
        return done

    def _document(self, kind: Kind, about: str) -> DocumentName:
        try:
            (check_group if kind is Kind.GROUP else check_device)(about)
        except BadName as error:
            raise Refusal(str(error)) from None
        return DocumentName(kind, about)

    def _changed(self, db: Connection, changed: Iterable[DocumentName]) -> None:
        """Tell those who follow our documents, on the writer's thread."""
        now_mono = self.clock.mono_s()
        for document in changed:
            if document.kind is Kind.GROUP:
                self.groups.load(db, [document])
            else:
                self.conversations.changed(db, document.about, now_mono)

    async def _write(self, act: Act, job: Callable[[Connection], T]) -> T:
        try:
            return await self.ledger.write(act, job)
        finally:
            self._kept.clear()

    async def _kept_read(self, key: object, job: Callable[[Connection], T]) -> T:
        """Return what `job` works out, or what it did a moment ago if that was dear."""
        now_mono = self.clock.mono_s()
        kept = self._kept.get(key)
        if kept is not None and now_mono < kept[0]:
            found: T = kept[1]
            return found
        answer = await self.database.read(job)
        cost_s = self.clock.mono_s() - now_mono
        if cost_s > CHEAP_S:
            if len(self._kept) >= KEPT_MAX:
                self._kept.clear()
            self._kept[key] = (now_mono + cost_s + cost_s * KEPT_FOR_COST, answer)
        return answer


def _tree_of(release: Release) -> Tree:
    manifest = parse_manifest(release.manifest)
    named = tree_named(manifest.parameters)
    if named is None or len(manifest.artifacts) != 1:
        raise NoPack(f"{release.component}@{release.version} does not name the list of its tree")
    artifact = manifest.artifacts[0]
    return Tree(release.digest.hex(), artifact.sha256, artifact.length_bytes, named[0])
