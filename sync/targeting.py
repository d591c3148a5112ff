"""Rules that choose a flag's variant: the part of flagd's JsonLogic that can be checked beforehand.

Owns the operators, what each takes, and their answers, which are those of JsonLogic (jsonlogic.com)
and of flagd's own four: `fractional`, `sem_ver`, `starts_with`, `ends_with`. Pure.
A rule that `check` let pass cannot fail, whatever it is asked about: an operator that is given
something it cannot work with answers null, and null chooses the default variant.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from math import nan
from typing import Any, Final

from sync import semver
from sync.canonical import NoBytes, canonical
from sync.murmur import murmur3_32

DEPTH_MAX: Final = 24
"""Operators within operators; a chain of `if` needs only one."""

WEIGHT_TOTAL_MAX: Final = 2**31 - 1
"""Largest sum of the weights of one `fractional`."""

FLAG_KEY: Final = "$flagd.flagKey"
TIMESTAMP: Final = "$flagd.timestamp"
TARGETING_KEY: Final = "targetingKey"

_COUNTS: Final[Mapping[str, tuple[int, int]]] = {
    "if": (2, 99),
    "==": (2, 2),
    "!=": (2, 2),
    "<": (2, 3),
    "<=": (2, 3),
    ">": (2, 3),
    ">=": (2, 3),
    "!": (1, 1),
    "!!": (1, 1),
    "and": (1, 99),
    "or": (1, 99),
    "in": (2, 2),
    "cat": (1, 99),
    "var": (1, 2),
    "starts_with": (2, 2),
    "ends_with": (2, 2),
    "sem_ver": (3, 3),
    "fractional": (1, 99),
}
"""The operators, and how many arguments each takes at least and at most."""

_SINGLE: Final = frozenset({"!", "!!", "var", "cat"})
"""These take one argument that is not in a list, too."""


class BadTargeting(ValueError):
    """A rule that cannot be; whoever wrote it is to blame."""


def bucket_hash(flag: str, device: str) -> int:
    """Return where a device lies for a flag, 0 to 2**32 - 1: flagd's `fractional`, version 3.

    With weights that sum to `total` it falls into bucket `(bucket_hash * total) >> 32`.
    """
    return murmur3_32(canonical([flag, device]))


def bucket(flag: str, device: str, total: int) -> int:
    """Return the bucket of a device for a flag, 0 to `total` - 1."""
    return (bucket_hash(flag, device) * total) >> 32


# Checking.


def check(rule: object, variants: Collection[str]) -> None:
    """Check a whole rule, which chooses among `variants`.

    Raises:
        BadTargeting: It has an operator that is not known, or one with arguments it does not take.
    """
    if not isinstance(rule, dict):
        raise BadTargeting('is no rule: write an operator and its arguments, {"if": [...]}')
    if rule:
        _check(rule, variants, chooses=True, depth=0)


def _check(rule: object, variants: Collection[str], *, chooses: bool, depth: int) -> None:
    if depth > DEPTH_MAX:
        raise BadTargeting(f"has more than {DEPTH_MAX} operators within each other")
    if not isinstance(rule, dict):
        _check_plain(rule, variants, chooses=chooses)
        return
    operator, given = _operation(rule)
    if operator == "fractional":
        _check_fractional(given, variants, depth)
    elif operator == "var":
        _check_var(given)
    else:
        for index, each in enumerate(given):
            if operator == "in" and index == 1 and isinstance(each, list):
                for one in each:
                    _check(one, variants, chooses=False, depth=depth + 1)
                continue
            is_branch = operator == "if" and (index % 2 == 1 or index == len(given) - 1)
            _check(each, variants, chooses=chooses and is_branch, depth=depth + 1)
    if operator == "sem_ver" and given[1] not in semver.OPERATORS:
        raise BadTargeting(f"sem_ver compares with one of {' '.join(semver.OPERATORS)}")


def _operation(rule: Mapping[str, Any]) -> tuple[str, Sequence[Any]]:
    if len(rule) != 1:
        raise BadTargeting("has a rule with several operators, or none: a rule has exactly one")
    ((operator, given),) = rule.items()
    counts = _COUNTS.get(operator)
    if counts is None:
        raise BadTargeting(
            f"has operator {operator[:40]!r}: this evaluator has {' '.join(_COUNTS)}"
        )
    if not isinstance(given, list):
        if operator not in _SINGLE:
            raise BadTargeting(f"gives {operator} no list of arguments")
        given = [given]
    least, most = counts
    if not least <= len(given) <= most:
        raise BadTargeting(f"gives {operator} {len(given)} arguments; it takes {least} to {most}")
    return operator, given


def _check_plain(value: object, variants: Collection[str], *, chooses: bool) -> None:
    if isinstance(value, list):
        raise BadTargeting("has a list where none can be: only `in` and `fractional` take lists")
    if chooses and value is not None and _name(value) not in variants:
        raise BadTargeting(f"chooses {value!r}, which is no variant of this flag"[:160])


def _check_var(given: Sequence[Any]) -> None:
    if not isinstance(given[0], str) or not given[0]:
        raise BadTargeting("has a var without a name")
    if len(given) > 1 and isinstance(given[1], list | dict):
        raise BadTargeting("has a var whose default is no plain value")


def _check_fractional(given: Sequence[Any], variants: Collection[str], depth: int) -> None:
    if not isinstance(given[0], list):
        _check(given[0], variants, chooses=False, depth=depth + 1)
        given = given[1:]
    total = 0
    for part in given:
        if not isinstance(part, list) or len(part) not in (1, 2):
            raise BadTargeting('has a fractional whose parts are not ["variant", weight]')
        weight = part[1] if len(part) > 1 else 1
        if isinstance(weight, bool) or not isinstance(weight, int) or weight < 0:
            raise BadTargeting("has a fractional with a weight that is no whole number from 0 on")
        if not isinstance(part[0], str) or part[0] not in variants:
            raise BadTargeting(f"deals out {part[0]!r}, which is no variant of this flag"[:160])
        total += weight
    if not 0 < total <= WEIGHT_TOTAL_MAX:
        raise BadTargeting(f"has weights that sum to {total}; allowed is 1 to {WEIGHT_TOTAL_MAX}")


# Answering.


class Asked:
    """One question to a rule: about which flag, in what context, and how it was decided."""

    def __init__(self, flag: str, context: Mapping[str, Any]) -> None:
        """Ask for `flag`; `context` holds `targetingKey` and whatever else is known."""
        self.flag = flag
        self.context = context
        self.was_split = False
        """Whether a `fractional` dealt out a variant on the way."""

    def answer(self, rule: object) -> Any:  # noqa: PLR0911 - one for each way to be asked
        """Return what a checked rule comes to; None if it chooses nothing."""
        if isinstance(rule, list):
            return [self.answer(each) for each in rule]
        if not isinstance(rule, dict):
            return rule
        if not rule:
            return None
        ((operator, given),) = rule.items()
        if not isinstance(given, list):
            given = [given]
        match operator:
            case "if":
                return self._if(given)
            case "and" | "or":
                return self._and_or(operator, given)
            case "var":
                return self._var(*given)
            case "fractional":
                return self._fractional(given)
        return _apply(operator, [self.answer(each) for each in given])

    def _if(self, given: Sequence[Any]) -> Any:
        for at in range(0, len(given) - 1, 2):
            if truth(self.answer(given[at])):
                return self.answer(given[at + 1])
        return self.answer(given[-1]) if len(given) % 2 else None

    def _and_or(self, operator: str, given: Sequence[Any]) -> Any:
        found = None
        for each in given:
            found = self.answer(each)
            if truth(found) is (operator == "or"):
                break
        return found

    def _var(self, name: str, default: Any = None) -> Any:
        if name == FLAG_KEY:
            return self.flag
        found: Any = self.context
        if name in self.context:
            return self._or_default(self.context[name], default)
        for step in name.split("."):
            if not isinstance(found, Mapping) or step not in found:
                return default
            found = found[step]
        return self._or_default(found, default)

    @staticmethod
    def _or_default(found: Any, default: Any) -> Any:
        return default if found is None else found

    def _fractional(self, given: Sequence[Any]) -> str | None:
        if isinstance(given[0], list):
            device = self.context.get(TARGETING_KEY)
            if not isinstance(device, str) or not device:
                return None
            by: Any = [self.flag, device]
            parts = given
        else:
            by, parts = self.answer(given[0]), given[1:]
            if by is None:
                return None
        try:
            hashed = murmur3_32(canonical(by))
        except NoBytes:
            return None
        weights = [part[1] if len(part) > 1 else 1 for part in parts]
        place = (hashed * sum(weights)) >> 32
        for part, weight in zip(parts, weights, strict=True):
            place -= weight
            if place < 0:
                self.was_split = True
                return str(part[0])
        return None


def truth(value: object) -> bool:
    """Tell whether JsonLogic takes `value` for true."""
    return isinstance(value, Mapping) or bool(value)


def _apply(operator: str, given: list[Any]) -> Any:  # noqa: PLR0911 - a table would hide the order
    match operator:
        case "==":
            return _equal(given[0], given[1])
        case "!=":
            return not _equal(given[0], given[1])
        case "!":
            return not truth(given[0])
        case "!!":
            return truth(given[0])
        case "in":
            return _within(given[0], given[1])
        case "cat":
            return "".join(_text(each) for each in given)
        case "starts_with" | "ends_with":
            text, part = given
            if not isinstance(text, str) or not isinstance(part, str):
                return None
            return text.startswith(part) if operator == "starts_with" else text.endswith(part)
        case "sem_ver":
            return semver.compare(_text(given[0]), str(given[1]), _text(given[2]))
    return all(_ordered(operator, *pair) for pair in pairwise(given))


def _ordered(operator: str, left: Any, right: Any) -> bool:
    if isinstance(left, str) and isinstance(right, str):
        pair: tuple[Any, Any] = left, right
    else:
        pair = _number(left), _number(right)
    match operator:
        case "<":
            return bool(pair[0] < pair[1])
        case "<=":
            return bool(pair[0] <= pair[1])
        case ">":
            return bool(pair[0] > pair[1])
    return bool(pair[0] >= pair[1])


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, str) and isinstance(right, str):
        return left == right
    if left is None or right is None:
        return left is right
    if isinstance(left, list | Mapping) or isinstance(right, list | Mapping):
        return False
    return bool(_number(left) == _number(right))


def _within(part: Any, whole: Any) -> bool:
    if isinstance(whole, str):
        return _text(part) in whole
    if isinstance(whole, list):
        return any(
            isinstance(part, bool) is isinstance(each, bool) and part == each for each in whole
        )
    return False


def _number(value: Any) -> float:
    """Return what JavaScript makes of a value where it needs a number."""
    if value is None:
        return 0
    if isinstance(value, int | float):
        return value
    if (
        not isinstance(value, str)
        or "_" in value
        or value.strip().lower().lstrip("+-")[:3]
        in {
            "inf",
            "nan",
        }
    ):
        return nan
    try:
        return float(value) if value.strip() else 0
    except ValueError:
        return nan


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, list):
        return ",".join(_text(each) for each in value)
    return str(value)


def _name(value: object) -> str:
    """Return the variant that a chosen value names: `true` and `false` may stand without quotes."""
    return value if isinstance(value, str) else _text(value)


def chosen(value: object) -> str | None:
    """Return the name of the variant that an answer names; None for the default one."""
    return None if value is None else _name(value)
