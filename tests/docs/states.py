"""The state diagram of an install, drawn from its tables: `python -m tests.docs.states` writes it.

Owns the two blocks of `docs/explanation/installing.md` between `<!-- states -->` and
`<!-- endings -->` and the next fence. Mermaid, which common viewers of Markdown draw.
"""

from pathlib import Path

from agent.ending import ENDINGS
from agent.install import DONE, RESUME, STORED, TRANSITIONS, State

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "installing.md"


def states() -> str:
    """Return the diagram of what may follow what, and where a power cut leads."""
    names = {state: STORED[state].replace("-", "_") for state in State}
    lines = ["stateDiagram-v2", f"    [*] --> {names[State.FETCHING]}"]
    lines += [
        f"    {names[state]} --> {names[after]}: {event.value}"
        for state, events in TRANSITIONS.items()
        for event, after in events.items()
    ]
    lines += [
        f"    {names[state]} --> {names[after]}: power cut"
        for state, after in RESUME.items()
        if after is not state
    ]
    lines += [f"    {names[state]} --> [*]" for state in State if state in DONE]
    return "\n".join(lines)


def endings() -> str:
    """Return the diagram of what has become of an install."""
    lines = ["stateDiagram-v2", "    [*] --> NO_FAILURE"]
    lines += [
        f"    {ending.name} --> {after.name}: {mishap.value}"
        for ending, mishaps in ENDINGS.items()
        for mishap, after in mishaps.items()
    ]
    return "\n".join(lines)


def drawn(text: str) -> str:
    """Return the page with both diagrams as the tables have them."""
    for name, diagram in (("states", states()), ("endings", endings())):
        before, mark, rest = text.partition(f"<!-- {name} -->\n```mermaid\n")
        _, fence, after = rest.partition("\n```")
        if not (mark and fence):
            raise SystemExit(f"{PAGE} has no place for {name}")
        text = f"{before}{mark}{diagram}{fence}{after}"
    return text


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text()))
