"""One piece of signed metadata: its bounds, its form, its signatures, and when it was signed.

Owns reading it from bytes that anybody may have written, and the refusal that says why not. Never
decides which of two to believe (`sync.trust`). Signatures are checked by python-tuf.
"""

import calendar
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, TypeVar, cast

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Signed, Snapshot, Targets, Timestamp

from sync.stages import Reason

S = TypeVar("S", Root, Timestamp, Snapshot, Targets)

BYTES_MAX: Final[Mapping[str, int]] = MappingProxyType(
    {
        Root.type: 64 * 1024,
        Timestamp.type: 16 * 1024,
        Snapshot.type: 16 * 1024,
        Targets.type: 2 * 1024 * 1024,
    }
)
"""Longest metadata of each role. A release takes some 300 bytes of the targets metadata."""

SIGNED_AT: Final = "signed_at"
"""Field of the signed part: when it was signed, UTC, in the form of TUF's `expires`."""

TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"


class Refused(Exception):
    """Metadata or a manifest was not believed. What was believed before still is."""

    def __init__(self, reason: Reason, detail: str) -> None:
        """`reason` is told to the hub as the outcome; `detail` is one line for people."""
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def seconds(at: datetime) -> int:
    """Return a moment of TUF as seconds UTC."""
    return calendar.timegm(at.utctimetuple())


def signed_at_s(signed: Signed) -> int:
    """Return when it was signed, in seconds UTC; 0 if it does not say."""
    try:
        text = signed.unrecognized_fields.get(SIGNED_AT)
        return max(0, seconds(datetime.strptime(str(text), TIME_FORMAT).replace(tzinfo=UTC)))
    except ValueError:
        return 0


def read(kind: type[S], content: bytes) -> "Metadata[S]":
    """Return metadata of one role from bytes that anybody may have written.

    Raises:
        Refused: It is too long, or no metadata of that role.
    """
    if len(content) > BYTES_MAX[kind.type]:
        raise Refused(
            Reason.ENDLESS,
            f"{kind.type} has {len(content)} bytes, at most {BYTES_MAX[kind.type]} are read",
        )
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(content)
    except (RepositoryError, ValueError, RecursionError) as error:
        cause = error.__cause__ or error
        raise Refused(
            Reason.METADATA_INVALID,
            f"what is offered as {kind.type} is no TUF metadata: {_line(cause)}",
        ) from None
    if not isinstance(metadata.signed, kind):
        raise Refused(Reason.METADATA_INVALID, f"{metadata.signed.type} is offered as {kind.type}")
    if type(metadata.signed.version) is not int:  # python-tuf lets 1.0 and true pass
        raise Refused(Reason.METADATA_INVALID, f"the version of {kind.type} is no whole number")
    return cast("Metadata[S]", metadata)


def check_signatures(delegator: Root, role: str, metadata: "Metadata[Any]") -> None:
    """Check that enough of the keys that `delegator` names for `role` have signed it.

    Raises:
        Refused: Not enough have, or what they did cannot be read.
    """
    if not metadata.signatures:
        raise Refused(Reason.UNSIGNED, f"nobody has signed what is offered as {role}")
    try:
        result = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    except Exception as error:  # noqa: BLE001 - strangers choose keys' and signatures' forms
        raise Refused(
            Reason.METADATA_INVALID, f"the signatures of {role} cannot be checked: {_line(error)}"
        ) from None
    # One key may stand there under several ids; it signs once all the same.
    count = len({str(key.keyval.get("public", "")).lower() for key in result.signed.values()})
    if not result.verified or count < result.threshold:
        raise Refused(
            Reason.BELOW_THRESHOLD,
            f"{role} {metadata.signed.version} has {count} good signatures, "
            f"{result.threshold} are needed",
        )


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__} {error}".split())[:120]
