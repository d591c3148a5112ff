"""Flags as operators define them, deal them out to more and more devices, and end them.

Owns the checks and the way of a flag into a group's document. Runs on the writer's thread in one
transaction; never publishes. What a definition may hold is `sync.flags`', how many devices a share
is `hub.cohorts`'.

Rule: a share only grows, unless an operator says that it may shrink; so nobody gets a variant,
loses it and gets it again by accident. The weight is set once and not touched as devices come and
go: who comes later is dealt out by the same weight.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from hub import cohorts
from hub.desired import DesiredDocuments
from hub.entries import HLC
from hub.errors import Clash, NotFound, Refusal
from hub.labels import groups_of
from hub.store import documents, queries
from hub.store import flags as store
from hub.store.database import Connection, load_number, save_number
from hub.store.flags import Step
from hub.terms import WHY_CHARACTERS_MAX
from sync.documents import FLAG, DocumentName, Kind
from sync.flags import BadFlag, FlagDefinition, check_flag_key, parse_flag
from sync.hlc import tick
from sync.records import BadRecord, Flag, decode_as, encode
from sync.replica import values_of

EVERYONE: Final = "everyone"
NOBODY: Final = "nobody"

SHARE_WHOLE: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """To how many devices a variant shall be dealt out."""

    share: float
    """From 0 to 1, of the group's devices."""
    at_least: int = 1
    """Devices that it means at least, if there are so many."""
    variant: str | None = None
    """That is dealt out; of two variants the one that is not the default, if None."""
    is_launch: bool = False
    """Whether it is the first time that anybody gets it; then it needs a guard."""
    may_shrink: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """A flag as it stands in a group's document."""

    clock: int
    text: str
    definition: FlagDefinition
    who: str

    def raw(self) -> dict[str, Any]:
        """Return the definition as JSON."""
        found: dict[str, Any] = json.loads(self.text)
        return found


def check_key(flag: str) -> str:
    """Return the flag's name if it can be one.

    Raises:
        Refusal: It cannot.
    """
    try:
        return check_flag_key(flag)
    except BadFlag as error:
        raise Refusal(str(error)) from None


def check_why(why: str) -> str:
    """Return a reason if it can be kept.

    Raises:
        Refusal: It is no line, or too long.
    """
    if len(why) > WHY_CHARACTERS_MAX or not why.isprintable():
        raise Refusal(f"why must be one line of at most {WHY_CHARACTERS_MAX} characters")
    return why


def text_of(definition: Mapping[str, Any]) -> str:
    """Return a definition as the text that is stored.

    Raises:
        Refusal: It is none.
    """
    text = json.dumps(definition, ensure_ascii=False, separators=(",", ":"))
    try:
        parse_flag(text)
    except BadFlag as error:
        raise Refusal(str(error)) from None
    return text


def standing(connection: Connection, flag: str, group: str) -> Standing | None:
    """Return a flag as it stands in a group; None if it is not defined there."""
    held = documents.load(connection, DocumentName(Kind.GROUP, group))
    return read(flag, values_of(held).get(FLAG + flag))


def read(flag: str, value: bytes | None) -> Standing | None:
    """Return the flag in a record; None if it was taken away or cannot be read."""
    if value is None:
        return None
    try:
        record = decode_as(Flag, FLAG + flag, value)
        if record.definition is None:
            return None
        definition = parse_flag(record.definition)
    except (BadRecord, BadFlag):
        return None
    return Standing(record.clock, record.definition, definition, record.writer)


