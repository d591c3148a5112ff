"""Where the authority lies on the hub's disk, and how files of secrets are written.

Owns the folder `identity` in the state directory. Never decides what is signed.

Rules: a private key is never in a file that anybody but its owner can read, not even for a moment;
a file is replaced whole or not at all, also when the power fails.
"""

import contextlib
import os
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from hub.errors import DamagedIdentity, StateDirUnusable
from hub.identity.ca import (
    HUB_NAME,
    SERVER_LIFE,
    Authority,
    certificate_pem,
    key_pem,
    new_authority,
    read_authority,
)

FOLDER: Final = "identity"
CA_KEY: Final = "ca.key"
CA_CERTIFICATE: Final = "ca.pem"
CRL: Final = "crl.pem"

PRIVATE: Final = 0o600
PUBLIC: Final = 0o644


def open_authority(state_dir: Path, *, now: datetime) -> Authority:
    """Return the hub's authority, made if there is none.

    Raises:
        StateDirUnusable: The folder cannot be written.
        DamagedIdentity: The files are not what a hub wrote; they are as they were.
    """
    folder = state_dir / FOLDER
    key_file, certificate_file = folder / CA_KEY, folder / CA_CERTIFICATE
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not certificate_file.exists():
            # The certificate is written last, so a key without one was never used.
            made = new_authority("fieldfare", now=now)
            write_file(key_file, key_pem(made.key), mode=PRIVATE)
            write_file(certificate_file, made.pem(), mode=PUBLIC)
        return read_authority(key_file.read_bytes(), certificate_file.read_bytes())
    except OSError as error:
        raise StateDirUnusable(
            f"the folder {folder} cannot be used ({error.strerror}): give this user the right to "
            "read and write there"
        ) from None
    except ValueError as error:
        raise DamagedIdentity(
            f"the authority in {folder} cannot be read ({error}): put {CA_KEY} and "
            f"{CA_CERTIFICATE} back from a backup; devices trust this one and no other"
        ) from None


def write_server(
    authority: Authority, folder: Path, name: str, names: tuple[str, ...], *, now: datetime
) -> tuple[Path, Path]:
    """Write a new key and certificate for a server; return certificate and key.

    Raises:
        OSError: The folder cannot be written.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = authority.sign_server(names, key.public_key(), now=now)
    return _write_pair(folder, name, key, certificate_pem(certificate))


def write_client(
    authority: Authority, folder: Path, name: str, *, now: datetime
) -> tuple[Path, Path]:
    """Write a new key and certificate by which the hub itself proves who it is to a broker."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = authority.sign_device(HUB_NAME, key.public_key(), now=now, life=SERVER_LIFE)
    return _write_pair(folder, name, key, certificate_pem(certificate))


def _write_pair(
    folder: Path, name: str, key: ec.EllipticCurvePrivateKey, pem: bytes
) -> tuple[Path, Path]:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    certificate_file, key_file = folder / f"{name}.pem", folder / f"{name}.key"
    write_file(key_file, key_pem(key), mode=PRIVATE)
    write_file(certificate_file, pem, mode=PUBLIC)
    return certificate_file, key_file


def write_file(file: Path, content: bytes, *, mode: int) -> None:
    """Put `content` in place of `file`, durably.

    Raises:
        OSError: It could not be written; the file is as it was.
    """
    new = file.with_name(f"{file.name}.new")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as output:
            os.fchmod(output.fileno(), mode)
            output.write(content)
            output.flush()
            os.fsync(output.fileno())
        new.replace(file)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
