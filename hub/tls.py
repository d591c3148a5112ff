"""The TLS of the operators' API: a certificate and its key, from files.

Owns the context. Never makes a certificate.
"""

import ssl
from pathlib import Path

from hub.errors import BadSettings
from hub.settings import Settings


def context_of(settings: Settings) -> ssl.SSLContext | None:
    """Return the context that the settings ask for, None for HTTP.

    Raises:
        BadSettings: As `server_context`.
    """
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return server_context(settings.tls_certificate, settings.tls_key)


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return a context that shows this certificate, for TLS 1.2 and newer.

    Raises:
        BadSettings: The files cannot be read, or are no certificate and its key.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # A password of none: OpenSSL would ask for one on the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise BadSettings(
            f"{certificate} and {key} (tls_certificate and tls_key) cannot be used for TLS "
            f"({reason}): name a certificate with its chain and its key, both PEM, the key without "
            "a password"
        ) from None
    return context
