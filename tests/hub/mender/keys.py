"""Keys that sign Mender artifacts in tests."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)


@dataclass(frozen=True)
class KeyPair:
    private: bytes
    public: bytes


_MAKERS: Final[dict[str, Callable[[], rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey]]] = {
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "ecdsa": lambda: ec.generate_private_key(ec.SECP256R1()),
    "rsa-1024": lambda: rsa.generate_private_key(65537, 1024),  # noqa: S505 - to be refused
    "ecdsa-384": lambda: ec.generate_private_key(ec.SECP384R1()),
}


def key_pair(kind: str, number: int = 0) -> KeyPair:
    """Return a key of a kind: `rsa`, `ecdsa`, or one that is refused."""
    return _made(kind, number)


@cache
def _made(kind: str, number: int) -> KeyPair:
    key = _MAKERS[kind]()
    # Debian's mender-artifact takes RSA keys in the traditional form alone.
    return KeyPair(
        key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    )
