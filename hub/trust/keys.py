"""The operator's folder of offline keys, and the metadata they have signed.

Owns `keys.json` (which key has which role, and how it is reached), the encrypted private keys
beside it, and the signed roots and list of releases. Never speaks to a hub.

Private keys are Ed25519 in PKCS #8, encrypted under a passphrase. A key elsewhere (a security
module, a key service) is known by its public half and a signer address of securesystemslib; that is
the seam for hardware.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey
from tuf.api.metadata import Root, Targets

from hub.trust.repository import R, file_name, read

LIST: Final = "keys.json"
PINNED: Final = "root.json"
"""The latest root: what devices pin."""

METADATA: Final = "metadata"

FILE_SCHEME: Final = "file:"
"""A signer address of ours: a PEM file in this folder."""

PASSPHRASE_CHARACTERS_MIN: Final = 12

Passphrase = Callable[[], str]
"""Asks for the passphrase; called only when a key file has to be opened."""


class KeysUnusable(Exception):
    """The folder of keys cannot do what was asked; the message is one line. Nothing was changed."""


class Known(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One offline key. The form is stored; fields are only added."""

    role: str
    signer: str
    """`file:NAME.pem`, or an address that securesystemslib can sign with."""
    keyid: str
    public: dict[str, object]

    def key(self) -> Key:
        """Return the public key."""
        return Key.from_dict(self.keyid, msgspec.to_builtins(self.public))


