"""Who is let through to an address: whoever shows a token that counts and allows it.

Owns how a token is shown (RFC 6750, the header alone), and how often a source may show wrong ones.
Knows nothing of what an address does; what it asks for stands in `hub.api.needs`.

A source that has shown too many wrong tokens is not answered whether the next one is right, until
some time has passed. A token that was right before goes on counting from there all the same, so
nobody can lock out those who work behind the same address. No log line holds a secret, and their
number is bounded as the attempts are.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from hub.api.needs import NEEDS, Need
from hub.api.peer import peer_of
from hub.audit import Actor, acts
from hub.errors import Forbidden, TooMany, Unauthenticated
from hub.flood import Flood, network_of
from hub.operators import BadToken, Scope, Token, Verdict, digest_of, parse_token
from hub.tokens import Tokens

logger = logging.getLogger(__name__)

WRONG_PER_S: Final = 0.2
WRONG_BURST_COUNT: Final = 20
"""Wrong tokens from one source: a script with an old token is told so, and no log fills."""

ALL_WRONG_PER_S: Final = 5.0
ALL_WRONG_BURST_COUNT: Final = 200
"""From all sources together; it also bounds how many sources are remembered."""

EVERYBODY: Final = ""

PROVEN_MAX: Final = 1000


HOW: Final = "send `Authorization: Bearer <token>`; the commands find it in --token-file, "
HOW_FOUND: Final = "FIELDFARE_TOKEN or ~/.config/fieldfare/token"

WHY: Final[Mapping[Verdict, str]] = {
    Verdict.UNKNOWN: "this hub knows no such token",
    Verdict.REVOKED: "this token was revoked",
    Verdict.EXPIRED: "this token has expired",
}

IN_CLEAR: Final = (
    "tokens are not taken in clear from other machines: ask by https, or let the proxy before the "
    "hub say so in X-Forwarded-Proto; revoke the token if this request showed one"
)

CLOSED: Final = "this address is closed: nothing says who may use it"


class Door:
    """The guard of every address.

    Args:
        tokens: Those that count.
        root: Path below which the addresses of the table are.
        proxy_address: Of the proxy that does TLS before the hub, if there is one.
        needs: The table.
    """

    def __init__(
        self,
        tokens: Tokens,
        root: str,
        *,
        proxy_address: str | None = None,
        needs: Mapping[str, Need] = NEEDS,
    ) -> None:
        self._tokens = tokens
        self._root = root
        self._proxy_address = proxy_address
        self._needs = needs
        self._wrong = Flood(rate_per_s=WRONG_PER_S, burst_count=WRONG_BURST_COUNT)
        self._all_wrong = Flood(rate_per_s=ALL_WRONG_PER_S, burst_count=ALL_WRONG_BURST_COUNT)
        self._proven: dict[bytes, None] = {}

    async def check(
        self, connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler
    ) -> None:
        """Let a request pass, and say who acts in it.

        Raises:
            Unauthenticated: It shows no token that counts.
            Forbidden: The token does not allow this, or nothing says who may.
            TooMany: Too many wrong tokens came from there.
        """
        acts(None)
        scope = connection.scope
        path = scope["path_template"].removeprefix(self._root)
        need = self._needs.get(f"{scope['method']} {path}")  # type: ignore[typeddict-item]
        if need is None:
            raise Forbidden(CLOSED)
        if need.scope is None:
            return
        client = scope["client"][0] if scope["client"] is not None else ""
        peer = peer_of(client, scope["scheme"], scope["headers"], self._proxy_address)
        if not peer.is_private:
            raise Forbidden(IN_CLEAR)
        token = await self._token(scope["headers"], peer.source)
        if not token.scope.covers(need.scope):
            raise Forbidden(
                f"the token {token.name} ({token.id}) has the scope {token.scope}, and this needs "
                f"{need.scope}: ask an admin for another"
            )
        is_admin = token.scope.covers(Scope.ADMIN)
        acts(Actor(token.id, token.name, peer.source, is_admin=is_admin))

    async def _token(self, headers: Iterable[tuple[bytes, bytes]], source: str) -> Token:
        text = bearer(headers)
        try:
            shown = parse_token(text)
        except BadToken as error:
            self._check_patience(source)
            self._count_wrong(source, "no token")
            raise Unauthenticated(str(error)) from None
        digest = digest_of(shown.secret)
        if digest not in self._proven:
            self._check_patience(source)
        verdict, kept = await self._tokens.look_up(shown)
        if verdict is not Verdict.COUNTS or kept is None:
            self._proven.pop(digest, None)
            self._count_wrong(source, f"{verdict}, {shown.id}")
            raise Unauthenticated(f"{WHY[verdict]}: ask an admin for another")
        self._remember(digest)
        return kept

    def _remember(self, digest: bytes) -> None:
        if digest not in self._proven and len(self._proven) >= PROVEN_MAX:
            del self._proven[next(iter(self._proven))]
        self._proven[digest] = None

    def _check_patience(self, source: str) -> None:
        if self._is_exhausted(source):
            raise TooMany("too many wrong tokens came from there: try again in a minute")

    def _is_exhausted(self, source: str) -> bool:
        now_mono = self._now_mono()
        self._wrong.forget(now_mono)
        # All together first: while they are too many, no more sources are remembered.
        if self._all_wrong.is_over(EVERYBODY, now_mono):
            return True
        return self._wrong.is_over(network_of(source), now_mono)

    def _count_wrong(self, source: str, why: str) -> None:
        if self._is_exhausted(source):
            return
        now_mono = self._now_mono()
        self._wrong.charge(network_of(source), 1.0, now_mono)
        self._all_wrong.charge(EVERYBODY, 1.0, now_mono)
        logger.warning("refused a token from %s (%s)", source or "nowhere", why)

    def _now_mono(self) -> float:
        return self._tokens.clock.mono_s()


def bearer(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return what a request shows as its token.

    Raises:
        Unauthenticated: It shows none, or several, or something else.
    """
    found = [value.decode("latin-1") for name, value in headers if name == b"authorization"]
    if not found:
        raise Unauthenticated(f"say who you are: {HOW}{HOW_FOUND}")
    scheme, _, text = found[0].partition(" ")
    if len(found) > 1 or scheme.lower() != "bearer":
        raise Unauthenticated(f"show one token and nothing else: {HOW}{HOW_FOUND}")
    return text.strip(" ")
