"""What each address asks of whoever uses it: one table.

Owns the table and nothing else. An address that is not in it is closed to everybody; `hub.api.door`
sees to that, and a test compares the table with the addresses.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from hub.operators import Scope


class Need(NamedTuple):
    """What an address asks for."""

    scope: Scope | None
    """Least scope of the token; None for an address that asks for no token."""
    public_because: str = ""
    """Why it asks for none."""


VIEW: Final = Need(Scope.VIEWER)
OPERATE: Final = Need(Scope.OPERATOR)
ADMINISTER: Final = Need(Scope.ADMIN)

NEEDS: Final[Mapping[str, Need]] = MappingProxyType(
    {
        "GET /openapi.json": Need(
            None, "it says what the reference says, and nothing about this hub or its fleet"
        ),
        "GET /metrics": VIEW,
        "GET /hub": VIEW,
        "GET /fleet": VIEW,
        "GET /devices": VIEW,
        "GET /devices/{device}": VIEW,
        "DELETE /devices/{device}": OPERATE,
        "PUT /devices/{device}/settings/{key}": OPERATE,
        "DELETE /devices/{device}/settings/{key}": OPERATE,
        "PUT /groups/{group}/settings/{key}": OPERATE,
        "DELETE /groups/{group}/settings/{key}": OPERATE,
        "HEAD /blobs/{digest}": Need(
            None, "devices ask it, which have no token; whoever names a SHA-256 knows the content"
        ),
        "GET /blobs/{digest}": Need(
            None, "devices fetch releases there, and check what they get by its digest"
        ),
        "GET /blobs/{digest}/blocks": Need(
            None, "devices fetch it, which have no token; it says nothing that the blob does not"
        ),
        "PUT /blobs/{digest}": OPERATE,
        "HEAD /uploads/{digest}": OPERATE,
        "PATCH /uploads/{digest}": OPERATE,
        "GET /packs/{base}/{target}": Need(
            None, "devices ask for it, and check what they make of a pack by the release's digest"
        ),
        "GET /trust": VIEW,
        "POST /trust": OPERATE,
        "POST /trust/online": ADMINISTER,
        "GET /trust/metadata/{name}": Need(
            None, "devices fetch it; it is signed, and made to be read by everybody"
        ),
        "POST /claims": OPERATE,
        "GET /claims": VIEW,
        "DELETE /claims/{claim}": OPERATE,
        "GET /enrolments": VIEW,
        "POST /enrolments/{name}/accept": OPERATE,
        "POST /enrolments/{name}/refuse": OPERATE,
        "POST /enrolments/refuse": OPERATE,
        "POST /devices/{device}/revoke": OPERATE,
        "GET /provisioning": VIEW,
        "GET /audit": ADMINISTER,
        "GET /tokens": ADMINISTER,
        "POST /tokens": ADMINISTER,
        "DELETE /tokens/{token}": ADMINISTER,
        "GET /releases": VIEW,
        "POST /releases": OPERATE,
        "GET /deployments": VIEW,
        "POST /deployments": OPERATE,
        "GET /outcomes": VIEW,
        "GET /measures": VIEW,
        "GET /measures/{metric}": VIEW,
        "GET /events": VIEW,
        "GET /cases": VIEW,
        "GET /flags": VIEW,
        "GET /flags/{flag}": VIEW,
        "GET /flags/{flag}/verdicts": VIEW,
        "PUT /groups/{group}/flags/{flag}": OPERATE,
        "PUT /groups/{group}/flags/{flag}/share": OPERATE,
        "POST /groups/{group}/flags/{flag}/finish": OPERATE,
        "DELETE /groups/{group}/flags/{flag}": OPERATE,
        "GET /kills": VIEW,
        "GET /kills/{what}": VIEW,
        "PUT /kills/{what}": OPERATE,
        "DELETE /kills/{what}": OPERATE,
        "GET /deployments/{deployment}": VIEW,
        "GET /deployments/{deployment}/verdicts": VIEW,
        "DELETE /deployments/{deployment}": OPERATE,
        "PUT /deployments/{deployment}/terms": OPERATE,
    }
)
"""By method and path below `/api/v1`."""
