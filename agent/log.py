"""How the agent writes its log: one line for each change of state, to standard error.

Under systemd the lines go to its journal instead, with their fields: `FIELDFARE_EVENT=install`.

Owns the form of a line: the event's name, then its fields. Decides nothing.
"""

import json
import logging
import sys
import time
from enum import StrEnum
from typing import Final

from sync.transport.journal import JournalHandler, writes_to_journal

PROGRAM: Final = "fieldfare-agent"


def say(logger: logging.Logger, event: str, *, level: int = logging.INFO, **fields: object) -> None:
    """Log that something happened, with what is to be known about it."""
    if logger.isEnabledFor(level):
        logger.log(level, event, extra={"fields": fields})


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        words = [record.levelname.lower(), record.name, record.getMessage()]
        words += [f"{name}={_shown(value)}" for name, value in _fields(record).items()]
        line = " ".join(words)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "from": record.name,
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def start_log(*, as_json: bool) -> None:
    """Write log lines to standard error, as text or as one JSON object a line.

    Text goes to the journal with its fields, where standard error is the journal.
    """
    lines: logging.Handler = logging.StreamHandler(sys.stderr)
    if not as_json and writes_to_journal():
        lines = JournalHandler(PROGRAM, _journal_fields)
    lines.setFormatter(_JsonLines() if as_json else _Text())
    logging.basicConfig(level=logging.INFO, handlers=[lines], force=True)


def _journal_fields(record: logging.LogRecord) -> dict[str, object]:
    return {"event": record.getMessage(), **_fields(record)}


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields: dict[str, object] = getattr(record, "fields", {})
    return {name: value for name, value in fields.items() if value not in ("", None)}


def _shown(value: object) -> str:
    """Return a value as one word, quoted where it has spaces or could be taken for two."""
    text = value.value if isinstance(value, StrEnum) else str(value)
    plain = text.isprintable() and not set(text) & set(' "=')
    return text if plain and text else json.dumps(text)
