"""What an act that failed makes of an install: which event it is, and what is said of it.

Owns the reading of failures. Pure: no files, no clock.
"""

import msgspec

from agent.acts import NotCommitted
from agent.ending import Mishap, stored_ending, worsened
from agent.fetch import FetchFailed
from agent.install import Event, State
from agent.journal import Journal
from firmware_hooks.contract import InstallerError
from sync.stages import Reason

DETAIL_CHARACTERS_MAX = 200


def failed(journal: Journal, error: InstallerError | FetchFailed) -> tuple[Event, Journal]:
    """Return what follows when the act of the journal's state failed, and the journal with it."""
    if journal.at is State.COMMITTING:
        goes_back = isinstance(error, NotCommitted) or error.reason == Reason.FELL_BACK
        if not goes_back:
            # It stays, and is no success: what was left of the one before may be there as well.
            detail = f"runs, and could not be committed: {error.detail}"
            return Event.COMMIT_DONE, _said(_mixed(journal), str(error.reason), detail)
    if journal.at in (State.ROLLING_BACK, State.RETURNING):
        detail = f"{error.detail}; it was rolled back because of {journal.reason}"
        if error.reason == Reason.INCONSISTENT:
            return Event.FAILED, _said(_mixed(journal), str(Reason.INCONSISTENT), detail)
        return Event.FAILED, _said(journal, str(Reason.ROLLBACK_FAILED), detail)
    return Event.FAILED, msgspec.structs.replace(
        journal, reason=str(error.reason), detail=error.detail
    )


def _mixed(journal: Journal) -> Journal:
    ending = worsened(stored_ending(journal.ending), Mishap.MIXED)
    return msgspec.structs.replace(journal, ending=ending.value)


def _said(journal: Journal, reason: str, detail: str) -> Journal:
    return msgspec.structs.replace(journal, reason=reason, detail=detail[:DETAIL_CHARACTERS_MAX])
