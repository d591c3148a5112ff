"""Who changed what: one row for each change, in the transaction of the change.

Owns who acts at this moment, the form of a row, and how many are kept. It is the one way from the
API to a transaction that writes: a change without a row cannot be made by forgetting one, and
neither can a row without its change.

A request that is refused inside its transaction has changed nothing and leaves one row that says
so. What fails for another reason (a full disk, a fault, a power cut) leaves none.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

from hub.clock import Clock
from hub.errors import Refusal
from hub.store import audit
from hub.store.audit import Row
from hub.store.database import Connection, Database

logger = logging.getLogger(__name__)

T = TypeVar("T")

ASKED_CHARACTERS_MAX: Final = 2000
"""Longest JSON of what was asked for. With it a row has at most about 3 KB."""

BEGINNING_CHARACTERS: Final = 1000
"""So much is kept of what is longer."""

OBJECT_CHARACTERS_MAX: Final = 200
OUTCOME_CHARACTERS_MAX: Final = 500

PRUNED_AT_ONCE_MAX: Final = 10_000
"""Rows that one change removes at most; 6 ms."""

PRUNED_AT_ONCE_MIN: Final = 100
"""So many are let come together first: a row that says what went is a row too."""

DONE: Final = "done"
UNCHANGED: Final = "unchanged"
"""What was asked for was so already."""
REFUSED: Final = "refused: "

PRUNED: Final = "audit.prune"


class Actor(NamedTuple):
    """Who changes something."""

    token: str
    """Id; empty where no token was shown."""
    name: str
    source: str
    """Address the request came from; empty if it came from none."""
    is_admin: bool = False
    """Whether it may do what only an admin may."""


HUB: Final = Actor("", "the hub", "", is_admin=True)
"""The hub by itself."""

MACHINE: Final = Actor("", "whoever may write the state folder", "", is_admin=True)
"""A command on the hub's machine that asks no hub."""

_ACTING: ContextVar[Actor | None] = ContextVar("acting", default=None)


class NobodyActs(RuntimeError):
    """Something would be changed, and it is not known by whom: a fault of the hub."""


def acts(actor: Actor | None) -> None:
    """Say who acts for the rest of this task, None for nobody."""
    _ACTING.set(actor)


def who_acts() -> str:
    """Return the name of who acts, empty for nobody."""
    actor = _ACTING.get()
    return "" if actor is None else actor.name


def is_admin_acting() -> bool:
    """Tell whether who acts may do what only an admin may."""
    actor = _ACTING.get()
    return actor is not None and actor.is_admin


@contextmanager
def acting(actor: Actor) -> Iterator[None]:
    """Say who acts for the length of a block."""
    before = _ACTING.set(actor)
    try:
        yield
    finally:
        _ACTING.reset(before)


@dataclass(slots=True)
class Act:
    """What is done. Whoever does it may fill in `object` and `outcome` on the way."""

    action: str
    """`noun.verb`. Values are stored; never reuse one."""
    object: str
    """What it is done to."""
    asked: Mapping[str, Any]
    """As it was asked for, without secrets."""
    outcome: str = DONE


@dataclass(frozen=True, slots=True)
class Ledger:
    """Writes changes together with their rows."""

    database: Database
    clock: Clock
    rows_max_count: int
    """Most rows that are kept; the oldest go first."""

    async def write(self, act: Act, job: Callable[[Connection], T]) -> T:
        """Run `job` in a transaction that also holds the row of `act`; return its result.

        Raises:
            Refusal: Of `job`; nothing was changed, and a row says what was refused.
            NobodyActs: Nobody was said to act; nothing was changed.
        """
        actor = _ACTING.get()
        if actor is None:
            raise NobodyActs(f"{act.action} of {act.object} by nobody")

        def recorded(connection: Connection) -> T:
            act.outcome = DONE
            result = job(connection)
            self._record(connection, actor, act)
            return result

        try:
            return await self.database.write(recorded)
        except Refusal as refusal:
            act.outcome = REFUSED + str(refusal)
            await self.database.write(lambda connection: self._record(connection, actor, act))
            raise

    def _record(self, connection: Connection, actor: Actor, act: Act) -> None:
        now_ms = self.clock.now_ms()
        record(connection, actor, act, now_ms=now_ms, rows_max_count=self.rows_max_count)


def record(
    connection: Connection, actor: Actor, act: Act, *, now_ms: int, rows_max_count: int
) -> None:
    """Add a row in the transaction that is open, and prune if there are too many."""
    audit.add(connection, row_of(actor, act, now_ms))
    oldest, newest = audit.span(connection)
    over_count = newest - oldest + 1 - rows_max_count
    if over_count < min(PRUNED_AT_ONCE_MIN, rows_max_count):
        return
    last_n = oldest + min(over_count, PRUNED_AT_ONCE_MAX)
    told = Act(PRUNED, f"{oldest}-{last_n}", {"rows_max_count": rows_max_count})
    audit.add(connection, row_of(HUB, told, now_ms), pruned_until=last_n)
    audit.drop_until(connection, last_n)
    logger.info("pruned the audit: rows %d to %d are gone", oldest, last_n)


def row_of(actor: Actor, act: Act, now_ms: int) -> Row:
    """Return the row of an act, each part within its bound; its number comes with the table."""
    return Row(
        n=0,
        at_ms=now_ms,
        token=actor.token,
        name=actor.name,
        source=actor.source,
        action=act.action,
        object=_storable(act.object[:OBJECT_CHARACTERS_MAX]),
        asked=bounded_json(act.asked),
        outcome=_storable(act.outcome[:OUTCOME_CHARACTERS_MAX]),
    )


def _storable(text: str) -> str:
    """Return text without halves of characters, which JSON can name and UTF-8 cannot hold."""
    return text.encode(errors="backslashreplace").decode()


def bounded_json(asked: Mapping[str, Any]) -> str:
    """Return what was asked for as JSON; of what is too long its beginning, as JSON too."""
    text = json.dumps(asked, separators=(",", ":"))
    if len(text) <= ASKED_CHARACTERS_MAX:
        return text
    cut = {"length_characters": len(text), "begins": text[:BEGINNING_CHARACTERS]}
    return json.dumps(cut, separators=(",", ":"))
