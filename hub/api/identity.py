"""Identities over HTTP: what devices ask for over HTTPS, and what operators decide.

Owns paths, bodies and statuses. Each does one thing of `hub.identity.desk`. The addresses of
devices and those of operators are on two listeners; nothing here is on both.
"""

import base64
import binascii
from typing import Annotated, Any, Final

import msgspec
from litestar import Request as HttpRequest
from litestar import delete, get, post
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.handlers import BaseRouteHandler
from litestar.params import FromPath, JSONBody, QueryParameter
from litestar.status_codes import (
    HTTP_200_OK,
    HTTP_201_CREATED,
    HTTP_202_ACCEPTED,
    HTTP_204_NO_CONTENT,
)
from msgspec import Meta

from hub.errors import Forbidden, Refusal
from hub.https import CLIENT_CERTIFICATE, CLIENT_NAME, TLS_EXTENSION
from hub.identity.claims import Claim
from hub.identity.desk import Desk
from hub.identity.enrolment import Enrolment, State
from hub.identity.registrar import HINTS, Asked, Standing
from hub.outcomes.provisioning import Provisioning
from sync.enrolment import CERTIFICATE_BYTES_MAX, CSR_BYTES_MAX, SECRET_BYTES

TheDesk = NamedDependency[Desk]

NONCE_HEADER: Final = "fieldfare-nonce"
YEAR_S: Final = 366 * 86_400.0
USES_MAX: Final = 100_000

Pem = Annotated[str, Meta(max_length=CSR_BYTES_MAX)]
Short = Annotated[str, Meta(max_length=200)]


class EnrolmentRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a device sends to belong."""

    csr: Pem
    """Certificate request (PKCS #10, PEM) with the device's name, signed by its key."""
    nonce: Short
    """64 hex digits of the device's choice, by which it later asks how its enrolment stands."""
    device_class: Short
    secret: Short = ""
    """The last part of a claim token, if the device has one."""


class RenewalRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a device sends for a new certificate."""

    certificate: Annotated[str, Meta(max_length=CERTIFICATE_BYTES_MAX)]
    """The one to replace (PEM); it may have expired."""
    csr: Pem
    """Request for the new one."""
    proof: Short
    """Base64 of the old key's signature of the request."""


class ClaimRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a claim token shall allow."""

    device_class: Short
    device: Short = ""
    """Only this device, if one is named."""
    uses: Annotated[int, Meta(ge=1, le=USES_MAX)] = 1
    """How many devices may enrol with it."""
    expires_s: Annotated[float, Meta(gt=0, le=YEAR_S)] = 7 * 86_400.0


class RefusalRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which devices that wait shall be turned away."""

    source: Short | None = None
    """Only those from this address or network."""
    older_than_s: Annotated[float, Meta(ge=0, le=YEAR_S)] = 0.0
    """Only those that have waited for longer."""


# --------------------------------------------------------------------------------- for devices
@get("/ca", summary="The certificate that devices pin", media_type="application/x-pem-file")
async def authority(desk: TheDesk) -> bytes:
    """Give the authority's certificate (PEM); compare its SHA-256 before it is believed."""
    return desk.registrar.authority.pem()


@post("/enrolments", summary="Ask to belong", status_code=HTTP_202_ACCEPTED)
async def ask(
    request: HttpRequest[Any, Any, Any], desk: TheDesk, data: JSONBody[EnrolmentRequest]
) -> dict[str, Any]:
    """Take a request; the same again is fine, and gives the same answer."""
    asked = Asked(
        csr=data.csr.encode(),
        nonce=data.nonce,
        device_class=data.device_class,
        secret=_secret(data.secret) if data.secret else None,
    )
    return _standing(await desk.ask(asked, _peer(request)))


@get("/enrolments/{identity:str}", summary="How the own enrolment stands")
async def look(
    request: HttpRequest[Any, Any, Any], desk: TheDesk, identity: FromPath[str]
) -> dict[str, Any]:
    """Answer whoever knows the nonce; once accepted, with the certificate."""
    nonce = request.headers.get(NONCE_HEADER, "")
    return _standing(await desk.look(identity, nonce, _peer(request)))


@post("/renewals", summary="Get a new certificate for an old one", status_code=HTTP_200_OK)
async def renew(
    request: HttpRequest[Any, Any, Any], desk: TheDesk, data: JSONBody[RenewalRequest]
) -> dict[str, Any]:
    """Renew; a certificate that has most of its life before it comes back as it is."""
    proof = _base64(data.proof)
    fresh = await desk.renew(data.certificate.encode(), data.csr.encode(), proof, _peer(request))
    return {"certificate": fresh.decode()}


async def enrolled_only(
    connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler
) -> None:
    """Turn away whoever shows no certificate of a device whose identity counts (a guard)."""
    shown = connection.scope.get("extensions", {}).get(TLS_EXTENSION, {})  # type: ignore[union-attr]
    name, der = shown.get(CLIENT_NAME), shown.get(CLIENT_CERTIFICATE)
    desk: Desk = connection.app.state.desk
    if not isinstance(name, str) or not isinstance(der, bytes) or not await desk.counts(name, der):
        raise Forbidden(
            "only enrolled devices may ask this: show the device's certificate, or enrol "
            "(fieldfare-agent enroll)"
        )


FOR_STRANGERS: Final = (authority, ask, look, renew)
"""Addresses of the HTTPS listener that need no certificate."""


# ------------------------------------------------------------------------------- for operators
@post("/claims", summary="Make a claim token", status_code=HTTP_201_CREATED)
async def new_claim(desk: TheDesk, data: JSONBody[ClaimRequest]) -> dict[str, Any]:
    """Make a token; its text is in this answer and nowhere else."""
    claim, text = await desk.new_claim(
        device_class=data.device_class,
        device=data.device,
        uses_count=data.uses,
        life_s=data.expires_s,
    )
    return {**_claim(claim), "token": text}


@get("/claims", summary="Claim tokens, newest first")
async def claims(desk: TheDesk) -> dict[str, Any]:
    """List tokens without their secrets, which the hub does not have."""
    return {"items": [_claim(each) for each in await desk.claims()]}


@delete("/claims/{claim:str}", summary="Withdraw a claim token", status_code=HTTP_204_NO_CONTENT)
async def withdraw(desk: TheDesk, claim: FromPath[str]) -> None:
    """Let nobody enrol with it any more."""
    await desk.withdraw(claim)


@get("/enrolments", summary="Enrolments, newest first")
async def enrolments(
    desk: TheDesk,
    only: Annotated[
        str | None, QueryParameter(description="Only those that are `waiting`, `issued`, ...")
    ] = None,
) -> dict[str, Any]:
    """List who asked to belong."""
    try:
        wanted = None if only is None else State(only)
    except ValueError:
        known = ", ".join(each.value for each in State if each is not State.ASKED)
        raise Refusal(f"there is no state {str(only)[:40]!r}; there are {known}") from None
    return {"items": [_enrolment(each) for each in await desk.enrolments(wanted)]}


@post("/enrolments/{name:str}/accept", summary="Let a device in", status_code=HTTP_200_OK)
async def accept(desk: TheDesk, name: FromPath[str]) -> dict[str, Any]:
    """Accept; `name` is the enrolment's id, its beginning, or the device."""
    return _enrolment(await desk.accept(name))


@post("/enrolments/{name:str}/refuse", summary="Turn a device away", status_code=HTTP_200_OK)
async def refuse(desk: TheDesk, name: FromPath[str]) -> dict[str, Any]:
    """Refuse; `name` as for accepting."""
    return _enrolment(await desk.refuse(name))


@post("/enrolments/refuse", summary="Turn away all that wait", status_code=HTTP_200_OK)
async def refuse_waiting(desk: TheDesk, data: JSONBody[RefusalRequest]) -> dict[str, Any]:
    """Refuse every device that waits, from one network or for longer than a time."""
    return {"refused": await desk.refuse_waiting(data.source, data.older_than_s)}


@post(
    "/devices/{device:str}/revoke",
    summary="Let a device not speak any more",
    status_code=HTTP_200_OK,
)
async def revoke(desk: TheDesk, device: FromPath[str]) -> dict[str, Any]:
    """Revoke every certificate of the device; it may enrol anew with a new key."""
    found = await desk.revoke(device)
    return {"device": found.device, "device_class": found.device_class}


@get("/provisioning", summary="Where devices drop off while they are provisioned")
async def funnel(desk: TheDesk) -> dict[str, Any]:
    """Count, for each device class, who took which step and how long that took."""
    return funnel_view(await desk.funnel())


FOR_OPERATORS: Final = (
    new_claim,
    claims,
    withdraw,
    enrolments,
    accept,
    refuse,
    refuse_waiting,
    revoke,
    funnel,
)
"""Addresses of the operators' listener."""


def funnel_view(found: Provisioning) -> dict[str, Any]:
    """Return the funnel as the API gives it."""
    plain: dict[str, Any] = msgspec.to_builtins(found)
    for view, each in zip(plain["classes"], found.classes, strict=True):
        view["worst"] = None if each.worst is None else each.worst.value
    return plain


def _standing(found: Standing) -> dict[str, Any]:
    enrolment = found.enrolment
    return {
        "id": enrolment.id,
        "device": enrolment.device,
        "state": enrolment.state.value,
        "reason": enrolment.reason,
        "hint": HINTS.get(enrolment.reason, ""),
        "certificate": None if found.certificate is None else found.certificate.decode(),
    }


def _enrolment(found: Enrolment) -> dict[str, Any]:
    return {
        "id": found.id,
        "device": found.device,
        "device_class": found.device_class,
        "state": found.state.value,
        "reason": found.reason,
        "claim": found.claim,
        "source": found.source,
        "asked_at_ms": found.asked_ms,
        "accepted_at_ms": found.accepted_ms,
        "issued_at_ms": found.issued_ms,
        "ended_at_ms": found.ended_ms,
    }


def _claim(claim: Claim) -> dict[str, Any]:
    return {
        "id": claim.id,
        "device_class": claim.device_class,
        "device": claim.device,
        "uses": claim.uses_count,
        "spent": claim.spent_count,
        "created_at_ms": claim.created_ms,
        "expires_at_ms": claim.expires_ms,
        "withdrawn": claim.is_withdrawn,
    }


def _peer(request: HttpRequest[Any, Any, Any]) -> str:
    return request.client.host if request.client is not None else ""


def _secret(text: str) -> bytes:
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != SECRET_BYTES:
        raise Refusal("the secret is not that of a claim token: copy all of the token")
    return raw


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal("proof must be base64") from None


def unavailable() -> Desk:
    """Refuse: this hub enrols nobody."""
    raise Refusal(
        "this hub enrols no devices: set https_port (and restart it), so that devices can reach it"
    )
