"""The API put together: addresses, errors, the guard, and its own description."""

from collections.abc import Callable
from typing import Final, TypeVar

from litestar import Litestar, Router
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.types import ASGIApp

from hub.api import (
    audit,
    blobs,
    flags,
    identity,
    kills,
    measures,
    metrics,
    packs,
    routes,
    tokens,
    trust,
    uploads,
)
from hub.api.bounds import Bounded, Bounds
from hub.api.cut import CutShort
from hub.api.door import Door
from hub.api.guard import Guard
from hub.api.problems import HANDLERS
from hub.api.status import Status, program_version
from hub.identity.desk import Desk
from hub.operations import Operations
from hub.tokens import Tokens
from hub.trust.desk import TrustDesk
from hub.uploads import Uploads

T = TypeVar("T")

ROOT: Final = "/api/v1"

BODY_BYTES_MAX: Final = 1024 * 1024
"""Longest body except an artifact's; a manifest has at most a quarter of it."""

HANDLED: Final = (
    routes.openapi,
    routes.hub,
    routes.fleet,
    routes.devices,
    routes.device,
    routes.forget,
    routes.releases,
    routes.publish_release,
    routes.deployments,
    routes.deploy,
    routes.report,
    routes.verdicts,
    routes.outcomes,
    *measures.ALL,
    routes.cancel,
    routes.set_terms,
    routes.wish_device,
    routes.unwish_device,
    routes.wish_group,
    routes.unwish_group,
    blobs.head_blob,
    blobs.get_blob,
    blobs.get_blocks,
    blobs.put_blob,
    packs.pack,
    trust.trust,
    trust.trust_metadata,
    trust.hand_in_trust,
    trust.new_online_keys,
    uploads.head_upload,
    uploads.patch_upload,
    *identity.FOR_OPERATORS,
    *flags.FOR_OPERATORS,
    *kills.FOR_OPERATORS,
    audit.audit,
    tokens.list_tokens,
    tokens.create_token,
    tokens.revoke_token,
    metrics.metrics,
)


def build_api(
    operations: Operations, status: Status, trust_desk: TrustDesk, desk: Desk | None = None
) -> ASGIApp:
    """Return the API as an ASGI application; without `desk` it enrols nobody, and says so."""
    settings = operations.settings
    pieces = Uploads(
        settings.state_dir, operations.artifacts, blob_max_bytes=settings.blob_max_bytes
    )
    known = Tokens(operations.database, operations.clock, operations.ledger)
    api = Litestar(
        [Router(ROOT, route_handlers=list(HANDLED)), metrics.metrics_at_root],
        dependencies={
            "operations": Provide(_always(operations), sync_to_thread=False),
            "status": Provide(_always(status), sync_to_thread=False),
            "uploads": Provide(_always(pieces), sync_to_thread=False),
            "trust_desk": Provide(_always(trust_desk), sync_to_thread=False),
            "desk": Provide(
                identity.unavailable if desk is None else _always(desk), sync_to_thread=False
            ),
            "tokens": Provide(_always(known), sync_to_thread=False),
        },
        guards=[Door(known, ROOT, proxy_address=operations.settings.proxy_address).check],
        exception_handlers=HANDLERS,
        openapi_config=OpenAPIConfig(
            title="Fieldfare hub",
            version=program_version(),
            path=f"{ROOT}/openapi",
            render_plugins=[JsonRenderPlugin(path="/openapi.json")],
            use_handler_docstrings=True,
        ),
        request_max_body_size=None,
        logging_config=None,
    )
    bounds = Bounds(
        body_max_bytes=BODY_BYTES_MAX,
        blob_max_bytes=settings.blob_max_bytes,
        stall_s=settings.http_stall_s,
        min_bytes_per_s=settings.http_min_bytes_per_s,
    )
    return Guard(
        Bounded(CutShort(api), bounds),
        http_host=settings.http_host,
        http_names=settings.http_names,
        proxy_address=settings.proxy_address,
    )


def _always(value: T) -> Callable[[], T]:
    return lambda: value
