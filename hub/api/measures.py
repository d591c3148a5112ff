"""What devices measured, over HTTP.

Owns paths and parameters. Each does one thing of `hub.operations`.
"""

from typing import Annotated, Any, Final

from litestar import get
from litestar.params import FromPath, QueryParameter

from hub.api.given import TheOperations
from hub.store.measures import Asked

WORDS_MAX: Final = 200

Release = Annotated[
    str,
    QueryParameter(
        max_length=WORDS_MAX, description="`component@version`, or a component for all versions."
    ),
]
Variant = Annotated[
    str,
    QueryParameter(
        max_length=WORDS_MAX, description="`flag=variant`, or a flag for all of its variants."
    ),
]
Device = Annotated[str, QueryParameter(max_length=WORDS_MAX, description="Only this device.")]
Where = Annotated[
    str, QueryParameter(max_length=1000, description="Only devices with these labels: `site=s7`.")
]


@get("/measures", summary="What devices measured, merged by series")
async def measures(
    operations: TheOperations,
    metric: Annotated[
        str,
        QueryParameter(max_length=WORDS_MAX, description="A name, or how it begins: `device.*`."),
    ] = "",
    release: Release = "",
    variant: Variant = "",
    device: Device = "",
    where: Where = "",
) -> dict[str, Any]:
    """List series with counts, and quantiles of histograms."""
    return await operations.measures(Asked(metric, release, variant), device, where)


@get("/measures/{metric:str}", summary="One metric, device by device")
async def measure(
    operations: TheOperations,
    metric: FromPath[str],
    release: Release = "",
    variant: Variant = "",
    device: Device = "",
    where: Where = "",
) -> dict[str, Any]:
    """Show the shape of its values, and each device, the highest first."""
    return await operations.measure(Asked(metric, release, variant), device, where)


@get("/events", summary="What went wrong on devices and broke nothing")
async def events(
    operations: TheOperations,
    code: Annotated[str, QueryParameter(max_length=WORDS_MAX, description="Only this code.")] = "",
    release: Release = "",
    device: Device = "",
    where: Where = "",
) -> dict[str, Any]:
    """Count events by code and release."""
    return await operations.events(code, release, device, where)


@get("/cases", summary="What applications intended, and what it came to")
async def cases(
    operations: TheOperations, release: Release = "", device: Device = "", where: Where = ""
) -> dict[str, Any]:
    """Count cases by release, and show those that did not reach what was intended."""
    return await operations.cases(release, device, where)


ALL: Final = (measures, measure, events, cases)
"""Addresses of the operators' listener."""
