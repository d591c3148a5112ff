"""Everything an operator can ask of the hub about kill orders, as one object that knows no HTTP.

Owns the order of an operation: check, one transaction with its row in the audit, then publish; on
the short topic first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hub import kill_views
from hub.audit import DONE, UNCHANGED, Act, who_acts
from hub.errors import Refusal
from hub.flags import check_why
from hub.kills import Kills, parse_what
from hub.operations import Operations
from hub.store.database import Connection
from hub.store.kills import Order
from hub.terms import OPERATOR
from sync.documents import BadName, DocumentName
from sync.topics import check_group


@dataclass(frozen=True, slots=True)
class KillDesk:
    """Where operators come about kill orders."""

    operations: Operations

    async def every(self) -> list[dict[str, Any]]:
        """Return what was ever killed, and how it stands."""
        return await self.operations.database.read(kill_views.list_view)

    async def show(self, what: str) -> dict[str, Any]:
        """Return how far the order about something has come.

        Raises:
            NotFound: There never was one.
        """
        name = str(parse_what(what))
        now_ms = self.operations.clock.now_ms()
        return await self.operations.database.read(
            lambda db: kill_views.kill_view(db, name, now_ms)
        )

    async def kill(self, what: str, group: str | None = None, why: str = "") -> dict[str, Any]:
        """Switch something off; doing so twice says it again.

        Raises:
            Refusal: It cannot be killed.
            NotFound: There is no such thing.
        """
        meant = parse_what(what)
        if group is not None:
            try:
                check_group(group)
            except BadName as error:
                raise Refusal(str(error)) from None
        act = Act("kill.order", str(meant), {"group": group, "why": why})
        return await self._change(act, why, lambda each: each.kill(meant, group))

    async def undo(self, what: str, why: str = "") -> dict[str, Any]:
        """Take an order back.

        Raises:
            NotFound: There was none.
        """
        meant = parse_what(what)
        act = Act("kill.undo", str(meant), {"why": why})
        return await self._change(act, why, lambda each: each.undo(meant))

    async def _change(
        self,
        act: Act,
        why: str,
        make: Callable[[Kills], tuple[Order, list[DocumentName], bool]],
    ) -> dict[str, Any]:
        check_why(why)
        operations = self.operations
        requested_ms = operations.clock.now_ms()
        who = who_acts() or OPERATOR

        def job(db: Connection) -> tuple[Order, list[DocumentName]]:
            now_ms = operations.clock.now_ms()
            each = Kills(db, operations.desired, requested_ms, now_ms, who, why)
            order, changed, is_new = make(each)
            act.outcome = DONE if is_new else UNCHANGED
            return order, changed

        order = await operations.change(act, job)
        # Nothing was awaited since: this goes out before the documents do.
        operations.publisher.kill_topic.ask(order.groups)
        return kill_views.order_view(order)
