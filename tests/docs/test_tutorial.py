"""The tutorial, typed as it stands."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.demo.ground import free_port

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial" / "first-release.md"

# What a person does once, before.
BEFORE = ("make .venv/.installed", 'export PATH="$PWD/.venv/bin:$PATH"')

# A person waits a few seconds; a test waits for what the person waits for.
WAITS = {
    "sleep 5;": "until grep -q 'is ready' try/hub.log; do sleep 0.2; done;",
    "sleep 3;": "until fieldfare devices | grep -q 'house-1  yes'; do sleep 0.2; done;",
}

# A ground ends everything that the tutorial leaves behind, should it break off in the middle.
RUN = """
import subprocess, sys
from hub.demo.ground import Ground
with Ground():
    sys.exit(subprocess.run(["bash", "-c", sys.argv[1]]).returncode)
"""


def commands() -> str:
    """Return what the page tells a person to type."""
    lines: list[str] = []
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE):
        typed = [line[2:] for line in block.splitlines() if line.startswith(("$ ", "> "))]
        lines += [line for line in typed if line not in BEFORE]
    script = "\n".join(lines) + "\n"
    for sleep, waiting in WAITS.items():
        assert sleep in script
        script = script.replace(sleep, waiting)
    return script


@pytest.fixture
def place() -> Iterator[Path]:
    """Give a folder like the top of a checkout, with a path that leaves room for sockets."""
    with tempfile.TemporaryDirectory(prefix="ff-", dir="/tmp") as folder:
        (Path(folder) / "examples").symlink_to(ROOT / "examples")
        yield Path(folder)


@pytest.mark.broker
@pytest.mark.timeout(240)
def test_the_tutorial_works_as_it_is_written(place: Path) -> None:
    http_port, broker_port = str(free_port()), str(free_port())
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "FIELDFARE_HUB_HTTP_PORT": http_port,
        "FIELDFARE_HUB_BROKER_PORT": broker_port,
        "FIELDFARE_HUB_URL": f"http://127.0.0.1:{http_port}",
        "FIELDFARE_AGENT_HUB_URL": f"http://127.0.0.1:{http_port}",
        "FIELDFARE_AGENT_BROKER_PORT": broker_port,
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN, commands()],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    for promised in (
        "No release was deployed yet.",
        "1 of 1 device runs greenhouse 1.0.0 (proven by a passed health check)",
        "it does not run on 1 of 1 device",
        "the health check failed (no reading from soil_moisture).",
        "1 of 1 device runs greenhouse 1.1.0 (proven by a passed health check)",
        "stopped",
    ):
        assert promised in told, told
    assert not (place / "try").exists()
