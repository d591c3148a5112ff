"""From a request to a deployment: whom it is meant for, and where it is written.

Owns the check of a request, the list of devices that is fixed with it, its place in the documents,
and its withdrawal. Runs on the writer's thread in one transaction; never publishes.

Rule: the list is fixed when the deployment is requested. A device that joins a group later does
what the group's document says, and is not counted.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hub import releases, terms
from hub.desired import DesiredDocuments, cancelled, prune
from hub.entries import HLC, Entries
from hub.errors import NotFound, Refusal
from hub.labels import groups_of, labels_of
from hub.store import baseline, deployments, devices, documents, queries
from hub.store import releases as release_store
from hub.store.database import Connection, load_number, save_number
from hub.store.deployments import ALL, Deployed
from hub.store.releases import Release
from hub.terms import Order
from sync.documents import DEPLOYMENT, TERMS, BadName, DocumentName, Kind, parse_document
from sync.hlc import tick
from sync.records import BadRecord, Deployment, decode_as, encode, select
from sync.replica import values_of
from sync.selector import BadSelector, matches, parse_selector
from sync.stages import Stage
from sync.topics import check_device, check_group

DEVICES_NAMED_MAX: Final = 1000
"""Most devices in a list; for more there are groups and selectors."""

EXPIRES_MAX_S: Final = 10 * 366 * 86_400

ID_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz234567"
ID_LENGTH: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What an operator asks for."""

    release: str
    """`component@version`, or the manifest's digest."""
    group: str | None = None
    devices: Sequence[str] = ()
    where: str = ""
    """Selector over labels; only with a group."""
    expires_s: float | None = None
    terms: Order | None = None
    """How devices may wait with it, if an operator has a say in that."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A deployment that is durable once the transaction ends, and what must be published."""

    deployed: Deployed
    targeted: tuple[str, ...]
    documents: tuple[DocumentName, ...]


def new_id() -> str:
    """Return a deployment id: `d` and eight random letters or digits."""
    return "d" + "".join(secrets.choice(ID_LETTERS) for _ in range(ID_LENGTH))


def check(request: Request) -> None:
    """Accept a request that makes sense.

    Raises:
        Refusal: It names neither group nor devices, or both, or something malformed.
    """
    if bool(request.group) == bool(request.devices):
        raise Refusal("name either a group or devices to deploy to, and not both")
    if request.where and request.devices:
        raise Refusal("a selector (where) chooses among a group; a list of devices needs none")
    if len(request.devices) > DEVICES_NAMED_MAX:
        raise Refusal(
            f"{len(request.devices)} devices are named, at most {DEVICES_NAMED_MAX}: use a group"
        )
    if request.expires_s is not None and not 0 < request.expires_s <= EXPIRES_MAX_S:
        raise Refusal(f"expires_s must be above 0 and at most {EXPIRES_MAX_S}")
    if request.terms is not None:
        terms.check(request.terms)
    try:
        parse_selector(request.where)
        if request.group:
            check_group(request.group)
        for device in request.devices:
            check_device(device)
    except (BadSelector, BadName) as error:
        raise Refusal(str(error)) from None


def accept(
    connection: Connection,
    desired: DesiredDocuments,
    entries: Entries,
    request: Request,
    *,
    requested_ms: int,
    now_ms: int,
) -> Accepted:
    """Make a deployment of a request that was checked.

    Args:
        connection: In a transaction.
        desired: The documents it is written to.
        entries: Learns that the deployment is this hub's.
        request: What is asked for.
        requested_ms: Hub UTC when the request came in.
        now_ms: Hub UTC of now.

    Raises:
        NotFound: The release or a device is not known.
        Clash: The document is full.
    """
    release = releases.find(connection, request.release)
    targeted = _targeted(connection, request)
    order = tick(load_number(connection, HLC), now_ms)
    save_number(connection, HLC, order)
    deployed = Deployed(
        id=new_id(),
        release=release.digest,
        component=release.component,
        version=release.version,
        ordered=order,
        group=request.group or "",
        selector=request.where,
        expires_ms=now_ms + round(request.expires_s * 1000) if request.expires_s else 0,
        requested_ms=requested_ms,
        accepted_ms=now_ms,
        cancelled_ms=None,
    )
    deployments.save(connection, deployed, targeted.values())
    baseline.freeze(connection, deployed.id, deployed.component)
    deployments.supersede(connection, deployed)
    deployments.save_stages(
        connection,
        [
            (deployed.id, ALL, Stage.REQUESTED.value, requested_ms, None),
            (deployed.id, ALL, Stage.ACCEPTED.value, now_ms, None),
        ],
    )
    entry = {DEPLOYMENT + deployed.id: encode(_record(deployed, release))}
    if request.terms is not None:
        entry[TERMS + deployed.id] = encode(terms.ordered(request.terms, order))
    written = _documents(request)
    for document in written:
        desired.write(connection, document, entry, now_ms)
    entries.deployed(deployed.id)
    return Accepted(deployed, tuple(targeted), written)


