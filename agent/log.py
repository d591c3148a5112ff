"""How the agent writes its log: one line for each change of state, to standard error."""

import json
import logging
import sys
import time


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "from": record.name,
            "event": record.getMessage(),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line)


def start_log(*, as_json: bool) -> None:
    """Write log lines to standard error, as text or as one JSON object a line."""
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(
        _JsonLines() if as_json else logging.Formatter("%(levelname)s %(name)s %(message)s")
    )
    logging.basicConfig(level=logging.INFO, handlers=[lines], force=True)