class Listed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `keys.json` holds."""

    format: int
    keys: list[Known]


@dataclass(frozen=True, slots=True)
class KeyFolder:
    """One folder of keys."""

    folder: Path

    # The keys.

    def is_there(self) -> bool:
        """Tell whether keys were made here."""
        return (self.folder / LIST).is_file()

    def known(self, role: str) -> list[Known]:
        """Return the keys of a role that the latest root names and that are known here.

        Raises:
            KeysUnusable: There is no list of keys here, or it is damaged.
        """
        listed = self.every()
        named = self.root().roles[role].keyids
        return [each for each in listed if each.role == role and each.keyid in named]

    def signers(self, role: str, passphrase: Passphrase) -> list[Signer]:
        """Return what signs for a role.

        Raises:
            KeysUnusable: A key file is missing, or the passphrase is wrong.
        """
        return self.signers_of(self.known(role), passphrase)

    def signers_of(self, known: Iterable[Known], passphrase: Passphrase) -> list[Signer]:
        """Return what signs with these keys; raises as `signers`."""
        return [self._signer(each, passphrase) for each in known]

    def has(self, known: Known) -> bool:
        """Tell whether a key can sign here: its file is here, or it is held by something else."""
        if not known.signer.startswith(FILE_SCHEME):
            return True
        return (self.folder / known.signer.removeprefix(FILE_SCHEME)).is_file()

    def make(self, role: str, passphrase: str) -> Known:
        """Make a key file and return what is to be listed of it; it is not listed yet.

        Raises:
            KeysUnusable: The passphrase is too short, or the file cannot be written.
        """
        if len(passphrase) < PASSPHRASE_CHARACTERS_MIN:
            raise KeysUnusable(
                f"the passphrase has {len(passphrase)} characters; take at least "
                f"{PASSPHRASE_CHARACTERS_MIN}, such as four or five words"
            )
        private = Ed25519PrivateKey.generate()
        key = SSlibKey.from_crypto(private.public_key())
        name = f"{role}-{key.keyid[:12]}.pem"
        sealed = private.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase.encode())
        )
        self._write(name, sealed)
        return Known(role, f"{FILE_SCHEME}{name}", key.keyid, dict(key.to_dict()))

    def adopt(self, role: str, signer: str, public_pem: Path) -> Known:
        """Return what is to be listed of a key that lives elsewhere; it is not listed yet.

        Raises:
            KeysUnusable: The public key cannot be read.
        """
        try:
            key = SSlibKey.from_crypto(load_pem_public_key(public_pem.read_bytes()))
        except (OSError, ValueError) as error:
            raise KeysUnusable(f"{public_pem} is no public key in PEM: {error}") from None
        return Known(role, signer, key.keyid, dict(key.to_dict()))

    def add(self, keys: Sequence[Known]) -> None:
        """Put keys on the list. None is ever taken off: the root says which ones count.

        Raises:
            KeysUnusable: The list cannot be written; the one before stays.
        """
        before = self.every() if self.is_there() else []
        text = msgspec.json.format(msgspec.json.encode(Listed(1, [*before, *keys])), indent=1)
        self._write(LIST, text)

    def every(self) -> list[Known]:
        """Return the keys of all roles."""
        return self._listed().keys

    @property
    def pinned(self) -> Path:
        """Where the latest root lies: what devices pin."""
        return self.folder / PINNED

    # What they signed.

    def roots(self) -> list[bytes]:
        """Return every root signed here, from the first on."""
        found: list[bytes] = []
        while (path := self._metadata(Root.type, len(found) + 1)).is_file():
            found.append(self._read(path))
        return found

    def root(self) -> Root:
        """Return the latest root.

        Raises:
            KeysUnusable: None was signed here.
        """
        roots = self.roots()
        if not roots:
            raise self._nothing_here()
        return _known(Root, roots[-1], self.folder)

    def targets(self) -> tuple[Targets, bytes]:
        """Return the latest list of releases that was signed here, read and as bytes.

        Raises:
            KeysUnusable: None was signed here.
        """
        path = self.folder / METADATA / "targets.json"
        if not path.is_file():
            raise self._nothing_here()
        content = self._read(path)
        return _known(Targets, content, self.folder), content

    def keep_root(self, version: int, content: bytes) -> None:
        """Keep a signed root, as the one that devices pin from now on."""
        self._write(f"{METADATA}/{file_name(Root.type, version)}", content)
        self._write(PINNED, content)

    def keep_targets(self, content: bytes) -> None:
        """Keep a signed list of releases."""
        self._write(f"{METADATA}/targets.json", content)

    def keep_draft(self, name: str, content: bytes) -> Path:
        """Keep what waits to be signed by others; return its file."""
        self._write(name, content)
        return self.folder / name

    def drop_draft(self, name: str) -> None:
        """Remove what waits no more."""
        (self.folder / name).unlink(missing_ok=True)

    # Within.

    def _metadata(self, role: str, version: int) -> Path:
        return self.folder / METADATA / file_name(role, version)

    def _listed(self) -> Listed:
        path = self.folder / LIST
        if not path.is_file():
            raise self._nothing_here()
        try:
            return msgspec.json.decode(self._read(path), type=Listed)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise KeysUnusable(f"{path} is damaged: {error}") from None

    def _nothing_here(self) -> KeysUnusable:
        return KeysUnusable(
            f"there are no keys in {self.folder}: make them with `fieldfare keys init`, "
            "or name another folder with --keys or FIELDFARE_KEYS"
        )

    def _signer(self, known: Known, passphrase: Passphrase) -> Signer:
        if not known.signer.startswith(FILE_SCHEME):
            try:
                return Signer.from_priv_key_uri(
                    known.signer, known.key(), lambda _name: passphrase()
                )
            except Exception as error:  # noqa: BLE001 - each kind of signer fails in its own way
                raise KeysUnusable(f"{known.signer} cannot sign: {error}") from None
        path = self.folder / known.signer.removeprefix(FILE_SCHEME)
        sealed = self._read(path)
        try:
            private = load_pem_private_key(sealed, passphrase().encode())
        except (ValueError, TypeError):
            raise KeysUnusable(f"the passphrase does not open {path}") from None
        if not isinstance(private, Ed25519PrivateKey):
            raise KeysUnusable(f"{path} is no Ed25519 key")
        return CryptoSigner(private)

    def _read(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise KeysUnusable(f"{path} cannot be read: {error.strerror}") from None

    def _write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(path, content)
        except OSError as error:
            raise KeysUnusable(f"{path} cannot be written: {error.strerror}") from None


def write_private(path: Path, content: bytes) -> None:
    """Put `content` at `path`, readable by its owner only, whole or not at all.

    Raises:
        OSError: It cannot be written; what was there stays.
    """
    part = path.with_name(f".{path.name}.part")
    with contextlib.suppress(FileNotFoundError):
        part.unlink()
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def short(keyid: str) -> str:
    """Return as much of a key's id as a person compares."""
    return keyid[:12]


def digest_of(content: bytes) -> str:
    """Return the SHA-256 of a root, by which two people make sure that they mean the same one."""
    return hashlib.sha256(content).hexdigest()


def _known(kind: type[R], content: bytes, folder: Path) -> R:
    try:
        return read(kind, content)
    except Exception as error:  # noqa: BLE001 - whatever python-tuf finds wrong with our own file
        raise KeysUnusable(f"the metadata in {folder} is damaged: {error}") from None
