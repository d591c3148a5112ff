"""The table of operators' tokens.

Owns its SQL. Never sees a secret, and never decides who may do what (`hub.operators`).
"""

from typing import Any, Final

from hub.operators import Scope, Token
from hub.store.database import Connection

_COLUMNS: Final = "id, name, scope, digest, created_ms, expires_ms, revoked_ms"


def save(connection: Connection, token: Token) -> None:
    """Add a token."""
    connection.execute(
        f"INSERT INTO token ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - own names
        (
            token.id,
            token.name,
            token.scope.value,
            token.digest,
            token.created_ms,
            token.expires_ms,
            token.revoked_ms,
        ),
    )


def load(connection: Connection, identity: str) -> Token | None:
    """Return the token with this id."""
    query = f"SELECT {_COLUMNS} FROM token WHERE id = ?"  # noqa: S608 - own names
    return next((_token(row) for row in connection.execute(query, (identity,))), None)


def every(connection: Connection) -> list[Token]:
    """Return all tokens, newest first."""
    query = f"SELECT {_COLUMNS} FROM token ORDER BY created_ms DESC, id"  # noqa: S608 - own names
    return [_token(row) for row in connection.execute(query)]


def count(connection: Connection) -> int:
    """Return how many tokens are kept, those included that do not count any more."""
    return int(next(connection.execute("SELECT count(*) FROM token"))[0])


def revoke(connection: Connection, identity: str, now_ms: int) -> None:
    """Let a token not count any more; the first time stays."""
    connection.execute(
        "UPDATE token SET revoked_ms = ? WHERE id = ? AND revoked_ms IS NULL", (now_ms, identity)
    )


def drop_ended(connection: Connection, before_ms: int) -> None:
    """Forget tokens that do not count since before `before_ms`; the audit still names them."""
    connection.execute(
        "DELETE FROM token WHERE min(expires_ms, ifnull(revoked_ms, expires_ms)) < ?", (before_ms,)
    )


def _token(row: Any) -> Token:
    identity, name, scope, digest, created_ms, expires_ms, revoked_ms = row
    return Token(
        id=identity,
        name=name,
        scope=Scope(scope),
        digest=digest,
        created_ms=created_ms,
        expires_ms=expires_ms,
        revoked_ms=revoked_ms,
    )
