"""An operator's terms for waiting with one deployment: go on now, windows of its own, a budget.

Owns the check of an order and its way into the hub's documents. Runs on the writer's thread in one
transaction; never publishes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from hub.desired import DesiredDocuments
from hub.entries import HLC
from hub.errors import Clash, NotFound, Refusal
from hub.store import authored, deployments, devices, documents
from hub.store.database import Connection, load_number, save_number
from sync.calendar import BadCalendar, parse_windows
from sync.documents import TERMS, DocumentName, Kind, parse_document
from sync.hlc import COUNTER_BITS, tick
from sync.records import OVERDUE, WAIT_MAX_S, BadRecord, Terms, decode_as, encode
from sync.replica import values_of

WHY_CHARACTERS_MAX: Final = 200

OPERATOR: Final = "operator"
"""Who orders, as long as the hub does not tell operators apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What an operator says about waiting. None leaves it as it is."""

    is_now: bool | None = None
    """Whether windows, locks and load are passed over."""
    windows: Sequence[str] | None = None
    """One of them must be open besides the device's own."""
    budget_s: float | None = None
    overdue: str | None = None
    why: str = ""
    who: str = OPERATOR


def check(order: Order) -> None:
    """Accept an order that makes sense.

    Raises:
        Refusal: It says nothing, or something malformed.
    """
    said = (order.is_now, order.windows, order.budget_s, order.overdue)
    if all(each is None for each in said):
        raise Refusal("say at least one of now, windows, budget_s and overdue")
    try:
        parse_windows(order.windows or ())
    except BadCalendar as error:
        raise Refusal(f"windows: {error}") from None
    if order.budget_s is not None and not 0 <= order.budget_s <= WAIT_MAX_S:
        raise Refusal(f"budget_s must be from 0 to {WAIT_MAX_S}")
    if order.overdue not in (None, *OVERDUE):
        raise Refusal(f"overdue must be one of {', '.join(OVERDUE)}")
    if len(order.why) > WHY_CHARACTERS_MAX or not order.why.isprintable():
        raise Refusal(f"why must be one line of at most {WHY_CHARACTERS_MAX} characters")


def ordered(order: Order, clock: int, before: Terms | None = None) -> Terms:
    """Return the terms that an order makes of those before."""
    known = before or Terms(0)
    changes: dict[str, Any] = {
        "is_now": order.is_now,
        "windows": None if order.windows is None else tuple(order.windows),
        "budget_s": None if order.budget_s is None else round(order.budget_s),
        "overdue": order.overdue,
    }
    said = {name: value for name, value in changes.items() if value is not None}
    return msgspec.structs.replace(
        known, clock=clock, writer=order.who[:100], why=order.why, **said
    )


def write(
    connection: Connection,
    desired: DesiredDocuments,
    deployment: str,
    order: Order,
    device: str | None,
    now_ms: int,
) -> tuple[DocumentName, ...]:
    """Write an order that was checked, for one device or for all; return the changed documents.

    Raises:
        NotFound: There is no such deployment, or it does not concern the device.
        Clash: The deployment was taken back or is in no document any more, or one is full.
    """
    deployed = deployments.load(connection, deployment)
    if deployed is None:
        raise NotFound(f"there is no deployment {deployment[:40]!r}")
    if deployed.cancelled_ms is not None:
        raise Clash(f"{deployment} was taken back: nobody waits with it any more")
    carriers = [parse_document(name) for name in deployments.documents_of(connection, deployment)]
    if not carriers:
        raise Clash(f"{deployment} is not asked for any more: a later one took its place")
    changed = carriers
    if device is not None:
        n = devices.number_of(connection, device)
        if n is None or not deployments.targeted(connection, deployment, device=n):
            raise NotFound(f"{deployment} is not meant for a device {device[:64]!r}")
        changed = [DocumentName(Kind.DESIRED, device)]
    clock = tick(load_number(connection, HLC), now_ms)
    save_number(connection, HLC, clock)
    for document in changed:
        before = _standing(
            connection, {document, *(carriers if device is not None else ())}, deployment
        )
        entry = {TERMS + deployment: encode(ordered(order, clock, before))}
        desired.write(connection, document, entry, now_ms)
    # The entry of the audit log belongs here: same transaction, `order.who`, what, `order.why`.
    return tuple(changed)


def _standing(connection: Connection, carriers: set[DocumentName], deployment: str) -> Terms | None:
    key = TERMS + deployment
    found = []
    for document in carriers:
        value = values_of(documents.load(connection, document)).get(key)
        if value is not None:
            found.append(_decode(value))
    return max((each for each in found if each), key=lambda each: each.clock, default=None)


def view(connection: Connection, deployment: str) -> list[dict[str, Any]]:
    """Return the terms that stand for a deployment, the latest first."""
    found = []
    for name, value in authored.of_deployment(connection, deployment, TERMS + deployment):
        terms = _decode(value)
        if terms is None:
            continue
        document = parse_document(name)
        found.append(
            {
                "group": document.about if document.kind is Kind.GROUP else None,
                "device": document.about if document.kind is Kind.DESIRED else None,
                "ordered_at_ms": terms.clock >> COUNTER_BITS,
                "now": terms.is_now,
                "windows": list(terms.windows),
                "budget_s": terms.budget_s,
                "overdue": terms.overdue or None,
                "who": terms.writer,
                "why": terms.why,
            }
        )
    return sorted(found, key=lambda each: (-int(str(each["ordered_at_ms"])), str(each["device"])))


def _decode(value: bytes) -> Terms | None:
    try:
        return decode_as(Terms, TERMS, value)
    except BadRecord:
        return None
