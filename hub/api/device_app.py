"""What devices reach over HTTPS: enrolment for anybody, artifacts for devices that belong.

Owns which addresses these are. Nothing that an operator decides is reachable here.
"""

from collections.abc import Callable
from typing import Final, TypeVar

from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.di import Provide
from litestar.types import ASGIApp

from hub.api import blobs, packs, trust
from hub.api.identity import FOR_STRANGERS, enrolled_only
from hub.api.problems import HANDLERS
from hub.identity.desk import Desk
from hub.operations import Operations
from hub.trust.desk import TrustDesk

T = TypeVar("T")

ROOT: Final = "/api/v1"

BODY_BYTES_MAX: Final = 32 * 1024

FOR_DEVICES: Final = (
    blobs.head_blob,
    blobs.get_blob,
    blobs.get_blocks,
    packs.pack,
    trust.trust_root,
    trust.trust_metadata,
)
"""Addresses that need the certificate of a device."""


def build_device_api(operations: Operations, trust_desk: TrustDesk, desk: Desk) -> ASGIApp:
    """Return the devices' API as an ASGI application; `hub.https` serves it."""
    return Litestar(
        [
            Router(ROOT, route_handlers=list(FOR_STRANGERS)),
            Router(ROOT, route_handlers=list(FOR_DEVICES), guards=[enrolled_only]),
        ],
        dependencies={
            "operations": Provide(_always(operations), sync_to_thread=False),
            "trust_desk": Provide(_always(trust_desk), sync_to_thread=False),
            "desk": Provide(_always(desk), sync_to_thread=False),
        },
        state=State({"desk": desk}),
        exception_handlers=HANDLERS,
        openapi_config=None,
        request_max_body_size=BODY_BYTES_MAX,
        logging_config=None,
    )


def _always(value: T) -> Callable[[], T]:
    return lambda: value
