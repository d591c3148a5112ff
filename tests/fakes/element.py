"""A stand-in for a secure element: keys in a store of its own, and a signer that is no library's.

The store is the folder that the variable ELEMENT names. What enrolment is given can sign and show
its public half, and gives the private one to nobody. OpenSSL has no provider for it, so the file
for TLS is a link into the store, where a real element would leave a reference.
"""

import os
from pathlib import Path
from typing import Any, NoReturn

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)


class Slot(ec.EllipticCurvePrivateKey):
    """Signs with a key of the store."""

    def __init__(self, file: Path) -> None:
        key = load_pem_private_key(file.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self.__key = key
        self._log = file.with_suffix(".log")

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Sign, and note that the element was asked."""
        with self._log.open("a") as log:
            log.write("signed\n")
        return self.__key.sign(data, signature_algorithm)

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """Return the public half."""
        return self.__key.public_key()

    @property
    def curve(self) -> ec.EllipticCurve:
        """The curve."""
        return self.__key.curve

    @property
    def key_size(self) -> int:
        """Bits."""
        return self.__key.key_size

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> NoReturn:
        """Not what this element is for."""
        raise NotImplementedError

    def private_numbers(self) -> NoReturn:
        """Never leave it."""
        raise NotImplementedError

    def private_bytes(self, encoding: Any, format: Any, encryption_algorithm: Any) -> NoReturn:  # noqa: A002 - the name of the library
        """Never leave it."""
        raise NotImplementedError

    def __copy__(self) -> "Slot":
        """Return itself: there is one."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Slot":
        """Return itself: there is one."""
        return self


class Element:
    """A key of the element for the file name that it is asked for."""

    def __init__(self, file: Path) -> None:
        self._file = file
        if not file.is_symlink():
            store = Path(os.environ["ELEMENT"])
            store.mkdir(exist_ok=True)
            kept = store / f"slot-{len(list(store.glob('*.pem')))}.pem"
            made = ec.generate_private_key(ec.SECP256R1())
            kept.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            kept.chmod(0o600)
            file.symlink_to(kept)

    def signer(self) -> ec.EllipticCurvePrivateKey:
        """Return what signs."""
        return Slot(self._file.resolve())

    def file(self) -> Path:
        """Return what OpenSSL loads."""
        return self._file
