"""Tokens of operators: made, listed, revoked, and looked up when one is shown.

Owns the order of these operations and the first token of a hub. What counts is judged in
`hub.operators`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hub.audit import HUB, UNCHANGED, Act, Actor, Ledger, record
from hub.clock import Clock
from hub.errors import BadSettings, Clash, NotFound, Refusal
from hub.operators import (
    DAY_S,
    ID_LENGTH,
    LIFE_MAX_S,
    LIFE_S,
    Scope,
    Shown,
    Token,
    Verdict,
    digest_of,
    is_name,
    judge,
    new_token,
)
from hub.secret_file import write_secret
from hub.store import operators as store
from hub.store.database import Connection, Database, load_number, save_number

TOKENS_MAX: Final = 1000
"""Most tokens that are kept."""

ENDED_KEPT_S: Final = 90 * DAY_S
"""How long a token is listed after it ended."""

BOOTSTRAPPED: Final = "bootstrapped"
"""Name of the number that is 1 once this hub has made its first token."""

BOOTSTRAP_NAME: Final = "bootstrap"


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one hub."""

    database: Database
    clock: Clock
    ledger: Ledger

    async def look_up(self, shown: Shown) -> tuple[Verdict, Token | None]:
        """Return whether a token counts, and what is kept of it."""
        now_ms = self.clock.now_ms()
        kept = await self.database.read(lambda db: store.load(db, shown.id))
        return judge(kept, shown, now_ms), kept

    async def every(self) -> list[Token]:
        """Return all tokens, newest first."""
        return await self.database.read(store.every)

    async def create(self, name: str, scope: str, life_s: float) -> tuple[Token, Shown]:
        """Make a token; what is shown of it is in this answer and nowhere else.

        Raises:
            Refusal: Name, scope or life cannot be.
            Clash: There are too many.
        """
        if not is_name(name):
            raise Refusal(
                f"{name[:80]!r} cannot name a token: use 1 to 63 of letters, digits and ._@+-, "
                "starting with a letter or digit"
            )
        try:
            chosen = Scope(scope)
        except ValueError:
            known = ", ".join(Scope)
            raise Refusal(f"there is no scope {scope[:40]!r}; there are: {known}") from None
        if not 1 <= life_s <= LIFE_MAX_S:
            raise Refusal(
                f"expires_s must be from 1 to {LIFE_MAX_S:.0f}: every token ends, make a new one "
                "before it does"
            )
        act = act_of_making(name, chosen, life_s)

        def job(db: Connection) -> tuple[Token, Shown]:
            made, shown = make(db, name, chosen, life_s, self.clock.now_ms())
            act.object = made.id
            return made, shown

        return await self.ledger.write(act, job)

    async def revoke(self, identity: str) -> Token:
        """Let a token not count any more, from the next request on; doing so twice is fine.

        Raises:
            NotFound: There is none with this id.
        """
        act = Act("token.revoke", identity[: 2 * ID_LENGTH], {})

        def job(db: Connection) -> Token:
            before = store.load(db, identity)
            if before is None:
                raise NotFound(
                    f"there is no token {identity[: 2 * ID_LENGTH]!r}: name it by its id, which "
                    "GET /api/v1/tokens lists"
                )
            if before.revoked_ms is not None:
                act.outcome = UNCHANGED
                return before
            store.revoke(db, identity, self.clock.now_ms())
            return store.load(db, identity) or before

        return await self.ledger.write(act, job)


def act_of_making(name: str, scope: Scope, life_s: float) -> Act:
    """Return the act of making a token, whose object is the token's id once it is made."""
    asked = {"name": name, "scope": scope.value, "expires_s": life_s}
    return Act("token.create", name, asked)


def make(
    connection: Connection, name: str, scope: Scope, life_s: float, now_ms: int
) -> tuple[Token, Shown]:
    """Add a token and return it with its secret, which is not kept.

    Raises:
        Clash: There are too many.
    """
    store.drop_ended(connection, now_ms - ENDED_KEPT_S * 1000)
    if store.count(connection) >= TOKENS_MAX:
        raise Clash(
            f"there are {TOKENS_MAX} tokens, which is the most that are kept: those that ended are "
            f"forgotten after {ENDED_KEPT_S // DAY_S} days"
        )
    shown = new_token()
    made = Token(
        id=shown.id,
        name=name,
        scope=scope,
        digest=digest_of(shown.secret),
        created_ms=now_ms,
        expires_ms=now_ms + round(life_s * 1000),
    )
    store.save(connection, made)
    return made, shown


def first_token(
    connection: Connection, file: Path | None, *, now_ms: int, rows_max_count: int
) -> Shown | None:
    """Return the first token of this hub, an admin's; None if there was one before.

    Args:
        connection: In a transaction.
        file: Where the token goes instead of being shown; it is there before the token counts, so
            that nothing is lost if the hub dies in between.
        now_ms: Hub UTC.
        rows_max_count: Most rows that the audit keeps.

    Raises:
        BadSettings: The file cannot be written; no token was made.
    """
    if load_number(connection, BOOTSTRAPPED):
        return None
    shown = another_first_token(connection, HUB, now_ms=now_ms, rows_max_count=rows_max_count)
    if file is not None:
        try:
            write_secret(file, shown.text())
        except OSError as error:
            raise BadSettings(
                f"the first token cannot be written to {file} ({error.strerror}): set "
                "bootstrap_token_file to a place where the hub may write"
            ) from None
    return shown


def another_first_token(
    connection: Connection, actor: Actor, *, now_ms: int, rows_max_count: int
) -> Shown:
    """Return a new token of an admin, for somebody who may write the database itself."""
    made, shown = make(connection, BOOTSTRAP_NAME, Scope.ADMIN, LIFE_S, now_ms)
    act = act_of_making(BOOTSTRAP_NAME, Scope.ADMIN, LIFE_S)
    act.object = made.id
    record(connection, actor, act, now_ms=now_ms, rows_max_count=rows_max_count)
    save_number(connection, BOOTSTRAPPED, 1)
    return shown
