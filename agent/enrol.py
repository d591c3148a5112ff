"""Joining a fleet and renewing: the device's side, in a process that ends.

Owns the requests, their retries, and what is believed of the answers. The authority is believed
when its SHA-256 is that of the claim token; a certificate when that authority signed it for this
device's key. Everything else on the network is a stranger.

Run as `python -m agent.enrol --folder DIR --hub-url URL` it renews once; the daemon does so.

Format: PKCS #10 (RFC 2986) and JSON over HTTP/1.1 on TLS 1.3.
"""

import argparse
import base64
import contextlib
import hashlib
import hmac
import http.client
import json
import os
import secrets
import ssl
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.identity import (
    AUTHORITY,
    CERTIFICATE,
    KEY,
    NONCE,
    Validity,
    certificate_file,
    write_file,
)
from agent.keys import DeviceKey, FileKey, KeyMaker, KeyUnusable, key_maker
from agent.line import CHUNKED, is_chunked
from sync.enrolment import ClaimToken, renewal_statement
from sync.metadata import BYTES_MAX
from sync.transport.tls import client_context

API: Final = "/api/v1"
NONCE_HEADER: Final = "fieldfare-nonce"

ANSWER_S: Final = 30.0
ANSWER_BYTES_MAX: Final = 64 * 1024
POLL_FIRST_S: Final = 2.0
POLL_LONGEST_S: Final = 60.0

PUBLIC_MODE: Final = 0o644
PRIVATE_MODE: Final = 0o600

RENEWED: Final = 0
REFUSED: Final = 1
UNREACHABLE: Final = 8
"""Exit codes of this module run as a program."""


class EnrolmentFailed(Exception):
    """The device did not get a certificate; what it had is as it was. The message is one line."""


class HubRefused(EnrolmentFailed):
    """The hub said no; asking again changes nothing until somebody has decided otherwise."""


class HubHasNone(HubRefused):
    """The hub has not what was asked for."""


class HubUnreachable(EnrolmentFailed):
    """No hub answered, or it is too busy; later it may."""


class StillWaiting(EnrolmentFailed):
    """The wait is over, and no operator has decided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Whom the device takes for the hub."""

    fingerprint: bytes | None
    """SHA-256 of the authority's certificate in DER; None trusts whoever answers first."""


