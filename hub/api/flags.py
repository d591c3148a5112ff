"""The addresses of flags.

Owns paths, bodies and statuses. Each does one thing of `hub.flag_desk`.
"""

from typing import Annotated, Any, Final

import msgspec
from litestar import delete, get, post, put
from litestar.params import FromPath, JSONBody, QueryParameter
from litestar.status_codes import HTTP_200_OK
from msgspec import Meta

from hub.api.given import TheOperations
from hub.flag_desk import FlagDesk
from hub.flags import Share

Short = Annotated[str, Meta(max_length=200)]


class Definition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A flag, as flagd's JSON."""

    definition: dict[str, Any]
    """`state`, `variants`, `defaultVariant`, `targeting`, `metadata`. Without `targeting` the share
    that was dealt out stays."""
    down: bool = False
    """Whether it may take from devices what was dealt out to them."""
    why: Short = ""


class ShareWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """To how many devices a variant shall be dealt out."""

    share: float
    """From 0 to 1, of the group's devices, rounded up to whole ones."""
    at_least: int = 1
    """So many devices at least."""
    variant: Short | None = None
    """Of two variants the one that is not the default, if it is left out."""
    launch: bool = False
    """Refuse if it is launched already, or has no guard."""
    down: bool = False
    """Whether the share may shrink."""
    why: Short = ""

    def wish(self) -> Share:
        """Return the wish in it."""
        return Share(
            share=self.share,
            at_least=self.at_least,
            variant=self.variant,
            is_launch=self.launch,
            may_shrink=self.down,
        )


class Finish(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"whom": "for"}):
    """How an experiment ends."""

    whom: Short
    """`everyone` or `nobody`."""
    variant: Short | None = None
    why: Short = ""


@get("/flags", summary="Flags of all groups")
async def list_flags(operations: TheOperations) -> dict[str, Any]:
    """List every flag as it stands."""
    return {"items": await FlagDesk(operations).every()}


@get("/flags/{flag:str}", summary="Everything that is known of one flag")
async def show_flag(operations: TheOperations, flag: FromPath[str]) -> dict[str, Any]:
    """Show how a flag stands, what it came to on devices, and who still reads it."""
    return await FlagDesk(operations).show(flag)


@put("/groups/{group:str}/flags/{flag:str}", summary="Define a flag in a group")
async def define_flag(
    operations: TheOperations,
    group: FromPath[str],
    flag: FromPath[str],
    data: JSONBody[Definition],
) -> dict[str, Any]:
    """Define a flag, or define it anew."""
    return await FlagDesk(operations).define(
        group, flag, data.definition, may_shrink=data.down, why=data.why
    )


@put("/groups/{group:str}/flags/{flag:str}/share", summary="Deal a flag out to a share of devices")
async def deal_flag(
    operations: TheOperations,
    group: FromPath[str],
    flag: FromPath[str],
    data: JSONBody[ShareWish],
) -> dict[str, Any]:
    """Deal a variant out to exactly so many devices. A share only grows, except with `down`."""
    return await FlagDesk(operations).deal(group, flag, data.wish(), data.why)


@post(
    "/groups/{group:str}/flags/{flag:str}/finish",
    summary="End an experiment for everyone or nobody",
    status_code=HTTP_200_OK,
)
async def finish_flag(
    operations: TheOperations,
    group: FromPath[str],
    flag: FromPath[str],
    data: JSONBody[Finish],
) -> dict[str, Any]:
    """Give everyone the same variant from now on."""
    return await FlagDesk(operations).finish(group, flag, data.whom, data.variant, data.why)


@delete(
    "/groups/{group:str}/flags/{flag:str}",
    summary="Take a flag away",
    status_code=HTTP_200_OK,
)
async def remove_flag(
    operations: TheOperations,
    group: FromPath[str],
    flag: FromPath[str],
    force: Annotated[  # noqa: FBT002 - comes by name, from the query
        bool, QueryParameter(description="Also if devices are known to read it.")
    ] = False,
    why: Annotated[str, QueryParameter(max_length=200, description="Why.")] = "",
) -> dict[str, Any]:
    """Take a flag away that is read no more."""
    return await FlagDesk(operations).remove(group, flag, is_forced=force, why=why)


@get("/flags/{flag:str}/verdicts", summary="Whether the arms of a flag can be compared, and how")
async def judge_flag(operations: TheOperations, flag: FromPath[str]) -> dict[str, Any]:
    """Judge sizes of arms, multiple exposure, and the P95 of what was measured under it."""
    return await FlagDesk(operations).verdicts(flag)


FOR_OPERATORS: Final = (
    list_flags,
    show_flag,
    judge_flag,
    define_flag,
    deal_flag,
    finish_flag,
    remove_flag,
)
"""Every address here."""
