"""Claim tokens: who may enrol without asking anybody, how often, until when, and as what.

Owns what a token allows and how one is spent. Pure; keeps no secret, only its hash.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from hmac import compare_digest

from sync.enrolment import secret_hash


class ClaimProblem(StrEnum):
    """Why a token is not accepted. Values travel and are stored; never reuse one."""

    UNKNOWN = "token_unknown"
    EXPIRED = "token_expired"
    SPENT = "token_spent"
    WITHDRAWN = "token_withdrawn"
    WRONG_CLASS = "token_wrong_class"
    WRONG_NAME = "token_wrong_name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claim token as the hub knows it."""

    id: str
    """Names it where people speak of it; tells nothing of the secret."""
    secret_hash: bytes
    device_class: str
    device: str
    """The one device that may use it, empty for any."""
    uses_count: int
    """How many devices may enrol with it in all."""
    spent_count: int
    created_ms: int
    expires_ms: int
    is_withdrawn: bool = False

    def fits(self, secret: bytes) -> bool:
        """Tell whether this is the token of `secret`, in a time that does not depend on it."""
        return compare_digest(self.secret_hash, secret_hash(secret))


def problem_of(
    claim: Claim | None, *, device: str, device_class: str, now_ms: int
) -> ClaimProblem | None:
    """Return why `device` cannot enrol with a token; None if it can."""
    if claim is None:
        return ClaimProblem.UNKNOWN
    checks = (
        (ClaimProblem.WITHDRAWN, claim.is_withdrawn),
        (ClaimProblem.EXPIRED, now_ms >= claim.expires_ms),
        (ClaimProblem.SPENT, claim.spent_count >= claim.uses_count),
        (ClaimProblem.WRONG_CLASS, claim.device_class != device_class),
        (ClaimProblem.WRONG_NAME, claim.device not in ("", device)),
    )
    return next((problem for problem, holds in checks if holds), None)


def spend(claim: Claim) -> Claim:
    """Return the token after one device has enrolled with it."""
    return replace(claim, spent_count=claim.spent_count + 1)
