"""Keys and requests as devices make them, for tests of who may belong."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hub.identity.ca import Authority, new_authority
from hub.identity.registrar import Registrar
from sync.enrolment import renewal_statement

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
NOW_MS = int(NOW.timestamp()) * 1000
DAY_MS = 86_400_000
NONCE = "ab" * 32

CA = new_authority("fieldfare", now=NOW)

Key = ec.EllipticCurvePrivateKey


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def csr_of(key: Key, device: str) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def proof_of(key: Key, csr: bytes) -> bytes:
    der = x509.load_pem_x509_csr(csr).public_bytes(serialization.Encoding.DER)
    return key.sign(renewal_statement(der), ec.ECDSA(hashes.SHA256()))


def registrar_of(authority: Authority = CA, crls: list[bytes] | None = None) -> Registrar:
    return Registrar(
        authority=authority,
        life=timedelta(days=90),
        grace=timedelta(days=365),
        on_revoked=(crls if crls is not None else []).append,
    )
