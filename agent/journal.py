"""The install journal: what one install intends, as it is stored before each act."""

import msgspec

from agent.desired import Wish
from agent.ending import reached, stored_ending
from agent.install import STORED, UNTOUCHED, State, stored_state
from agent.lives import Tally


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
    boot: bytes = b""
    """Start of the device in which this was written; empty in what earlier programs stored."""
    boots: int = 0
    """How many starts there have been since the switch was thrown."""
    ending: str = ""
    """`agent.ending.Ending`."""
    writes: int = 0
    """How often this was written since the switch was thrown."""

    has_rebooted: bool = False
    """Whether this start of the device is another one than that in which a reboot was ordered."""
    deaths: int = 0
    here_bytes: int = 0
    """`tally`, while it is fetched."""
    back_tries: int = 0
    """How often the installer has asked for time on the way back."""

    @property
    def tally(self) -> Tally:
        """What is kept of the lives that fetched it."""
        return Tally(self.deaths, self.here_bytes)

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


def moved(journal: Journal, state: State, boot: bytes) -> Journal:
    """Return the journal of the same install, now in `state` and in the start `boot`."""
    is_touched = state not in UNTOUCHED
    return msgspec.structs.replace(
        journal,
        state=STORED[state],
        boot=boot,
        boots=journal.boots + is_another_boot(journal, boot) if is_touched else 0,
        ending=reached(stored_ending(journal.ending), state).value,
        writes=journal.writes + 1 if is_touched else 0,
        has_rebooted=journal.at is state
        and (journal.has_rebooted or is_another_boot(journal, boot)),
    )


def tallied(journal: Journal, tally: Tally) -> Journal:
    """Return the journal of the same install with another tally."""
    return msgspec.structs.replace(journal, deaths=tally.deaths, here_bytes=tally.here_bytes)


def is_another_boot(journal: Journal, boot: bytes) -> bool:
    """Tell whether the device has started anew since the journal was written."""
    return bool(journal.boot) and boot != journal.boot


def is_ordered_boot(journal: Journal, boot: bytes) -> bool:
    """Tell whether the device has started anew because it was told to, for the first time since.

    Such a start is a part of the try that ordered it.
    """
    awaits = journal.at in (State.REBOOTING, State.RETURNING)
    return awaits and not journal.has_rebooted and is_another_boot(journal, boot)


def encode(journal: Journal) -> bytes:
    """Return the stored form."""
    return msgspec.msgpack.encode(journal)


def decode(stored: bytes) -> Journal | None:
    """Return the journal, None if it cannot be read."""
    try:
        return msgspec.msgpack.decode(stored, type=Journal)
    except (msgspec.MsgspecError, ValueError):
        return None