@dataclass(frozen=True, slots=True)
class Flags:
    """Changes of one flag in one group by one operator."""

    connection: Connection
    desired: DesiredDocuments
    flag: str
    group: str
    now_ms: int
    who: str
    why: str = ""

    def define(self, definition: Mapping[str, Any], *, may_shrink: bool = False) -> Step:
        """Write a definition; without a `targeting` the share that was dealt out stays.

        Raises:
            Refusal: It is none, or it has expired.
            Clash: It would take back what was dealt out, or the document is full.
        """
        wanted = dict(definition)
        before = standing(self.connection, self.flag, self.group)
        held = None if before is None else cohorts.weight_in(before.definition.targeting)
        if held is not None and "targeting" not in wanted and before is not None:
            wanted["targeting"] = before.raw()["targeting"]
        parsed = parse_flag(text_of(wanted))
        if parsed.expires < _today(self.now_ms):
            raise Refusal(f"metadata.expires is {parsed.expires}: that day is past")
        dealt = cohorts.weight_in(parsed.targeting)
        if held is not None and not may_shrink and (dealt is None or dealt < held):
            raise Clash(
                f"{held[0]!r} is dealt out to devices, and this definition would take it from "
                "some: leave `targeting` out to keep the share, or say that it may shrink"
            )
        if dealt is None:
            store.clear(self.connection, self.flag, self.group)
            return self._write("set", wanted)
        share = self._share_before()
        return self._deal("set", wanted, dealt[0], dealt[1], share, self._eligible())

    def deal(self, wish: Share) -> Step:
        """Deal a variant out to a share of the group's devices, exactly.

        Raises:
            NotFound: The flag is not defined there.
            Refusal: It cannot be dealt out so.
            Clash: The share would shrink, there are no devices, or a launch lacks a guard.
        """
        found = self._defined()
        if not 0 <= wish.share <= 1:
            raise Refusal("share must be from 0 to 1: 0.05 is one device of twenty")
        if wish.at_least < 1:
            raise Refusal("at_least must be 1 or more; share 0 is nobody")
        variant = _variant(found.definition, wish.variant)
        held = cohorts.weight_in(found.definition.targeting)
        self._check_share(wish, found, held, variant)
        eligible = self._eligible()
        if not eligible and 0 < wish.share < SHARE_WHOLE:
            raise Clash(f"no device of group {self.group} is registered: there is nobody to count")
        count = cohorts.size(wish.share, len(eligible), wish.at_least)
        least = 0 if held is None or wish.may_shrink else held[1]
        weight = cohorts.deal(self.flag, eligible, count, least_weight=least).weight
        if wish.share >= SHARE_WHOLE:
            weight = cohorts.TOTAL
        raw = found.raw()
        raw["targeting"] = cohorts.rule(variant, found.definition.default_variant, weight)
        action = "launch" if held is None or not held[1] else "ramp"
        return self._deal(action, raw, variant, weight, wish.share, eligible)

    def finish(self, whom: str, variant: str | None = None) -> Step:
        """End an experiment: everyone has the variant from now on, or nobody.

        Raises:
            NotFound: The flag is not defined there.
            Refusal: It is neither everyone nor nobody, or which variant is meant cannot be known.
        """
        found = self._defined()
        if whom not in (EVERYONE, NOBODY):
            raise Refusal(f"finish for {EVERYONE} or for {NOBODY}, not {whom[:40]!r}")
        held = cohorts.weight_in(found.definition.targeting)
        raw = found.raw()
        raw.pop("targeting", None)
        chosen = found.definition.default_variant
        if whom == EVERYONE:
            chosen = held[0] if held and variant is None else _variant(found.definition, variant)
        raw["defaultVariant"] = chosen
        # The cohort stays on record: what it showed is why this was decided.
        return self._write("finish", raw, variant=chosen)

    def remove(self) -> Step:
        """Take the flag away; what reads it all the same gets the default in its own code.

        Raises:
            NotFound: It is not defined there.
        """
        if standing(self.connection, self.flag, self.group) is None:
            raise self._not_there()
        store.clear(self.connection, self.flag, self.group)
        return self._write("remove", None)

    def _check_share(
        self, wish: Share, found: Standing, held: tuple[str, int] | None, variant: str
    ) -> None:
        if found.definition.targeting and held is None:
            raise Clash(
                f"{self.flag} has a targeting that was written by hand: write the share into it, "
                "and define the flag anew"
            )
        if held is not None and held[1] and held[0] != variant and not wish.may_shrink:
            raise Clash(f"{held[0]!r} is dealt out already: finish that before {variant!r}")
        if wish.is_launch and held is not None and held[1]:
            raise Clash(f"{self.flag} is launched in {self.group} already: ramp it")
        if wish.is_launch and not str(found.definition.metadata.get("guard", "")).strip():
            raise Clash(
                f"{self.flag} has no metadata.guard: name the measure that shows harm before "
                "anybody gets it"
            )
        before = self._share_before()
        if held is not None and not wish.may_shrink and before is not None and wish.share < before:
            raise Clash(
                f"{self.flag} is at {before:g} in {self.group}, and a share does not shrink by "
                f"itself: to take it from devices, say so (--down); to end it, finish it"
            )

    def _defined(self) -> Standing:
        found = standing(self.connection, self.flag, self.group)
        if found is None:
            raise self._not_there()
        return found

    def _not_there(self) -> NotFound:
        return NotFound(f"no flag {self.flag!r} is defined in group {self.group}")

    def _share_before(self) -> float | None:
        latest = store.steps(self.connection, self.flag, self.group, 1)
        return latest[0].share if latest else None

    def _eligible(self) -> dict[str, int]:
        return members(self.connection, self.group)

    def _deal(
        self,
        action: str,
        raw: Mapping[str, Any],
        variant: str,
        weight: int,
        share: float | None,
        eligible: Mapping[str, int],
    ) -> Step:
        devices = cohorts.dealt(self.flag, eligible, weight).devices
        store.deal(
            self.connection,
            self.flag,
            self.group,
            variant,
            [eligible[device] for device in devices],
            self.now_ms,
        )
        return self._write(
            action,
            raw,
            variant=variant,
            share=share,
            weight=weight,
            dealt_count=len(devices),
            eligible_count=len(eligible),
        )

    def _write(self, action: str, raw: Mapping[str, Any] | None, **told: Any) -> Step:
        clock = tick(load_number(self.connection, HLC), self.now_ms)
        save_number(self.connection, HLC, clock)
        text = None if raw is None else text_of(raw)
        record = Flag(clock, text, self.who[:100])
        document = DocumentName(Kind.GROUP, self.group)
        self.desired.write(
            self.connection, document, {FLAG + self.flag: encode(record)}, self.now_ms
        )
        step = Step(
            **{
                "flag": self.flag,
                "group": self.group,
                "clock": clock,
                "action": action,
                "variant": "",
                "share": None,
                "weight": None,
                "dealt_count": 0,
                "eligible_count": 0,
                "at_ms": self.now_ms,
                "who": self.who,
                "why": self.why,
                **told,
            }
        )
        store.save_step(self.connection, step)
        return step


def members(connection: Connection, group: str) -> dict[str, int]:
    """Return names and numbers of the devices that say they belong to a group."""
    return {
        device: n
        for device, n, facts in queries.facts_of_all(connection)
        if group in groups_of(facts)
    }


def _variant(definition: FlagDefinition, named: str | None) -> str:
    others = [name for name in definition.variants if name != definition.default_variant]
    if named is None:
        if len(others) != 1:
            raise Refusal(f"say which variant is meant: {', '.join(others) or 'there is only one'}")
        return others[0]
    if named not in others:
        raise Refusal(
            f"{named[:64]!r} is not a variant beside the default; there are: {', '.join(others)}"
        )
    return named


def _today(now_ms: int) -> Any:
    return datetime.fromtimestamp(now_ms / 1000, UTC).date()
