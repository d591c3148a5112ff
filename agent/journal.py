"""The install journal: what one install intends, as it is stored before each act."""

import msgspec

from agent.install import State


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

    @property
    def at(self) -> State:
        """Where it stands; a state that this program does not know means: go back."""
        try:
            return State(self.state)
        except ValueError:
            return State.ROLLING_BACK


def encode(journal: Journal) -> bytes:
    """Return the stored form."""
    return msgspec.msgpack.encode(journal)


def decode(stored: bytes) -> Journal | None:
    """Return the journal, None if it cannot be read."""
    try:
        return msgspec.msgpack.decode(stored, type=Journal)
    except (msgspec.MsgspecError, ValueError):
        return None
