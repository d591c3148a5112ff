"""How long the demo takes: six real agents, a release, and all that goes wrong on purpose."""

import json
import subprocess
import tempfile
from pathlib import Path

from benchmarks.programs import BIN
from benchmarks.result import Result


def run() -> list[Result]:
    """Run the demo once."""
    with tempfile.TemporaryDirectory(prefix="fieldfare-bench-") as name:
        facts = Path(name) / "facts.json"
        words = ["demo", "--json", str(facts), "--page", str(Path(name) / "outcome.html")]
        subprocess.run([str(BIN / "fieldfare"), *words], stdout=subprocess.DEVNULL, check=True)
        took_s = json.loads(facts.read_text())["took_s"]
    return [
        Result(
            name="demo.took_s",
            value=took_s,
            unit="s",
            aim="< 120",
            note="from its start until every process of it has ended",
        )
    ]
