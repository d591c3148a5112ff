"""Signatures of Mender artifacts: over the raw bytes of `manifest`, in base64.

RSA as PKCS#1 v1.5 with SHA-256; ECDSA on P-256 with SHA-256, its two numbers as 32 bytes each and
not in DER.
"""

import base64
import binascii
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

RSA_BITS_MIN: Final = 2048
NUMBER_BYTES: Final = 32

_NOT_BY_IT: Final = "it was not signed with this key, or was changed since"

_RSA: Final = (padding.PKCS1v15(), SHA256())


class BadSignature(ValueError):
    """Nobody with this key has signed it, or the key is none; says which."""


def verify_signature(manifest: bytes, signature: bytes, public_key: bytes) -> None:
    """Make sure that the owner of a key has signed a manifest.

    Args:
        manifest: The raw bytes of the part `manifest`.
        signature: Those of `manifest.sig`.
        public_key: In PEM.

    Raises:
        BadSignature: The owner has not, or the key cannot be used.
    """
    try:
        raw = base64.b64decode(signature.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise BadSignature("its signature is not base64") from None
    try:
        key = load_pem_public_key(public_key)
    except (ValueError, UnsupportedAlgorithm):
        raise BadSignature("the key is no public key in PEM") from None
    try:
        if isinstance(key, rsa.RSAPublicKey) and key.key_size >= RSA_BITS_MIN:
            key.verify(raw, manifest, *_RSA)
        elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
            if len(raw) != 2 * NUMBER_BYTES:
                raise BadSignature(_NOT_BY_IT)
            numbers = (int.from_bytes(raw[:NUMBER_BYTES]), int.from_bytes(raw[NUMBER_BYTES:]))
            key.verify(encode_dss_signature(*numbers), manifest, ec.ECDSA(SHA256()))
        else:
            raise BadSignature(
                f"the key is neither RSA of at least {RSA_BITS_MIN} bits nor ECDSA on P-256"
            )
    except InvalidSignature:
        raise BadSignature(_NOT_BY_IT) from None


def sign_manifest(manifest: bytes, private_key: bytes) -> bytes:
    """Return the bytes of `manifest.sig`.

    Raises:
        BadSignature: The key, in PEM and without a passphrase, cannot be used.
    """
    try:
        key = load_pem_private_key(private_key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BadSignature("the key is no private key in PEM without a passphrase") from None
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= RSA_BITS_MIN:
        return base64.b64encode(key.sign(manifest, *_RSA))
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        numbers = decode_dss_signature(key.sign(manifest, ec.ECDSA(SHA256())))
        return base64.b64encode(b"".join(each.to_bytes(NUMBER_BYTES) for each in numbers))
    raise BadSignature(f"the key is neither RSA of at least {RSA_BITS_MIN} bits nor ECDSA on P-256")
