"""The addresses of the API, artifacts apart.

Owns paths, bodies and statuses. Each does one thing of `hub.operations`.
"""

from typing import Annotated, Any, Final

import msgspec
from litestar import Request as HttpRequest
from litestar import Response, delete, get, post, put
from litestar.params import FromPath, JSONBody, QueryParameter
from litestar.status_codes import HTTP_200_OK, HTTP_201_CREATED, HTTP_202_ACCEPTED

from hub.api.given import TheOperations, TheStatus, TheTrust
from hub.deployments import Request
from hub.operations import PAGE_MAX
from hub.store.releases import Release
from hub.terms import Order
from hub.wishes import text_of
from sync.documents import Kind
from sync.overlay import Policy

LIMIT: Final = 100

Limit = Annotated[int, QueryParameter(ge=1, le=PAGE_MAX, description="Most entries in the answer.")]


JUDGED: Final = 20
JUDGED_MAX: Final = 100

JudgedLimit = Annotated[
    int, QueryParameter(ge=1, le=JUDGED_MAX, description="Most deployments that are judged.")
]


class Waits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How devices may wait with a deployment. What is left out stays as it is."""

    now: bool | None = None
    """Whether windows, locks and load are passed over."""
    windows: list[str] | None = None
    """One of these must be open besides the device's own: `Sat 02:00-04:00`."""
    budget_s: float | None = None
    """How long a device may wait altogether."""
    overdue: str | None = None
    """What it does then: `go` or `give_up`."""
    why: str = ""

    def order(self) -> Order:
        """Return the order in it."""
        return Order(
            is_now=self.now,
            windows=self.windows,
            budget_s=self.budget_s,
            overdue=self.overdue,
            why=self.why,
        )


class DeviceWaits(Waits, frozen=True, forbid_unknown_fields=True):
    """The same for a deployment that is there already."""

    device: str | None = None
    """This device only; every device if it is left out."""


class DeploymentRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to deploy, and to whom: a group or a list of devices."""

    release: str
    """`component@version`, or the SHA-256 of the manifest."""
    group: str | None = None
    devices: list[str] = []
    where: str = ""
    """Selector over the labels of a group's devices: `site=s7,class!=pump`."""
    expires_s: float | None = None
    """After so many seconds it must not be started any more."""
    terms: Waits | None = None
    """How devices may wait with it; without, as their own settings say."""


class Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a setting should be."""

    value: Any
    """Any JSON value."""
    policy: str = Policy.LATEST.value
    """Who prevails when the device has set it too: `latest`, `operator` or `local`."""


@get("/openapi.json", include_in_schema=False)
async def openapi(request: HttpRequest[Any, Any, Any]) -> dict[str, Any]:
    """Describe this API (OpenAPI 3.1)."""
    return request.app.openapi_schema.to_schema()


@get("/hub", summary="What this hub is, and its counters")
async def hub(status: TheStatus) -> dict[str, Any]:
    """Answer without asking the database, so this also tells whether the hub is alive."""
    return status.view()


@get("/fleet", summary="Who runs the latest version, what became of deployments, who is dark")
async def fleet(operations: TheOperations) -> dict[str, Any]:
    """Answer the operator's first question."""
    return await operations.fleet()


@get("/devices", summary="Registered devices, a page at a time, by name")
async def devices(
    operations: TheOperations,
    after: Annotated[str, QueryParameter(description="Name after which the page begins.")] = "",
    limit: Limit = LIMIT,
) -> dict[str, Any]:
    """Go on with `after` set to `next` until that is null."""
    items, following = await operations.devices(after, limit)
    return {"items": items, "next": following}


@get("/devices/{device:str}", summary="Everything that is known of one device")
async def device(operations: TheOperations, device: FromPath[str]) -> dict[str, Any]:
    """Show one device."""
    return await operations.device(device)


@delete(
    "/devices/{device:str}",
    summary="Forget a device and all that was ever heard of it",
    status_code=HTTP_200_OK,
)
async def forget(operations: TheOperations, device: FromPath[str]) -> dict[str, Any]:
    """Remove a device that is gone. One that is still there registers anew as soon as it speaks."""
    await operations.forget(device)
    return {"device": device, "forgotten": True}


@get("/releases", summary="Releases, newest first")
async def releases(operations: TheOperations, trust_desk: TheTrust) -> dict[str, Any]:
    """List what can be deployed."""
    signed = await trust_desk.listed()
    return {
        "items": [
            _release(each) | {"is_signed": each.digest in signed}
            for each in await operations.releases()
        ]
    }


