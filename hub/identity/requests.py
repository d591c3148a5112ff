"""What a stranger asks to have signed: read with suspicion, proven, reduced to what counts.

Owns the check of certificate requests (PKCS #10, RFC 2986) and of renewals. Pure. Whatever is
wrong with the bytes, the answer is `BadRequest`; they are bounded before anything looks at them.
"""

from dataclasses import dataclass
from hashlib import sha256

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sync.documents import BadName
from sync.enrolment import CERTIFICATE_BYTES_MAX, CSR_BYTES_MAX, renewal_statement
from sync.topics import check_device


class BadRequest(ValueError):
    """The bytes are no request that can be signed; their sender is to blame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRequest:
    """A request whose sender has proven to hold the key."""

    device: str
    public_key: ec.EllipticCurvePublicKey
    key_digest: bytes
    """SHA-256 of the public key (SubjectPublicKeyInfo): names the key, here and on the device."""
    der: bytes


def read_request(pem: bytes) -> CertificateRequest:
    """Return the request that `pem` holds.

    Raises:
        BadRequest: It holds none, names no device, or its signature is not by its own key.
    """
    if len(pem) > CSR_BYTES_MAX:
        raise BadRequest(f"a certificate request has at most {CSR_BYTES_MAX} bytes")
    try:
        request = x509.load_pem_x509_csr(pem)
        key = request.public_key()
        algorithm = request.signature_hash_algorithm
        is_proven = request.is_signature_valid
        names = [
            str(each.value) for each in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        ]
        der = request.public_bytes(serialization.Encoding.DER)
    except Exception:  # noqa: BLE001 - hostile bytes; the library raises many kinds
        raise BadRequest("this is no certificate request (PKCS #10 in PEM)") from None
    if not isinstance(algorithm, hashes.SHA256):
        raise BadRequest("the request must be signed with SHA-256")
    if not is_proven:
        raise BadRequest("the request is not signed by the key that it names")
    if len(names) != 1:
        raise BadRequest("the request must have one common name, that of the device")
    return CertificateRequest(
        device=_device(names[0]), public_key=_p256(key), key_digest=key_digest(key), der=der
    )


def read_certificate(pem: bytes) -> x509.Certificate:
    """Return the certificate that `pem` holds; who made it is not checked.

    Raises:
        BadRequest: It holds none.
    """
    if len(pem) > CERTIFICATE_BYTES_MAX:
        raise BadRequest(f"a certificate has at most {CERTIFICATE_BYTES_MAX} bytes")
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        certificate.public_key()
        names_of(certificate)
    except Exception:  # noqa: BLE001 - hostile bytes; the library raises many kinds
        raise BadRequest("this is no certificate (X.509 in PEM)") from None
    return certificate


def check_renewal(certificate: x509.Certificate, request: CertificateRequest, proof: bytes) -> None:
    """Check that the holder of the certificate's key wants `request` signed in its place.

    Raises:
        BadRequest: The certificate is another device's, or the proof is not by its key.
    """
    key = _p256(certificate.public_key())
    if names_of(certificate) != [request.device]:
        raise BadRequest("the request names another device than the certificate")
    try:
        key.verify(proof, renewal_statement(request.der), ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError, OverflowError):
        raise BadRequest("the renewal is not signed by the key of the certificate") from None


def names_of(certificate: x509.Certificate) -> list[str]:
    """Return the common names of a certificate."""
    return [
        str(each.value) for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    ]


def holds_key(der: bytes, digest: bytes) -> bool:
    """Tell whether a certificate (DER) that was verified is for the key with this digest."""
    return key_digest(x509.load_der_x509_certificate(der).public_key()) == digest


def key_digest(key: object) -> bytes:
    """Return the SHA-256 of a public key.

    Raises:
        BadRequest: It is not of a kind that is signed here.
    """
    spki = _p256(key).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return sha256(spki).digest()


def _p256(key: object) -> ec.EllipticCurvePublicKey:
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadRequest("the key must be an elliptic curve key on P-256")
    return key


def _device(name: str) -> str:
    try:
        return check_device(name)
    except BadName as error:
        raise BadRequest(f"the common name cannot name a device: {error}") from None
