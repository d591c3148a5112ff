"""The hub's own certificate authority: what it signs, as functions of a key and a moment.

Owns the form of certificates and of the list of revoked ones. Pure: no file, no clock, no policy
about who gets one. The cryptography is the library's.

Rules: nothing that a request says is copied into a certificate except its public key; the name is
given by the caller. Serial numbers are random. A device's certificate cannot pass for a server's,
nor a server's for a device's (extended key usage, RFC 5280, 4.2.1.12).

P-256 with SHA-256 throughout: TLS 1.3 of OpenSSL and Mosquitto takes it, and it is what TPMs and
secure elements make. The list of revoked certificates never expires before the authority does: a
broker with an expired one refuses every device.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_YEARS: Final = 30
"""Devices stay in the field for decades, and pin this certificate."""

SERVER_LIFE: Final = timedelta(days=10 * 365)
"""Of certificates whose key lies beside the authority's own, or on the broker's machine."""

BACKDATED: Final = timedelta(hours=1)
"""How far the clock of a broker may be behind the hub's."""

HUB_NAME: Final = "hub"
"""Common name of the hub at the broker; no device may be called so."""

_DAY: Final = timedelta(days=1)


class Revoked(NamedTuple):
    """One line of the list of revoked certificates."""

    serial: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Authority:
    """A key and the certificate that devices pin. `repr` shows neither."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def __repr__(self) -> str:
        """Name the authority by its fingerprint alone."""
        return f"Authority({self.fingerprint.hex()[:16]})"

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the certificate in DER."""
        return self.certificate.fingerprint(hashes.SHA256())

    def pem(self) -> bytes:
        """Return the certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def sign_device(
        self, device: str, public_key: ec.EllipticCurvePublicKey, *, now: datetime, life: timedelta
    ) -> x509.Certificate:
        """Return a certificate by which `device` proves who it is, to brokers and to the hub."""
        usage = ExtendedKeyUsageOID.CLIENT_AUTH
        return self._sign(_name(device), public_key, usage, now=now, life=life)

    def sign_server(
        self, names: Iterable[str], public_key: ec.EllipticCurvePublicKey, *, now: datetime
    ) -> x509.Certificate:
        """Return a certificate for a server that is reached by these host names and addresses."""
        found = list(dict.fromkeys(names))
        alternatives = x509.SubjectAlternativeName([_general_name(each) for each in found])
        usage = ExtendedKeyUsageOID.SERVER_AUTH
        subject = _name("fieldfare server")
        return self._sign(subject, public_key, usage, alternatives, now=now, life=SERVER_LIFE)

    def sign_crl(
        self, revoked: Iterable[Revoked], *, now: datetime
    ) -> x509.CertificateRevocationList:
        """Return the list of revoked certificates."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - BACKDATED)
            .next_update(self.certificate.not_valid_after_utc)
        )
        for each in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(each.serial)
                .revocation_date(each.at)
                .build()
            )
        return builder.sign(self.key, hashes.SHA256())

    def signed(self, certificate: x509.Certificate) -> bool:
        """Tell whether this authority made the certificate; expired or not."""
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except Exception:  # noqa: BLE001 - hostile bytes; each of many errors means no
            return False
        return True

    def _sign(
        self,
        subject: x509.Name,
        public_key: ec.EllipticCurvePublicKey,
        usage: x509.ObjectIdentifier,
        *more: x509.ExtensionType,
        now: datetime,
        life: timedelta,
    ) -> x509.Certificate:
        until = min(now + life, self.certificate.not_valid_after_utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATED)
            .not_valid_after(until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
        )
        for extension in more:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self.key, hashes.SHA256())


def new_authority(name: str, *, now: datetime) -> Authority:
    """Return a new authority; `name` is shown where people look at certificates."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(name)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + timedelta(days=365 * AUTHORITY_YEARS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(key, certificate)


def read_authority(key_pem: bytes, certificate_pem: bytes) -> Authority:
    """Return the authority that two files hold.

    Raises:
        ValueError: They are damaged, or do not belong together.
    """
    key = serialization.load_pem_private_key(key_pem, password=None)
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the key is not of the kind that this program makes")  # noqa: TRY004
    if certificate.public_key() != key.public_key():
        raise ValueError("key and certificate do not belong together")
    return Authority(key, certificate)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key as it is kept in a file that its owner alone can read."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """Return a certificate as it travels."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def utc(at_ms: int) -> datetime:
    """Return a moment of the hub's clock as certificates have it, whole seconds."""
    return datetime.fromtimestamp(at_ms // 1000, UTC)


def milliseconds(at: datetime) -> int:
    """Return a moment of a certificate as hub UTC in milliseconds."""
    return int(at.timestamp()) * 1000


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name.removeprefix("[").removesuffix("]")))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
