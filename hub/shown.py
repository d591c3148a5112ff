"""Text that came from devices and other people, made harmless for whoever looks at it.

Owns the one rule: what cannot be printed does not reach a terminal, a page or a log. That is
control characters (they steer terminals), and the formatting characters that turn the direction of
a line (CVE-2021-42574). Pure.
"""

import logging
from typing import Any, Final

INSTEAD: Final = "\N{REPLACEMENT CHARACTER}"


def shown(text: str) -> str:
    """Return `text` with every character replaced that does something else than be seen."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else INSTEAD for each in text)


def shown_all(answer: Any) -> Any:
    """Return a JSON value with all its texts made harmless, names of fields included."""
    match answer:
        case str():
            return shown(answer)
        case list():
            return [shown_all(each) for each in answer]
        case dict():
            return {shown(name): shown_all(each) for name, each in answer.items()}
        case _:
            return answer


class ShownFormatter(logging.Formatter):
    """Writes log lines in which nothing steers a terminal; a traceback keeps its lines."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or lines, of a record."""
        return "\n".join(map(shown, super().format(record).split("\n")))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        """Return the first line: a message of several is one all the same."""
        record.message = shown(record.message)
        return super().formatMessage(record)
