"""TLS as both programs speak it: version 1.3, certificates on both sides, one authority trusted.

Owns the contexts. Reads certificate files; opens no connection.

Rules: a client trusts the pinned authority and no other, and checks the name. It does not look at
the dates of a server's certificate: a device without a clock that runs would otherwise lock itself
out of the hub that could help it. What that costs is said in docs/explanation/trust.md, under what
is not guaranteed. A server looks at the dates of a client's certificate.
"""

import ssl
from pathlib import Path
from typing import Final

NO_CHECK_TIME: Final = 0x200000
"""`X509_V_FLAG_NO_CHECK_TIME` of OpenSSL, which the module `ssl` does not name."""


def client_context(authority: Path, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """Return how a client speaks to a server of the authority, showing its own certificate.

    Raises:
        OSError: A file cannot be read, or does not hold what it should (`ssl.SSLError`).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(authority)
    context.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME)
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


def server_context(authority: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """Return how a server speaks to clients that may show a certificate of the authority.

    Raises:
        OSError: As for `client_context`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(authority)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context