class Hub:
    """One hub's HTTPS."""

    def __init__(self, hub_url: str) -> None:
        """Talk to the hub at `https://host:port`."""
        parts = urlsplit(hub_url)
        if parts.scheme != "https" or not parts.hostname:
            raise EnrolmentFailed(
                f"{hub_url!r} is no address of a hub that enrols: one looks like "
                "https://hub.example:8443"
            )
        self._host = parts.hostname
        self._port = parts.port
        self._path = parts.path.rstrip("/") + API

    def authority(self, trust: Trust) -> bytes:
        """Return the certificate of the hub's authority (PEM), compared with what is trusted.

        Nothing secret is sent on this connection, and nothing but the compared bytes is believed.
        """
        blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        blind.check_hostname = False
        blind.verify_mode = ssl.CERT_NONE
        pem = self._ask(blind, "GET", "/ca")
        try:
            found = x509.load_pem_x509_certificate(pem)
        except ValueError:
            raise HubRefused("what answers there is no hub of Fieldfare") from None
        if trust.fingerprint is not None and not hmac.compare_digest(
            found.fingerprint(hashes.SHA256()), trust.fingerprint
        ):
            raise HubRefused(
                f"another hub than that of the claim token answers at {self._host}: somebody may "
                "be in between; the token was not sent"
            )
        return found.public_bytes(serialization.Encoding.PEM)

    def json(
        self, context: ssl.SSLContext, method: str, path: str, wish: object = None, nonce: str = ""
    ) -> dict[str, Any]:
        """Make one request and return the answer."""
        text = self._ask(context, method, path, wish, nonce)
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise HubUnreachable("the hub's answer was cut off")
        return answer

    def root(self, context: ssl.SSLContext) -> bytes | None:
        """Return the newest root of the hub's signed list, None if it has none yet."""
        try:
            return self._ask(context, "GET", "/trust/root", bytes_max=BYTES_MAX["root"] + 1)
        except HubHasNone:
            return None

    def _ask(
        self,
        context: ssl.SSLContext,
        method: str,
        path: str,
        wish: object = None,
        nonce: str = "",
        *,
        bytes_max: int = ANSWER_BYTES_MAX,
    ) -> bytes:
        headers = {"User-Agent": "fieldfare-agent", "Connection": "close"}
        body = None
        if wish is not None:
            body = json.dumps(wish).encode()
            headers["Content-Type"] = "application/json"
        if nonce:
            headers[NONCE_HEADER] = nonce
        connection = http.client.HTTPSConnection(
            self._host, self._port, timeout=ANSWER_S, context=context
        )
        try:
            with contextlib.closing(connection):
                connection.request(method, self._path + path, body, headers)
                answer = connection.getresponse()
                if is_chunked(answer):
                    raise HubUnreachable(CHUNKED)
                text = answer.read(bytes_max)
        except ssl.SSLCertVerificationError as error:
            raise HubRefused(
                f"what answers at {self._host} is not the pinned hub ({error.verify_message}): "
                "check https_names of the hub, or enrol anew"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise HubUnreachable(f"no hub answers at {self._host} ({reason})") from None
        if answer.status < http.HTTPStatus.BAD_REQUEST:
            return text
        detail = _detail(text) or f"HTTP status {answer.status}"
        is_busy = answer.status >= http.HTTPStatus.INTERNAL_SERVER_ERROR
        if is_busy or answer.status == http.HTTPStatus.TOO_MANY_REQUESTS:
            raise HubUnreachable(f"the hub cannot answer now: {detail}")
        if answer.status == http.HTTPStatus.NOT_FOUND:
            raise HubHasNone(f"the hub refuses: {detail}")
        raise HubRefused(f"the hub refuses: {detail}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Applicant:
    """A device that wants to belong."""

    device: str
    device_class: str
    folder: Path
    """Of the identity; made if it is not there."""
    hub_url: str
    key_of: KeyMaker = FileKey
    """Finds or makes the key of a file name."""

    def enrol(
        self,
        trust: Trust,
        token: ClaimToken | None,
        *,
        wait_s: float,
        say: Callable[[str], None],
        random: Random | None = None,
    ) -> str:
        """Get a certificate, waiting for an operator if need be; return the enrolment's id.

        Killed at any moment and run again, it goes on where it was.

        Raises:
            EnrolmentFailed: It did not get one, and why.
            OSError: The folder cannot be written.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        rng = random or Random()  # noqa: S311 - jitter only
        hub = Hub(self.hub_url)
        key = self.key_of(self.folder / KEY)
        nonce = self._nonce()
        until_mono = time.monotonic() + wait_s
        pem = _patiently(lambda: hub.authority(trust), until_mono, rng, say)
        write_file(self.folder / AUTHORITY, pem, mode=PUBLIC_MODE)
        context = client_context(self.folder / AUTHORITY, None, None)
        wish = {
            "csr": request_of(key, self.device).decode(),
            "nonce": nonce,
            "device_class": self.device_class,
            "secret": "" if token is None else token.text().rpartition(".")[2],
        }
        said = _patiently(
            lambda: hub.json(context, "POST", "/enrolments", wish), until_mono, rng, say
        )
        identity = str(said.get("id", ""))
        path = f"/enrolments/{identity}"
        is_first = True
        poll_s = POLL_FIRST_S
        while said.get("state") in ("waiting", "accepted"):
            if is_first:
                say(f"{self.device} waits for an operator; enrolment {identity}")
                is_first = False
            if time.monotonic() >= until_mono:
                raise StillWaiting(
                    f"nobody has decided about enrolment {identity} yet: run this again to go on "
                    "waiting"
                )
            time.sleep(max(0.0, min(poll_s, until_mono - time.monotonic())))
            poll_s = min(POLL_LONGEST_S, poll_s * 1.5)
            said = _patiently(
                lambda: hub.json(context, "GET", path, nonce=nonce), until_mono, rng, say
            )
        if said.get("state") != "issued":
            raise HubRefused(str(said.get("hint") or said.get("reason") or "the hub refuses"))
        keep_certificate(self.folder, key, self.device, str(said.get("certificate")).encode())
        return identity

    def _nonce(self) -> str:
        file = self.folder / NONCE
        with contextlib.suppress(FileNotFoundError):
            return file.read_text().strip()
        nonce = secrets.token_hex(32)
        write_file(file, nonce.encode(), mode=PRIVATE_MODE)
        return nonce


def renew(folder: Path, hub_url: str, key_of: KeyMaker = FileKey) -> bool:
    """Ask once for a new certificate; return whether there is one.

    The certificate may have expired: the key proves who asks, and no certificate is shown.

    Raises:
        EnrolmentFailed: There is none, and why; the old one is as it was.
        OSError: The folder cannot be read or written.
    """
    key = key_of(folder / KEY)
    old = (folder / CERTIFICATE).read_bytes()
    certificate = x509.load_pem_x509_certificate(old)
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    device = str(names[0].value)
    csr = request_of(key, device)
    der = x509.load_pem_x509_csr(csr).public_bytes(serialization.Encoding.DER)
    proof = key.signer().sign(renewal_statement(der), ec.ECDSA(hashes.SHA256()))
    context = client_context(folder / AUTHORITY, None, None)
    wish = {
        "certificate": certificate.public_bytes(serialization.Encoding.PEM).decode(),
        "csr": csr.decode(),
        "proof": base64.b64encode(proof).decode(),
    }
    said = Hub(hub_url).json(context, "POST", "/renewals", wish)
    fresh = str(said.get("certificate")).encode()
    if fresh.strip() == certificate.public_bytes(serialization.Encoding.PEM).strip():
        return False
    keep_certificate(folder, key, device, fresh)
    return True


def request_of(key: DeviceKey, device: str) -> bytes:
    """Return a certificate request (PEM) for `device`, signed by its key."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name)
    return request.sign(key.signer(), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def keep_certificate(folder: Path, key: DeviceKey, device: str, pem: bytes) -> None:
    """Put a certificate into use, if it is what was asked for.

    Raises:
        HubRefused: It is for another key or device, or not by the pinned authority.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        authority = x509.load_pem_x509_certificate((folder / AUTHORITY).read_bytes())
        certificate.verify_directly_issued_by(authority)
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        is_ours = certificate.public_key() == key.signer().public_key()
        is_named = [each.value for each in names] == [device]
    except Exception:  # noqa: BLE001 - whatever is wrong with it, it is not used
        is_ours = is_named = False
    if not (is_ours and is_named):
        raise HubRefused("the hub sent a certificate that is not this device's; it is not used")
    validity = Validity(
        int(certificate.not_valid_before_utc.timestamp()),
        int(certificate.not_valid_after_utc.timestamp()),
    )
    clean = certificate.public_bytes(serialization.Encoding.PEM)
    write_file(folder / CERTIFICATE, certificate_file(clean, validity), mode=PUBLIC_MODE)


def _patiently(
    ask: Callable[[], Any], until_mono: float, random: Random, say: Callable[[str], None]
) -> Any:
    """Ask until somebody answers, with full jitter in between, or the time is over."""
    failure_count = 0
    while True:
        try:
            return ask()
        except HubUnreachable as failure:
            if time.monotonic() >= until_mono:
                raise
            if not failure_count:
                say(f"{failure}; trying again")
            failure_count += 1
            scale_s = min(POLL_LONGEST_S, 2.0 ** min(failure_count, 16))
            left_s = max(0.0, until_mono - time.monotonic())
            time.sleep(min(left_s, random.uniform(0, scale_s)))


def _detail(text: bytes) -> str:
    try:
        problem = json.loads(text)
    except ValueError:
        return ""
    return " ".join(str(problem.get("detail", "")).split()) if isinstance(problem, dict) else ""


def fingerprint_of(text: str) -> bytes:
    """Return the fingerprint that 64 hex digits are.

    Raises:
        EnrolmentFailed: They are something else.
    """
    try:
        raw = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        raw = b""
    if len(raw) != hashlib.sha256().digest_size:
        raise EnrolmentFailed("a fingerprint is the SHA-256 of the hub's authority: 64 hex digits")
    return raw


def main(arguments: Sequence[str] | None = None) -> int:
    """Renew once; print one JSON line and return 0, 1 (refused) or 8 (no hub)."""
    parser = argparse.ArgumentParser(prog="python -m agent.enrol")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--hub-url", required=True)
    parser.add_argument("--device-key", default="")
    options = parser.parse_args(arguments)
    try:
        renewed = renew(options.folder, options.hub_url, key_maker(options.device_key))
    except HubUnreachable as failure:
        return _told({"error": str(failure)}, UNREACHABLE)
    except (EnrolmentFailed, KeyUnusable, OSError, ValueError) as failure:
        return _told({"error": str(failure)}, REFUSED)
    return _told({"renewed": renewed}, RENEWED)


def _told(said: dict[str, object], code: int) -> int:
    os.write(sys.stdout.fileno(), json.dumps(said).encode() + b"\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
