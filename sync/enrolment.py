"""What a device and a hub must agree on when the device joins: token text, statements, bounds.

Owns the form of a claim token and of what a device signs to renew. Never reads a certificate, and
never opens a connection.

A claim token is `ff1.<host:port>.<fingerprint>.<secret>`: where the hub answers, the SHA-256 of
its CA certificate (DER), and the secret that may be spent. Whoever holds the text can tell the hub
from anybody else before the secret is sent. Fingerprint and secret are base64url without padding
(RFC 4648, section 5), so the only dots inside belong to the host.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

FORM: Final = "ff1"
"""Names the form; another form gets another number."""

TOKEN_CHARACTERS_MAX: Final = 400
FINGERPRINT_BYTES: Final = 32
SECRET_BYTES: Final = 24
"""192 bits: nobody guesses it, so a plain SHA-256 of it may be stored."""

CSR_BYTES_MAX: Final = 4096
"""A request for a P-256 key has about 400 bytes in PEM."""

CERTIFICATE_BYTES_MAX: Final = 8192
NONCE_HEX: Final = re.compile(r"[0-9a-f]{64}\Z")
"""What a device proves with that an enrolment is its own: 32 random bytes, as it chose them."""

CLASS_PATTERN: Final = re.compile(r"[A-Za-z0-9._-]{1,63}\Z")
"""A device class, as a selector can name it."""

_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})\Z")


class BadToken(ValueError):
    """The text is no claim token; whoever typed it is to blame. It is not repeated in messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimToken:
    """A claim token, taken apart."""

    address: str
    """`host:port` of the hub's HTTPS."""
    fingerprint: bytes
    """SHA-256 of the hub's CA certificate in DER."""
    secret: bytes

    def text(self) -> str:
        """Return it as people hand it on."""
        tail = (_encode(self.fingerprint), _encode(self.secret))
        return ".".join((FORM, self.address, *tail))

    def __repr__(self) -> str:
        """Name it without its secret, so that no log can give it away."""
        return f"ClaimToken({self.address})"


def parse_token(text: str) -> ClaimToken:
    """Return the token that `text` is.

    Raises:
        BadToken: It is none. The message does not repeat it.
    """
    text = text.strip()
    if len(text) > TOKEN_CHARACTERS_MAX:
        raise BadToken(f"a claim token has at most {TOKEN_CHARACTERS_MAX} characters")
    head, _, rest = text.partition(".")
    parts = rest.rsplit(".", 2)
    if head != FORM or len(parts) != 3:  # noqa: PLR2004 - host, fingerprint, secret
        raise BadToken(
            "this is no claim token; one looks like ff1.hub.example:8443.<fingerprint>.<secret>, "
            "as `fieldfare enroll token` prints it"
        )
    address, fingerprint, secret = parts
    check_address(address)
    return ClaimToken(
        address=address,
        fingerprint=_decode(fingerprint, FINGERPRINT_BYTES),
        secret=_decode(secret, SECRET_BYTES),
    )


def check_address(address: str) -> str:
    """Return `host:port` unchanged.

    Raises:
        BadToken: It is something else.
    """
    found = _HOST.match(address)
    if found is None or not 1 <= int(found[2]) <= 65_535:  # noqa: PLR2004 - TCP ports
        raise BadToken(f"{address[:80]!r} is not host:port")
    return address


def secret_hash(secret: bytes) -> bytes:
    """Return what a hub keeps of a secret."""
    return sha256(secret).digest()


def renewal_statement(csr_der: bytes) -> bytes:
    """Return what the key of the certificate that is replaced signs for a new one."""
    return b"fieldfare renewal 1\n" + sha256(csr_der).digest()


def fingerprint_text(fingerprint: bytes) -> str:
    """Return a fingerprint as people compare it: 64 hex digits."""
    return fingerprint.hex()


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _decode(text: str, length_bytes: int) -> bytes:
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    # Some last characters carry bits that no byte takes; only one spelling counts.
    if len(raw) != length_bytes or _encode(raw) != text:
        raise BadToken("this claim token was cut or mistyped: copy all of it")
    return raw