def cancel(
    connection: Connection, desired: DesiredDocuments, deployment: str, now_ms: int
) -> tuple[Deployed, tuple[DocumentName, ...]]:
    """Take a deployment back; return it and the documents to publish. Doing so twice is fine.

    A cancelled deployment takes the place of none: what it had pushed out of a document returns,
    unless that would take a device back that has applied the cancelled one.

    Raises:
        NotFound: There is none of this id.
    """
    deployed = deployments.load(connection, deployment)
    if deployed is None:
        raise NotFound(f"there is no deployment {deployment[:40]!r}")
    if deployed.cancelled_ms is not None:
        return deployed, ()
    deployments.cancel(connection, deployment, now_ms)
    changed = []
    for name in deployments.documents_of(connection, deployment):
        document = parse_document(name)
        key = DEPLOYMENT + deployment
        values = values_of(documents.load(connection, document))
        try:
            record = decode_as(Deployment, key, values.get(key, b""))
        except BadRecord:
            continue  # it is not in the document any more
        live = select(Deployment, DEPLOYMENT, values)
        entries = _returning(connection, document, deployed, live, now_ms)
        entries[key] = cancelled(record)
        desired.write(connection, document, entries, now_ms)
        changed.append(document)
    deployments.unsupersede(connection, deployed)
    found = deployments.load(connection, deployment)
    return found or deployed, tuple(changed)


def _returning(
    connection: Connection,
    document: DocumentName,
    withdrawn: Deployed,
    live: Mapping[str, Deployment],
    now_ms: int,
) -> dict[str, bytes]:
    """Return the entries of those that count again now that `withdrawn` does not.

    They are what a new epoch would keep if nothing had ever been left out.
    """
    found: dict[str, bytes] = {}
    for each in deployments.carried(connection, str(document), withdrawn.component):
        is_over = each.cancelled_ms is not None or 0 < each.expires_ms <= now_ms
        is_over = is_over or deployments.would_take_back(connection, each.id, withdrawn.id)
        release = release_store.by_digest(connection, each.release)
        if not is_over and release is not None:
            found[DEPLOYMENT + each.id] = encode(_record(each, release))
    # What stands in the document takes part too: a later one may leave no place for it.
    others = {
        DEPLOYMENT + name: encode(record) for name, record in live.items() if name != withdrawn.id
    }
    kept = prune(found | others, now_ms=now_ms)
    return {key: value for key, value in found.items() if key in kept and key not in others}


def _targeted(connection: Connection, request: Request) -> Mapping[str, int]:
    """Return names and numbers of the devices that are meant, in order of their names."""
    if request.devices:
        found = {}
        for device in sorted(set(request.devices)):
            n = devices.number_of(connection, device)
            if n is None:
                raise NotFound(
                    f"no device {device!r} is registered here: a device registers by connecting"
                )
            found[device] = n
        return found
    return {
        device: n
        for device, n, facts in queries.facts_of_all(connection)
        if request.group in groups_of(facts) and matches(request.where, labels_of(facts))
    }


def _documents(request: Request) -> tuple[DocumentName, ...]:
    if request.group:
        return (DocumentName(Kind.GROUP, request.group),)
    return tuple(DocumentName(Kind.DESIRED, device) for device in sorted(set(request.devices)))


def _record(deployed: Deployed, release: Release) -> Deployment:
    return Deployment(
        order=deployed.ordered,
        component=release.component,
        version=release.version,
        manifest=release.digest,
        manifest_bytes=len(release.manifest),
        where=deployed.selector,
        expires_ms=deployed.expires_ms,
    )
