"""Looking at what a release is judged by: over real HTTP, and with a program in systemd's place."""

import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from agent.checks import Checks
from agent.command import Ended, run_command
from agent.health import Hopeless, check
from sync.manifest import Check, Command, Health
from sync.stages import Reason

SYSTEMCTL = """#!/bin/sh
case "$1" in
show) cat restarts ;;
is-active) cat state; grep -qx active state ;;
esac
"""


class Asked(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health?deep=1" else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Asked)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def checks(folder: Path, *, is_connected: bool = True) -> Checks:
    async def run(command: Command, deadline_s: float) -> Ended:
        return await run_command(
            command,
            folder=folder,
            environment={"PATH": f"{folder}:/usr/bin:/bin"},
            python="python3",
            deadline_s=deadline_s,
            stays=False,
        )

    return Checks(run, lambda: is_connected)


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A folder whose `systemctl` answers from files."""
    program = tmp_path / "systemctl"
    program.write_text(SYSTEMCTL)
    program.chmod(0o755)
    (tmp_path / "restarts").write_text("2\n")
    (tmp_path / "state").write_text("active\n")
    return tmp_path


async def test_a_url_that_answers_as_wanted_is_good(url: str, tmp_path: Path) -> None:
    look = checks(tmp_path).look

    good = await look(Check(kind="http", url=f"{url}/health?deep=1"), 20)
    bad = await look(Check(kind="http", url=f"{url}/other"), 20)
    wanted = await look(Check(kind="http", url=f"{url}/other", status=503), 20)

    assert (good.code, bad.code, wanted.code) == (0, 1, 0)
    assert bad.output == f"{url}/other answers 503"


async def test_a_url_that_does_not_answer_says_so(tmp_path: Path) -> None:
    ended = await checks(tmp_path).look(Check(kind="http", url="http://127.0.0.1:1/"), 20)

    assert ended.code == 1
    assert "http://127.0.0.1:1/ does not answer" in ended.output


async def test_a_unit_that_is_active_is_good(device: Path) -> None:
    ended = await checks(device).look(Check(kind="unit", unit="lamp.service"), 20)

    assert ended.code == 0


async def test_a_unit_that_is_not_active_is_not_good_and_is_named(device: Path) -> None:
    (device / "state").write_text("activating\n")

    ended = await checks(device).look(Check(kind="unit", unit="lamp.service"), 20)

    assert ended.code != 0
    assert ended.output == "lamp.service is activating"


async def test_a_unit_that_ends_again_and_again_is_hopeless(device: Path) -> None:
    trial = checks(device)
    unit = Check(kind="unit", unit="lamp.service", restarts_max=2)
    await trial.look(unit, 20)
    (device / "restarts").write_text("4\n")
    assert (await trial.look(unit, 20)).output == "lamp.service was restarted meanwhile"
    assert (await trial.look(unit, 20)).code == 0
    (device / "restarts").write_text("5\n")

    with pytest.raises(Hopeless) as ended:
        await trial.look(unit, 20)

    assert ended.value.reason is Reason.CRASH_LOOP


async def test_where_systemd_does_not_answer_a_unit_is_not_good(tmp_path: Path) -> None:
    (tmp_path / "systemctl").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "systemctl").chmod(0o755)

    ended = await checks(tmp_path).look(Check(kind="unit", unit="lamp.service"), 20)

    assert (ended.code, ended.output) == (1, "lamp.service is not active")


async def test_a_hub_that_is_not_reached_in_its_budget_is_only_told(tmp_path: Path) -> None:
    hub = Check(kind="hub", budget_s=0.1)

    away = await checks(tmp_path, is_connected=False).look(hub, 20)
    here = await checks(tmp_path).look(hub, 20)

    assert (away.code, here.code) == (1, 0)
    assert "no reason to go back" in away.output


UNIT = Health(checks=(Check(kind="unit", unit="lamp.service"),), deadline_s=2, pause_s=0.05)
DIES_AT_EACH_SECOND_LOOK = """#!/bin/sh
case "$1" in
show) echo x >> looks; echo $(( $(wc -l < looks) / 2 )) ;;
is-active) true ;;
esac
"""


async def test_a_service_that_dies_soon_after_each_start_is_found_in_the_steady_time(
    device: Path,
) -> None:
    (device / "systemctl").write_text(DIES_AT_EACH_SECOND_LOOK)

    verdict = await check(UNIT, checks(device).look, time.monotonic, steady_s=UNIT.steady_for_s)

    assert (verdict.healthy, verdict.reason) == (False, Reason.CRASH_LOOP)


async def test_a_service_that_stays_up_is_steady(device: Path) -> None:
    health = UNIT.model_copy(update={"steady_s": 0.3})

    verdict = await check(health, checks(device).look, time.monotonic, steady_s=health.steady_for_s)

    assert verdict.healthy
