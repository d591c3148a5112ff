"""One flag as operators defined it, and what it comes to on one device.

Owns the definition: flagd's JSON of one flag, with our own fields in `metadata`. Pure; what speaks
against asking at all, a kill order or the end of the lease, the agent decides before.
A definition that `parse_flag` let pass cannot fail when it is evaluated, and every evaluation of it
comes to one of its variants.

    {"state": "ENABLED", "variants": {"on": true, "off": false}, "defaultVariant": "off",
     "targeting": {"fractional": [["on", 5], ["off", 95]]},
     "metadata": {"owner": "fleet-core", "cleanup": "FLEET-412", "expires": "2027-02-01",
                  "lease_s": 86400, "safe": "off", "hash": "flagd-fractional-v3"}}
"""

import contextlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Any, Final, NoReturn

from sync import targeting
from sync.records import DEFINITION_BYTES_MAX

HASH: Final = "flagd-fractional-v3"
"""The only way of dealing devices out that this evaluator knows. Another one would deal anew."""

FLAG_KEY_PATTERN: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62})\Z")
"""Names of flags; the same rule as for settings."""

VARIANTS_MAX: Final = 32

LEASE_LEAST_S: Final = 60
LEASE_MOST_S: Final = 366 * 86_400

METADATA_MAX: Final = 24
METADATA_CHARACTERS_MAX: Final = 200

REQUIRED: Final = ("owner", "cleanup", "expires", "lease_s", "safe", "hash")
"""What `metadata` must hold."""

_VARIANT: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62})\Z")

_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d\Z", re.ASCII)

_FIELDS: Final = frozenset({"state", "variants", "defaultVariant", "targeting", "metadata"})


class BadFlag(ValueError):
    """A definition that cannot be; whoever wrote it is to blame. Nothing was changed."""


class Why(StrEnum):
    """Why a flag came to its variant, in OpenFeature's words. Stored; never reuse one."""

    STATIC = "STATIC"
    """It has no targeting: everyone has the default variant."""
    DEFAULT = "DEFAULT"
    """Its targeting chose nothing, so the default variant."""
    TARGETING_MATCH = "TARGETING_MATCH"
    SPLIT = "SPLIT"
    """A `fractional` dealt it out."""
    DISABLED = "DISABLED"
    """It is killed, or its state says so: the safe variant."""
    STALE = "STALE"
    """No word came from the hub for as long as its lease: the safe variant."""
    ERROR = "ERROR"
    """Its targeting chose something that is no variant: the safe variant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlagDefinition:
    """A flag that was checked."""

    is_enabled: bool
    variants: Mapping[str, Any]
    """Values by name, all of one type."""
    default_variant: str
    targeting: Mapping[str, Any]
    """The rule that chooses; empty for none."""
    owner: str
    cleanup: str
    """Ticket under which the flag is to be removed."""
    expires: date
    """After that day it should be gone. Devices do not act on it; `fieldfare flags audit` does."""
    lease_s: int
    """How long it holds without word from the hub; 0 for however long."""
    safe: str
    """Variant to fall back to."""
    metadata: Mapping[str, str | int | float | bool]
    """All of it, with what we do not know."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a flag came to."""

    value: Any
    variant: str
    reason: Why


def check_flag_key(text: str) -> str:
    """Return `text` if it can name a flag.

    Raises:
        BadFlag: It cannot.
    """
    if not FLAG_KEY_PATTERN.match(text):
        raise BadFlag(
            f"{text[:64]!r} cannot name a flag: use 1 to 63 of a-z, 0-9, . _ and -, starting with "
            "a letter or digit"
        )
    return text


def parse_flag(text: str) -> FlagDefinition:
    """Return the flag that `text` defines, as JSON of flagd.

    Raises:
        BadFlag: It is too long, no JSON, or defines something that cannot be; says what and why.
    """
    raw = _read(text)
    unknown = sorted(set(raw) - _FIELDS)
    if unknown:
        raise BadFlag(f"a flag has no {unknown[0][:40]!r}: fields of our own belong into metadata")
    if raw.get("state") not in ("ENABLED", "DISABLED"):
        raise BadFlag("state must be ENABLED or DISABLED")
    variants = _variants(raw.get("variants"))
    default = _one_of(variants, raw.get("defaultVariant"), "defaultVariant")
    rule = raw.get("targeting") or {}
    try:
        targeting.check(rule, variants)
    except targeting.BadTargeting as error:
        raise BadFlag(f"targeting {error}") from None
    metadata = _metadata(raw.get("metadata"))
    if metadata["hash"] != HASH:
        raise BadFlag(
            f"metadata.hash is {str(metadata['hash'])[:40]!r}; devices deal out by {HASH} alone"
        )
    return FlagDefinition(
        is_enabled=raw["state"] == "ENABLED",
        variants=variants,
        default_variant=default,
        targeting=rule,
        owner=_words(metadata, "owner"),
        cleanup=_words(metadata, "cleanup"),
        expires=_day(metadata["expires"]),
        lease_s=_lease(metadata["lease_s"]),
        safe=_one_of(variants, metadata["safe"], "metadata.safe"),
        metadata=metadata,
    )


