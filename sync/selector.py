"""Which devices a group's deployment is meant for: `site=s7,class=pump`.

Owns the selector's grammar and its answer. Pure: hub and device evaluate the same text alike.
"""

import re
from collections.abc import Mapping

SELECTOR_CHARACTERS_MAX = 500
LABELS_MAX = 32

_TERM = re.compile(r"\s*([a-z0-9](?:[a-z0-9._-]{0,62}))\s*(!?=)\s*([A-Za-z0-9._-]{0,63})\s*\Z")


class BadSelector(ValueError):
    """The text is no selector; whoever wrote it is to blame. Nothing was changed."""


def parse_selector(text: str) -> tuple[tuple[str, bool, str], ...]:
    """Return the terms of a selector as (label, must be equal, value). Empty text has none.

    Raises:
        BadSelector: It has a term that is not `label=value` or `label!=value`, or too many.
    """
    if len(text) > SELECTOR_CHARACTERS_MAX:
        raise BadSelector(f"a selector has at most {SELECTOR_CHARACTERS_MAX} characters")
    if not text.strip():
        return ()
    terms = []
    for part in text.split(","):
        found = _TERM.match(part)
        if found is None:
            raise BadSelector(
                f"{part.strip()[:80]!r} is not label=value or label!=value "
                "(labels: a-z 0-9 . _ -; values: letters, digits, . _ -)"
            )
        terms.append((found[1], found[2] == "=", found[3]))
    if len(terms) > LABELS_MAX:
        raise BadSelector(f"a selector has at most {LABELS_MAX} terms")
    return tuple(terms)


def matches(text: str, labels: Mapping[str, str]) -> bool:
    """Tell whether a device with `labels` is meant; a device without the label never equals it.

    Raises:
        BadSelector: As `parse_selector`.
    """
    return all(
        (labels.get(label) == value) is equal for label, equal, value in parse_selector(text)
    )
