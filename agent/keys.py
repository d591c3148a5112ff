"""The key of a device: made here, never sent anywhere.

Owns the seam between enrolment and where a key lives. A key in a file is the one that comes with
this program; a TPM or secure element is another class with the same two methods.

Imports the cryptography, which takes 9 MB of memory; only programs that end soon import this.
"""

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.identity import write_file

PRIVATE_MODE = 0o600


class KeyUnusable(Exception):
    """The key cannot be read or made; the message says where. Nothing was changed."""


class DeviceKey(Protocol):
    """What enrolment needs of a key. `FileKey` is one; a secure element can be another."""

    def signer(self) -> ec.EllipticCurvePrivateKey:
        """Return an object that signs for a request; it may pass the work on to an element."""
        ...

    def file(self) -> Path:
        """Return the file that OpenSSL loads for TLS: a key, or a reference to one in an element.

        It is the file by whose name the key was asked for.

        OpenSSL 3 finds out by the file's content which of its providers it is for, so a
        `TSS2 PRIVATE KEY` of a TPM works where `tpm2-openssl` is installed.
        """
        ...


KeyMaker = Callable[[Path], DeviceKey]
"""Finds the key that belongs to a file name, or makes it; called again it finds the same.

The folder of the file may be renamed in between. What has to lie at that name for TLS is what
`DeviceKey.file` describes.
"""


def key_maker(named: str) -> KeyMaker:
    """Return what a setting like `module:Class` names; a key in a file for an empty one.

    Raises:
        KeyUnusable: There is nothing of that name.
    """
    if not named:
        return FileKey
    module, _, name = named.partition(":")
    try:
        found: KeyMaker = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise KeyUnusable(f"device_key {named!r} cannot be used: {error}") from None
    return found


class FileKey:
    """A P-256 key in a file that its owner alone can read.

    Args:
        file: Where it is, or is to be made.

    Raises:
        KeyUnusable: It can neither be read nor made.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            if not file.exists():
                made = ec.generate_private_key(ec.SECP256R1())
                pem = made.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
                write_file(file, pem, mode=PRIVATE_MODE)
            found = serialization.load_pem_private_key(file.read_bytes(), password=None)
        except OSError as error:
            raise KeyUnusable(f"the key {file} cannot be used: {error.strerror}") from None
        except (ValueError, TypeError) as error:
            raise KeyUnusable(f"{file} holds no key ({error}): move it away, and enrol") from None
        if not isinstance(found, ec.EllipticCurvePrivateKey) or found.curve.name != "secp256r1":
            raise KeyUnusable(f"{file} holds a key of another kind: move it away, and enrol")
        if file.stat().st_mode & 0o077:
            raise KeyUnusable(f"others may read {os.fspath(file)}: chmod 600 it, or enrol anew")
        self._key = found

    def signer(self) -> ec.EllipticCurvePrivateKey:
        """Return the key itself."""
        return self._key

    def file(self) -> Path:
        """Return where it lies."""
        return self._file
