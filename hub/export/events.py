"""Events as CloudEvents, and how a delivery is signed.

Owns their form. Sends nothing.

Sources: CloudEvents 1.0.2 with its JSON format and HTTP binding in structured mode; Standard
Webhooks 1.0.0 for the headers `webhook-id`, `webhook-timestamp` and `webhook-signature`
(HMAC-SHA256 over `id.timestamp.body`), which receivers in most languages have libraries for.
"""

import base64
import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

CONTENT_TYPE: Final = "application/cloudevents+json"

CHANGED: Final = "fieldfare.change.v1"
"""Somebody changed something: a row of the audit."""

VERDICTS: Final = "fieldfare.deployment.verdicts.v1"
"""What a deployment came to changed on some of its devices."""

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - how such a secret begins, as in the specification
SECRET_BYTES_MIN: Final = 24


class BadSecret(ValueError):
    """What is in the file is no secret to sign with; the operator is to blame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened, to be told."""

    id: str
    """The same when it is told again; another one for everything else."""
    type: str
    subject: str
    """What it is about: a deployment, a device, `grp/all mode`."""
    at_ms: int
    """Hub UTC."""
    content: dict[str, Any]

    def body(self, source: str) -> bytes:
        """Return it as it is sent; `source` is the hub's own name."""
        return msgspec.json.encode(
            {
                "specversion": "1.0",
                "id": self.id,
                "source": source,
                "type": self.type,
                "subject": self.subject,
                "time": moment(self.at_ms),
                "datacontenttype": "application/json",
                "data": self.content,
            }
        )


def moment(at_ms: int) -> str:
    """Return a time as RFC 3339 has it, in UTC, to the millisecond."""
    found = datetime.fromtimestamp(at_ms / 1000, UTC)
    return found.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def headers(event: Event, body: bytes, secret: bytes | None, now_s: int) -> dict[str, str]:
    """Return the headers of one attempt to deliver `event`, signed if there is a secret."""
    named = {
        "content-type": CONTENT_TYPE,
        "webhook-id": event.id,
        "webhook-timestamp": str(now_s),
    }
    if secret is not None:
        named["webhook-signature"] = signature(event.id, now_s, body, secret)
    return named


def signature(event_id: str, now_s: int, body: bytes, secret: bytes) -> str:
    """Return the signature of one attempt, `v1,` and base64."""
    signed = b".".join((event_id.encode(), str(now_s).encode(), body))
    digest = hmac.new(secret, signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def secret_of(text: str) -> bytes:
    """Return the secret in `whsec_` and base64, or in base64 alone.

    Raises:
        BadSecret: It is neither, or shorter than 24 bytes.
    """
    try:
        secret = base64.b64decode(text.strip().removeprefix(SECRET_PREFIX), validate=True)
    except ValueError:
        raise BadSecret(
            "the secret to sign webhooks with is not base64; make one with "
            "`echo whsec_$(head -c 32 /dev/urandom | base64)`"
        ) from None
    if len(secret) < SECRET_BYTES_MIN:
        raise BadSecret(
            f"the secret to sign webhooks with has {len(secret)} bytes, and needs at least "
            f"{SECRET_BYTES_MIN}"
        )
    return secret
