"""How answers of the agent read in a terminal. Owns their layout."""

import json
from collections.abc import Iterator
from typing import Any


def lines_of(answer: dict[str, Any]) -> Iterator[str]:
    """Give an answer of the agent in lines for people."""
    if "settings" in answer:
        for row in answer["settings"]:
            mark = "  CONFLICT" if row["conflict"] else ""
            yield f"{row['key']} = {json.dumps(row['value'])}  (from {row['winner']}){mark}"
        return
    if "locks" in answer:
        yield from answer.get("sentences", ())
        for lock in answer["locks"]:
            ends = f"ends in {lock['ends_in_s']:.0f} s"
            yield f"lock {lock['lock']}: {lock['owner']} ({lock['reason']}), {ends}"
        return
    for name, value in answer.items():
        yield f"{name}: {value if isinstance(value, str) else json.dumps(value)}"
