"""Everything an operator can ask of the hub about flags, as one object that knows no HTTP.

Owns the order of an operation: check, one transaction with its row in the audit, then publish.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hub import flag_judging, flag_views, flags
from hub.audit import Act, who_acts
from hub.errors import Clash, Refusal
from hub.flags import Flags, Share
from hub.operations import Operations, limits_of
from hub.store.database import Connection
from hub.store.flags import Step
from hub.terms import OPERATOR
from sync.documents import BadName, DocumentName, Kind
from sync.topics import check_group


@dataclass(frozen=True, slots=True)
class FlagDesk:
    """Where operators come about flags."""

    operations: Operations

    async def every(self) -> list[dict[str, Any]]:
        """Return every flag of every group."""
        now_ms = self.operations.clock.now_ms()
        return await self.operations.database.read(lambda db: flag_views.list_view(db, now_ms))

    async def show(self, flag: str) -> dict[str, Any]:
        """Return everything that is known of one flag.

        Raises:
            NotFound: Nothing is.
        """
        now_ms = self.operations.clock.now_ms()
        return await self.operations.database.read(
            lambda db: flag_views.flag_view(db, flag, now_ms)
        )

    async def verdicts(self, flag: str) -> dict[str, Any]:
        """Return whether the arms of a flag can be compared, and how they do.

        Raises:
            NotFound: It is dealt out nowhere.
        """
        now_ms = self.operations.clock.now_ms()
        limits = limits_of(self.operations.settings)
        answer, made = await self.operations.database.read(
            lambda db: flag_judging.flag_verdicts(db, flag, limits=limits, now_ms=now_ms)
        )
        for looks in made:
            await self.operations.keep(looks)
        return answer

    async def define(
        self,
        group: str,
        flag: str,
        definition: Mapping[str, Any],
        *,
        may_shrink: bool = False,
        why: str = "",
    ) -> dict[str, Any]:
        """Define a flag in a group, or define it anew.

        Raises:
            Refusal: The definition cannot be.
            Clash: It would take back what was dealt out.
        """
        asked = {"definition": dict(definition), "down": may_shrink, "why": why}
        return await self._change(
            Act("flag.set", f"{group} {flag}", asked),
            group,
            flag,
            why,
            lambda each: each.define(definition, may_shrink=may_shrink),
        )

    async def deal(self, group: str, flag: str, wish: Share, why: str = "") -> dict[str, Any]:
        """Deal a variant out to a share of a group's devices.

        Raises:
            Refusal: It cannot be dealt out so.
            Clash: It contradicts what was dealt out before.
        """
        asked = {
            "share": wish.share,
            "at_least": wish.at_least,
            "variant": wish.variant,
            "launch": wish.is_launch,
            "down": wish.may_shrink,
            "why": why,
        }
        act = Act("flag.share", f"{group} {flag}", asked)
        return await self._change(act, group, flag, why, lambda each: each.deal(wish))

    async def finish(
        self, group: str, flag: str, whom: str, variant: str | None = None, why: str = ""
    ) -> dict[str, Any]:
        """End an experiment for everyone or nobody.

        Raises:
            Refusal: It cannot be ended so.
        """
        asked = {"for": whom, "variant": variant, "why": why}
        act = Act("flag.finish", f"{group} {flag}", asked)
        return await self._change(act, group, flag, why, lambda each: each.finish(whom, variant))

    async def remove(
        self, group: str, flag: str, *, is_forced: bool = False, why: str = ""
    ) -> dict[str, Any]:
        """Take a flag away.

        Raises:
            NotFound: It is not there.
            Clash: Devices still read it.
        """

        def removed(each: Flags) -> Step:
            tail = [] if is_forced else flag_views.still_reading(each.connection, flag)
            if tail and flags.standing(each.connection, flag, group) is not None:
                raise Clash(
                    f"{flag} is still read by {len(tail)} devices ({flag_views.tail_words(tail)}); "
                    "without it they get the default in their own code: --force takes it away"
                )
            return each.remove()

        act = Act("flag.remove", f"{group} {flag}", {"force": is_forced, "why": why})
        return await self._change(act, group, flag, why, removed)

    async def _change(
        self, act: Act, group: str, flag: str, why: str, make: Callable[[Flags], Step]
    ) -> dict[str, Any]:
        flags.check_key(flag)
        flags.check_why(why)
        try:
            check_group(group)
        except BadName as error:
            raise Refusal(str(error)) from None
        who = who_acts() or OPERATOR

        def job(db: Connection) -> tuple[dict[str, Any], list[DocumentName]]:
            now_ms = self.operations.clock.now_ms()
            each = Flags(db, self.operations.desired, flag, group, now_ms, who, why)
            return flag_views.step_view(make(each)), [DocumentName(Kind.GROUP, group)]

        return await self.operations.change(act, job)
