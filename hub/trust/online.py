"""The hub's own keys: made here, kept here, named by the operator's root.

Owns the folder `trust` in the state directory. Only public halves leave it.
"""

from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey
from tuf.api.metadata import Root

from hub.errors import Clash
from hub.trust.keys import short, write_private
from hub.trust.repository import ONLINE, is_key_of

FOLDER: Final = "trust"

OFFERED: Final = "online.json"
"""Which keys the next root should name. A file as an operator without network carries it."""

LACKS: Final = (
    "the hub does not have the online {role} key that its root names: "
    "name the ones it has with `fieldfare keys rotate online`"
)


class OnlineKeys:
    """The keys in one state directory."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / FOLDER

    def first(self) -> dict[str, dict[str, object]]:
        """Return the public keys in the file of the offer; made if there is none yet.

        Raises:
            OSError: The folder cannot be written.
        """
        path = self._folder / OFFERED
        if path.is_file():
            found: dict[str, dict[str, object]] = msgspec.json.decode(path.read_bytes())
            return found
        public = self.make()
        self.offer(public)
        return public

    def make(self) -> dict[str, dict[str, object]]:
        """Make new keys and return their public halves. They sign once a root names them.

        Raises:
            OSError: The folder cannot be written.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        public: dict[str, dict[str, object]] = {}
        for role in ONLINE:
            private = Ed25519PrivateKey.generate()
            key = SSlibKey.from_crypto(private.public_key())
            plain = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            write_private(self._path(key.keyid), plain)
            public[role] = {"keyid": key.keyid, **key.to_dict()}
        return public

    def offer(self, public: dict[str, dict[str, object]]) -> None:
        """Write down which keys the next root should name, for whoever carries them away.

        Raises:
            OSError: The folder cannot be written; what was offered still is.
        """
        write_private(self._folder / OFFERED, msgspec.json.encode(public))

    def signer(self, root: Root, role: str) -> Signer:
        """Return what signs for an online role under this root.

        Raises:
            Clash: The hub has none of the keys that it names.
        """
        for keyid in root.roles[role].keyids:
            path = self._path(keyid)
            if keyid.isalnum() and path.is_file():
                private = load_pem_private_key(path.read_bytes(), None)
                if isinstance(private, Ed25519PrivateKey):
                    return CryptoSigner(private)
        raise Clash(LACKS.format(role=role))

    def forget_all_but(self, root: Root, offered: dict[str, dict[str, object]]) -> None:
        """Remove keys that neither this root names nor the next one may.

        Devices that have not seen a newer root still believe them, so they must not lie about.

        Raises:
            OSError: The folder cannot be written.
        """
        named = {keyid for role in ONLINE for keyid in root.roles[role].keyids}
        named |= {str(key["keyid"]) for key in offered.values()}
        for path in self._folder.glob("*.pem"):
            if path.stem not in named:
                path.unlink()

    def _path(self, keyid: str) -> Path:
        return self._folder / f"{keyid}.pem"


def key_from(public: dict[str, object]) -> Key:
    """Return an online key as the hub offers it.

    Raises:
        ValueError: It is none.
    """
    fields = dict(public)
    keyid = fields.pop("keyid", None)
    if not isinstance(keyid, str):
        raise ValueError("what the hub offers is no key")  # noqa: TRY004 - the content is wrong
    try:
        key = Key.from_dict(keyid, fields)
    except (KeyError, TypeError) as error:
        raise ValueError(f"what the hub offers is no key: {error}") from None
    if not is_key_of(keyid, key):
        raise ValueError(
            f"the id {short(keyid)!r} stands for another key than the hub offers under it; such a "
            "hub is in other hands: set it up anew before a root names its keys"
        )
    return key
