"""The install journal: what one install intends, as it is stored before each act."""

import msgspec

from agent.desired import Wish
from agent.install import STORED, State, stored_state


class Journal(msgspec.Struct, frozen=True, array_like=True):
    """One install of one release on this device. Fields are only ever appended."""

    deployment: str
    component: str
    version: str
    digest: bytes
    manifest: bytes
    """Canonical bytes once fetched; empty before."""
    state: str
    attempts: int = 0
    """How often it was begun or taken up again."""
    reason: str = ""
    detail: str = ""
    manifest_bytes: int = 0
    """Length of the manifest, as the deployment says; 0 if it is not known."""
    before: bytes = b""
    """Digest of what ran when the switch was about to be thrown; empty if nothing did."""
    again: int = 0
    """How often the deployment was installed again after it had been acknowledged."""

    @property
    def at(self) -> State:
        """Where it stands."""
        return stored_state(self.state)


def begun(wish: Wish, *, again: int = 0) -> Journal:
    """Return the journal of an install of which nothing was done yet."""
    record = wish.record
    return Journal(
        wish.deployment,
        record.component,
        record.version,
        record.manifest,
        b"",
        STORED[State.FETCHING],
        manifest_bytes=record.manifest_bytes,
        again=again,
    )


def moved(journal: Journal, state: State) -> Journal:
    """Return the journal of the same install, now in `state`."""
    return msgspec.structs.replace(journal, state=STORED[state])


def encode(journal: Journal) -> bytes:
    """Return the stored form."""
    return msgspec.msgpack.encode(journal)


def decode(stored: bytes) -> Journal | None:
    """Return the journal, None if it cannot be read."""
    try:
        return msgspec.msgpack.decode(stored, type=Journal)
    except (msgspec.MsgspecError, ValueError):
        return None
