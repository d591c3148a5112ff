"""What is wrong with a value, in the words of the person who wrote it.

Owns the sentences for faults that pydantic finds. Never names the value's place: whoever asks does.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

SENTENCES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "missing": "is missing",
        "extra_forbidden": "is no name that is known here",
        "string_type": "must be text",
        "string_too_short": "must have at least {min_length} characters",
        "string_too_long": "has more than {max_length} characters",
        "int_type": "must be a whole number",
        "int_parsing": "must be a whole number",
        "int_from_float": "must be a whole number",
        "float_type": "must be a number",
        "float_parsing": "must be a number",
        "finite_number": "must be a number that ends",
        "bool_type": "must be true or false",
        "bool_parsing": "must be true or false",
        "tuple_type": "must be a list",
        "list_type": "must be a list",
        "too_short": "must have at least {min_length} entries",
        "too_long": "has more than {max_length} entries",
        "dict_type": "must be a table of names and values",
        "model_type": "must be a table of names and values",
        "literal_error": "must be one of {expected}",
        "greater_than": "must be above {gt}",
        "greater_than_equal": "must be at least {ge}",
        "less_than": "must be below {lt}",
        "less_than_equal": "must be at most {le}",
    }
)
"""By the type of pydantic's error; the braces are its context. What is not here says it itself."""


def sentence(fault: Mapping[str, Any]) -> str:
    """Return what is wrong, to follow the name of the value; `fault` is one of pydantic's."""
    given = fault.get("input")
    if isinstance(given, float) and not math.isfinite(given):
        return SENTENCES["finite_number"]
    known = SENTENCES.get(str(fault["type"]))
    if known is not None:
        return known.format_map(fault.get("ctx", {}))
    text = str(fault["msg"]).removeprefix("Value error, ")
    return text[:1].lower() + text[1:]