def evaluate(
    key: str, definition: FlagDefinition, context: Mapping[str, Any], now_s: int | None = None
) -> Evaluation:
    """Return what a flag comes to for a device, if nothing speaks against asking.

    Args:
        key: The flag's name; part of what devices are dealt out by.
        definition: The flag.
        context: `targetingKey`, which is the device's id, its labels and whatever else is known.
        now_s: Seconds UTC for rules that ask for `$flagd.timestamp`; None if no time is believed.
    """
    if not definition.is_enabled:
        return safely(definition, Why.DISABLED)
    if not definition.targeting:
        return _as(definition, definition.default_variant, Why.STATIC)
    asked = targeting.Asked(key, {**context, targeting.TIMESTAMP: now_s})
    variant = targeting.chosen(asked.answer(definition.targeting))
    if variant is None:
        return _as(definition, definition.default_variant, Why.DEFAULT)
    if variant not in definition.variants:
        return safely(definition, Why.ERROR)
    return _as(definition, variant, Why.SPLIT if asked.was_split else Why.TARGETING_MATCH)


def safely(definition: FlagDefinition, reason: Why) -> Evaluation:
    """Return the safe variant, for a reason."""
    return _as(definition, definition.safe, reason)


def _as(definition: FlagDefinition, variant: str, reason: Why) -> Evaluation:
    return Evaluation(definition.variants[variant], variant, reason)


# Reading.


def _read(text: str) -> dict[str, Any]:
    if len(text) > DEFINITION_BYTES_MAX or len(text.encode(errors="replace")) > (
        DEFINITION_BYTES_MAX
    ):
        raise BadFlag(f"the definition is longer than {DEFINITION_BYTES_MAX} bytes")
    try:
        raw = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except BadFlag:
        raise
    except (ValueError, RecursionError) as error:
        raise BadFlag(f"the definition is no JSON: {str(error)[:120]}") from None
    if not isinstance(raw, dict):
        raise BadFlag("the definition must be a JSON object")
    return raw


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for key, _ in pairs if [each for each, _ in pairs].count(key) > 1)
        raise BadFlag(f"{twice[:40]!r} stands twice in one object; which one counts?")
    return found


def _no_number(text: str) -> NoReturn:
    raise BadFlag(f"{text} is no number in JSON")


def _variants(raw: object) -> dict[str, Any]:
    if not isinstance(raw, dict) or not 1 <= len(raw) <= VARIANTS_MAX:
        raise BadFlag(f"variants must be an object of 1 to {VARIANTS_MAX} names and values")
    for name in raw:
        if not _VARIANT.match(name):
            raise BadFlag(
                f"{name[:64]!r} cannot name a variant: use 1 to 63 of letters, digits, . _ and -"
            )
    kinds = {_kind(name, value) for name, value in raw.items()}
    if len(kinds) > 1:
        raise BadFlag(f"variants are of different types, {' and '.join(sorted(kinds))}")
    return raw


def _kind(name: str, value: object) -> str:
    match value:
        case bool():
            return "boolean"
        case int() | float():
            if not math.isfinite(value) or abs(value) > 2**53:
                raise BadFlag(f"variant {name}: the number is beyond what JSON carries safely")
            return "number"
        case str():
            return "string"
        case dict():
            return "object"
    raise BadFlag(f"variant {name} must be a boolean, a number, a string or an object")


def _one_of(variants: Mapping[str, Any], name: object, where: str) -> str:
    if not isinstance(name, str) or name not in variants:
        raise BadFlag(f"{where} must name one of the variants: {', '.join(variants)}"[:200])
    return name


def _metadata(raw: object) -> dict[str, str | int | float | bool]:
    if not isinstance(raw, dict):
        raise BadFlag(f"metadata must be an object with {', '.join(REQUIRED)}")
    missing = [name for name in REQUIRED if name not in raw]
    if missing:
        raise BadFlag(f"metadata lacks {', '.join(missing)}")
    if len(raw) > METADATA_MAX:
        raise BadFlag(f"metadata has more than {METADATA_MAX} fields")
    for name, value in raw.items():
        if not isinstance(value, str | int | float):
            raise BadFlag(f"metadata.{name[:40]} must be a string, a number or a boolean")
        if isinstance(value, str) and len(value) > METADATA_CHARACTERS_MAX:
            raise BadFlag(
                f"metadata.{name[:40]} has more than {METADATA_CHARACTERS_MAX} characters"
            )
    return raw


def _words(metadata: Mapping[str, object], name: str) -> str:
    value = metadata[name]
    if not isinstance(value, str) or not value.strip():
        raise BadFlag(f"metadata.{name} must be a text that is not empty")
    return value


def _day(value: object) -> date:
    if isinstance(value, str) and _DAY.match(value):
        with contextlib.suppress(ValueError):
            return date.fromisoformat(value)
    raise BadFlag(f"metadata.expires is {str(value)[:40]!r}: write a day, 2027-02-01")


def _lease(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadFlag("metadata.lease_s must be whole seconds")
    if value and not LEASE_LEAST_S <= value <= LEASE_MOST_S:
        raise BadFlag(
            f"metadata.lease_s is {value}: from {LEASE_LEAST_S} to {LEASE_MOST_S}, or 0 for a flag "
            "that holds however long the hub is silent"
        )
    return value
