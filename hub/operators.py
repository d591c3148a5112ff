"""Who operates the hub: tokens, what they allow, and when they do not count.

Owns the scopes, the form of a token and the judgement of one that is shown. Pure: time is an
argument, and the only chance in here is that of a new token's own secret.

A token is `fft_<id>_<secret>`. The id is no secret: it stands in lists and in the audit. The secret
is 256 random bits, so its SHA-256 is all that is kept: nobody can guess what leads to a hash, and
slow hashing would add nothing (NIST SP 800-63B, section 5.1.2, asks for it below 112 bits).
Tokens are kept by other people; never reuse their form.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

DAY_S: Final = 86_400

LIFE_S: Final = 90.0 * DAY_S
"""How long a token counts if nothing else is said. Every token ends: one that was forgotten on some
machine must not count for ever."""

LIFE_MAX_S: Final = 366.0 * DAY_S

SECRET_BYTES: Final = 32

ID_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz234567"
ID_LENGTH: Final = 8

NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,62}\Z", re.ASCII)

TEXT_LENGTH: Final = len("fft_") + ID_LENGTH + len("_") + 2 * SECRET_BYTES
"""Characters of a token."""

_TEXT: Final = re.compile(
    rf"fft_([{ID_LETTERS}]{{{ID_LENGTH}}})_([0-9a-f]{{{2 * SECRET_BYTES}}})\Z"
)


class Scope(StrEnum):
    """What a token allows; each allows what those before it do. Values are stored and sent."""

    VIEWER = "viewer"
    """Look at everything except tokens and the audit."""
    OPERATOR = "operator"
    """Also change what devices run and how they are set."""
    ADMIN = "admin"
    """Also decide who may do so, and see what they did."""

    def covers(self, needed: "Scope") -> bool:
        """Tell whether whoever has this scope may do what asks for `needed`."""
        order = tuple(Scope)
        return order.index(self) >= order.index(needed)


class BadToken(ValueError):
    """The text is no token; whoever shows it is to blame. The message never holds the text."""


class Shown(NamedTuple):
    """A token as somebody shows it."""

    id: str
    secret: bytes

    def text(self) -> str:
        """Return what is shown to the hub."""
        return f"fft_{self.id}_{self.secret.hex()}"

    def __repr__(self) -> str:
        """Return the id alone, so that no log holds the secret."""
        return f"Shown({self.id!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token as the hub keeps it."""

    id: str
    name: str
    """Of the person or program that has it."""
    scope: Scope
    digest: bytes
    """SHA-256 of the secret."""
    created_ms: int
    expires_ms: int
    """Hub UTC from which on it does not count."""
    revoked_ms: int | None = None


class Verdict(StrEnum):
    """Whether a token that is shown counts."""

    COUNTS = "counts"
    UNKNOWN = "unknown"
    """The hub has none with this id, or the secret is another."""
    REVOKED = "revoked"
    EXPIRED = "expired"


def parse_token(text: str) -> Shown:
    """Return the token with this text.

    Raises:
        BadToken: It is none.
    """
    found = _TEXT.match(text)
    if found is None:
        raise BadToken(
            f"this is no token: one has {TEXT_LENGTH} characters, fft_<id>_<secret>; copy all of it"
        )
    return Shown(found[1], bytes.fromhex(found[2]))


def new_token() -> Shown:
    """Return a token that nobody had before."""
    identity = "".join(secrets.choice(ID_LETTERS) for _ in range(ID_LENGTH))
    return Shown(identity, secrets.token_bytes(SECRET_BYTES))


def digest_of(secret: bytes) -> bytes:
    """Return what is kept of a secret."""
    return hashlib.sha256(secret).digest()


def is_name(text: str) -> bool:
    """Tell whether a token may have this name."""
    return NAME_PATTERN.match(text) is not None


_NOBODYS: Final = bytes(32)


def judge(kept: Token | None, shown: Shown, now_ms: int) -> Verdict:
    """Return whether `shown` counts, given what is kept under its id (None for nothing).

    The comparison takes the same time whatever the secret is. Only who has the right secret learns
    that a token was revoked or has expired.
    """
    digest = _NOBODYS if kept is None else kept.digest
    is_right = hmac.compare_digest(digest, digest_of(shown.secret))
    if kept is None or not is_right:
        return Verdict.UNKNOWN
    if kept.revoked_ms is not None:
        return Verdict.REVOKED
    if now_ms >= kept.expires_ms:
        return Verdict.EXPIRED
    return Verdict.COUNTS
