"""May this release be installed: the question and the answer, as two processes exchange them.

Owns their form only. JSON, so that a person can ask by hand.
"""

from typing import Final

import msgspec

QUESTION_BYTES_MAX: Final = 64 * 1024

GRANTED: Final = "granted"
REFUSED: Final = "refused"
UNREACHABLE: Final = "unreachable"


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked."""

    state_dir: str
    root: str
    """Where the pinned root lies."""
    hub_url: str
    identity: str
    """Folder of the device's identity, to show it to the hub; empty to show none."""
    stall_s: float
    floor_s: int
    """A time that certainly has passed."""
    floor_keys: int
    """Whose word that is: `Chain.online_id`, 0 for nobody's."""
    budget_s: int
    component: str
    version: str
    digest: bytes
    length_bytes: int


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    verdict: str
    reason: str = ""
    detail: str = ""
    signed_s: int = 0
    """Latest time at which something believed was signed."""
    online_id: int = 0
    """Whose word the time is: another one voids what was said before."""
    overdue_s: int = 0
    """How long ago what is believed ran out; 0 while it is valid."""
    root_version: int = 0
    targets_version: int = 0