@post(
    "/releases",
    summary="Publish a release",
    description="The body is the manifest. 409 names artifacts that are missing, or says that this "
    "version was released with other content; 201 if it is new, 200 if it was here.",
    status_code=HTTP_201_CREATED,
)
async def publish_release(
    operations: TheOperations, data: JSONBody[dict[str, Any]]
) -> Response[dict[str, Any]]:
    """Publish a release; doing so twice is fine."""
    found, is_new = await operations.publish_release(data)
    return Response(_release(found), status_code=HTTP_201_CREATED if is_new else HTTP_200_OK)


@get("/deployments", summary="Deployments, newest first")
async def deployments(operations: TheOperations, limit: Limit = LIMIT) -> dict[str, Any]:
    """List what was asked for."""
    return {"items": await operations.deployments(limit)}


@post("/deployments", summary="Deploy a release", status_code=HTTP_202_ACCEPTED)
async def deploy(
    operations: TheOperations, data: JSONBody[DeploymentRequest]
) -> Response[dict[str, Any]]:
    """Accept a deployment. It is durable when this answers; devices take it in their own time."""
    accepted = await operations.deploy(
        Request(
            release=data.release,
            group=data.group,
            devices=data.devices,
            where=data.where,
            expires_s=data.expires_s,
            terms=None if data.terms is None else data.terms.order(),
        )
    )
    identity = accepted.deployed.id
    return Response(
        {"deployment": identity, "targeted": list(accepted.targeted)},
        status_code=HTTP_202_ACCEPTED,
        headers={"location": f"/api/v1/deployments/{identity}"},
    )


@get("/deployments/{deployment:str}", summary="What became of a deployment")
async def report(operations: TheOperations, deployment: FromPath[str]) -> dict[str, Any]:
    """Show the report."""
    return await operations.report(deployment)


@get("/deployments/{deployment:str}/verdicts", summary="Every judgement on a deployment")
async def verdicts(operations: TheOperations, deployment: FromPath[str]) -> dict[str, Any]:
    """Judge it: ok, breach, too little evidence, or unhealthy, each with what it rests on."""
    return await operations.verdicts(deployment)


@get("/outcomes", summary="The latest deployments, judged")
async def outcomes(operations: TheOperations, limit: JudgedLimit = JUDGED) -> dict[str, Any]:
    """Judge each of them; what was judged a moment ago is not judged again."""
    return {"items": await operations.outcomes(limit)}


@delete("/deployments/{deployment:str}", summary="Take a deployment back", status_code=HTTP_200_OK)
async def cancel(operations: TheOperations, deployment: FromPath[str]) -> dict[str, Any]:
    """Cancel it where it was not applied yet; doing so twice is fine."""
    return await operations.cancel(deployment)


@put("/deployments/{deployment:str}/terms", summary="Say how devices may wait with a deployment")
async def set_terms(
    operations: TheOperations, deployment: FromPath[str], data: JSONBody[DeviceWaits]
) -> dict[str, Any]:
    """Let devices go on now, or tighten what they wait for."""
    standing = await operations.set_terms(deployment, data.order(), data.device)
    return {"deployment": deployment, "terms": standing}


@put("/devices/{device:str}/settings/{key:str}", summary="Wish for a setting of one device")
async def wish_device(
    operations: TheOperations, device: FromPath[str], key: FromPath[str], data: JSONBody[Wish]
) -> dict[str, Any]:
    """Say what a setting of one device should be."""
    value = text_of(data.value)
    return await operations.wish(Kind.DESIRED, device, key, value, data.policy)


@delete(
    "/devices/{device:str}/settings/{key:str}",
    summary="Take back a wish for one device",
    status_code=HTTP_200_OK,
)
async def unwish_device(
    operations: TheOperations, device: FromPath[str], key: FromPath[str]
) -> dict[str, Any]:
    """Leave the setting to the device."""
    return await operations.wish(Kind.DESIRED, device, key, None, Policy.LATEST.value)


@put("/groups/{group:str}/settings/{key:str}", summary="Wish for a setting of a group's devices")
async def wish_group(
    operations: TheOperations, group: FromPath[str], key: FromPath[str], data: JSONBody[Wish]
) -> dict[str, Any]:
    """Say what a setting of all devices of a group should be."""
    value = text_of(data.value)
    return await operations.wish(Kind.GROUP, group, key, value, data.policy)


@delete(
    "/groups/{group:str}/settings/{key:str}",
    summary="Take back a wish for a group's devices",
    status_code=HTTP_200_OK,
)
async def unwish_group(
    operations: TheOperations, group: FromPath[str], key: FromPath[str]
) -> dict[str, Any]:
    """Leave the setting to the devices."""
    return await operations.wish(Kind.GROUP, group, key, None, Policy.LATEST.value)


def _release(found: Release) -> dict[str, Any]:
    return {
        "release": f"{found.component}@{found.version}",
        "component": found.component,
        "version": found.version,
        "digest": found.digest.hex(),
        "created_at_ms": found.created_ms,
        "manifest": msgspec.json.decode(found.manifest),
    }
