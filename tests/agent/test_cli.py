import asyncio
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.__main__ import COMMANDS, EXIT_CODES, NOT_RUNNING, REFUSED, SETTINGS, STATE, USAGE, main
from agent.facts import AGENT_VERSION
from agent.inhibitors import RETURN_S
from agent.lock import lock_state
from agent.store import APPLICATION_ID, FILE
from hub.demo.ground import free_port

READY_MAX_S = 30.0


def environment(folder: Path, **more: str) -> dict[str, str]:
    chosen = {
        "device": "lamp-1",
        "state_dir": str(folder / "state"),
        "install_dir": str(folder / "install"),
        "broker_port": str(free_port()),
        **more,
    }
    return {**os.environ, **{f"FIELDFARE_AGENT_{name.upper()}": v for name, v in chosen.items()}}


def run(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agent", *words],
        env=environment(folder, **more),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    """Run an agent without a broker until the test ends."""
    log = tmp_path / "log"
    with log.open("wb") as file:
        child = subprocess.Popen(
            [sys.executable, "-m", "agent", "run"],
            env=environment(tmp_path),
            stderr=file,
            cwd=Path(__file__).parents[2],
        )
    channel = socket.socket(socket.AF_UNIX)
    try:
        while channel.connect_ex(os.fspath(tmp_path / "state" / "agent.sock")):
            assert child.poll() is None, log.read_text()
        channel.close()
        yield tmp_path
        child.send_signal(signal.SIGTERM)
        assert child.wait(READY_MAX_S) == 0, log.read_text()
    finally:
        channel.close()
        child.kill()
        child.wait()


def asked(folder: Path, *words: str) -> Any:
    done = run(folder, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_application_sets_reads_lists_and_takes_back(agent: Path) -> None:
    assert asked(agent, "set", "mode", "[1, 2]")["value"] == [1, 2]
    assert asked(agent, "set", "name", "plain words")["value"] == "plain words"
    assert asked(agent, "get", "mode")["winner"] == "local"
    assert [row["key"] for row in asked(agent, "list")["settings"]] == ["mode", "name"]
    assert asked(agent, "unset", "name")["value"] is None
    assert "mode = [1, 2]  (from local)" in run(agent, "list").stdout.splitlines()
    status = asked(agent, "status")
    assert (status["device"], status["connected"]) == ("lamp-1", False)

    refused = run(agent, "set", "NO", "1")
    assert refused.returncode == REFUSED
    assert refused.stderr.startswith("fieldfare-agent: ")
    assert refused.stderr.count("\n") == 1

    second = run(agent, "run")
    assert second.returncode == STATE
    assert "another agent" in second.stderr


def test_an_agent_that_does_not_run_is_said_with_what_to_do(tmp_path: Path) -> None:
    done = run(tmp_path, "status")

    assert done.returncode == NOT_RUNNING
    assert "fieldfare-agent run" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [(), ("nonsense",), ("get",), ("set", "a"), ("run", "more")])
def test_a_wrong_command_line_is_a_usage_error(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)

    assert ended.value.code == USAGE
    assert "usage" in capsys.readouterr().err


def test_a_wrong_setting_stops_the_start_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = run(tmp_path, "run", broker_port="0")

    assert done.returncode == SETTINGS
    assert "broker_port (FIELDFARE_AGENT_BROKER_PORT)" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_state_folder_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")

    done = run(tmp_path, "run")

    assert done.returncode == STATE
    assert "state_dir" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_database_of_another_program_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    connection = sqlite3.connect(tmp_path / "state" / FILE)
    connection.execute("CREATE TABLE theirs (a)")
    connection.close()

    done = run(tmp_path, "run")

    assert done.returncode == STATE
    assert "another program" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_socket_that_cannot_be_opened_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    done = run(tmp_path, "run", local_socket=str(tmp_path / "file" / "agent.sock"))

    assert EXIT_CODES[done.returncode].startswith("the socket"), done.stderr
    assert "local_socket" in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_are_listed_with_their_meaning_without_any_being_set() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agent", "settings", "--json"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )

    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["device"]["required"]
    assert rows["broker_port"]["default"] == 18830
    assert rows["broker_port"]["environment"] == "FIELDFARE_AGENT_BROKER_PORT"
    assert all(row["meaning"] for row in rows.values())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_names_every_command(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0

    script = capsys.readouterr().out
    assert all(name in script for name in COMMANDS)


def completed(folder: Path, *words: str) -> set[str]:
    """Return what bash offers for the last of these words, with this environment's agent."""
    script = main_output("completion", "bash")
    line = "COMP_WORDS=(fieldfare-agent " + " ".join(f"'{word}'" for word in words) + ")"
    code = f"{script}\n{line}\nCOMP_CWORD={len(words)}\n_fieldfare_agent\n"
    code += 'printf "%s\\n" "${COMPREPLY[@]}"'
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", code],
        env={**environment(folder), "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not done.stderr
    return set(done.stdout.split())


def main_output(*words: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "agent", *words],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    ).stdout


def test_bash_completes_commands_options_and_shells(tmp_path: Path) -> None:
    assert completed(tmp_path, "") == {*COMMANDS, "--settings", "--help"}
    assert completed(tmp_path, "se") == {"set", "settings"}
    assert completed(tmp_path, "status", "--") == {"--json", "--help"}
    assert completed(tmp_path, "completion", "") == {"bash", "zsh", "fish", "--json", "--help"}
    assert completed(tmp_path, "get", "") == {"--json", "--help"}


def test_bash_completes_the_keys_that_a_running_agent_knows(agent: Path) -> None:
    for key in ("mode", "model", "name"):
        asked(agent, "set", key, "1")

    assert completed(agent, "get", "mo") == {"mode", "model"}


FAULTS = {
    "TOML": ("device = ", SETTINGS, "is not TOML"),
    "unknown setting": ('device = "a"\nkolour = 1', SETTINGS, "kolour"),
    "long socket path": (
        f'device = "a"\nlocal_socket = "/{"x" * 120}"',
        SETTINGS,
        "local_socket",
    ),
    "state folder": ('device = "a"\nstate_dir = "/proc/nowhere"', STATE, "set state_dir"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_wrong_in_a_settings_file_is_one_line_and_one_exit_code(
    name: str, tmp_path: Path
) -> None:
    text, code, words = FAULTS[name]
    file = tmp_path / "agent.toml"
    file.write_text(text)
    bare = {n: v for n, v in os.environ.items() if not n.startswith("FIELDFARE_AGENT_")}
    done = subprocess.run(
        [sys.executable, "-m", "agent", "--settings", file, "run"],
        env=bare,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )

    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_database_of_a_newer_agent_stops_the_start_and_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    path = tmp_path / "state" / FILE
    connection = sqlite3.connect(path)
    connection.executescript(f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version=99;")
    connection.close()
    before = path.read_bytes()

    done = run(tmp_path, "run")

    assert done.returncode == STATE
    assert "newer agent" in done.stderr
    assert done.stderr.count("\n") == 1
    assert path.read_bytes() == before


def test_help_names_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])

    said = " ".join(capsys.readouterr().out.split())
    assert all(meaning in said for meaning in EXIT_CODES.values())


async def test_two_agents_do_not_share_a_state_folder_whatever_their_sockets(
    tmp_path: Path,
) -> None:
    with lock_state(tmp_path / "state"):
        done = await asyncio.to_thread(run, tmp_path, "run", local_socket=str(tmp_path / "other"))

    assert done.returncode == STATE
    assert "another agent runs" in done.stderr


def test_it_says_which_version_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])

    assert ended.value.code == 0
    assert capsys.readouterr().out == f"{AGENT_VERSION}\n"


def held(folder: Path) -> list[Any]:
    return list(asked(folder, "inhibitors")["locks"])


def until_held(folder: Path, *owners: str) -> None:
    """Wait until just these hold a lock."""
    while sorted(lock["owner"] for lock in held(folder)) != sorted(owners):
        pass


def start(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "agent", *words],
        env=environment(folder),
        cwd=Path(__file__).parents[2],
        stderr=subprocess.DEVNULL,
    )


def test_a_lock_is_held_while_a_command_runs_whose_exit_code_is_passed_on(agent: Path) -> None:
    listing = (sys.executable, "-m", "agent", "inhibitors", "--json")
    done = run(agent, "inhibit", "--owner", "backup", "--reason", "it runs", "--", *listing)
    assert done.returncode == 0, done.stderr
    (lock,) = json.loads(done.stdout)["locks"]
    assert (lock["owner"], lock["reason"], lock["lease"]) == ("backup", "it runs", False)
    assert lock["uid"] == os.getuid()
    assert held(agent) == []
    failed = run(agent, "inhibit", "--reason", "it runs", "--", "sh", "-c", "exit 7")
    assert failed.returncode == 7


def test_a_holder_that_is_killed_holds_nothing_any_more(agent: Path) -> None:
    holder = start(agent, "inhibit", "--reason", "it runs", "--", "sleep", "30")
    try:
        until_held(agent, "sleep")
    finally:
        holder.kill()
        holder.wait()
    until_held(agent)


def test_a_holder_passes_sigterm_on_and_ends_as_its_command_does(agent: Path) -> None:
    holder = start(agent, "inhibit", "--reason", "it runs", "--", "sleep", "30")
    until_held(agent, "sleep")
    holder.terminate()
    assert holder.wait(READY_MAX_S) == 128 + signal.SIGTERM
    assert held(agent) == []


def test_a_lease_is_held_until_it_is_released(agent: Path) -> None:
    lease = asked(agent, "inhibit", "--owner", "valve", "--reason", "it is open", "--for-s", "600")
    assert lease["lease"]
    assert "valve (it is open), ends in" in run(agent, "inhibitors").stdout
    asked(agent, "release", lease["lock"])
    assert held(agent) == []
    again = run(agent, "release", lease["lock"])
    assert again.returncode == REFUSED
    assert "has ended, or was released" in again.stderr


def test_a_lock_that_is_refused_starts_no_command(agent: Path) -> None:
    words = ("--reason", "x" * 200, "--", "touch", str(agent / "touched"))
    done = run(agent, "inhibit", *words)
    assert done.returncode == REFUSED
    assert '"reason" must be' in done.stderr
    assert not (agent / "touched").exists()


def test_a_command_runs_without_a_lock_where_no_agent_does(tmp_path: Path) -> None:
    done = run(tmp_path, "inhibit", "--reason", "it runs", "--", "sh", "-c", "echo done")
    assert done.stdout == "done\n"
    assert done.returncode == 0
    assert "the lock is not held now: no agent answers" in done.stderr


def test_a_command_that_cannot_be_started_is_said(agent: Path) -> None:
    done = run(agent, "inhibit", "--reason", "it runs", "--", "/nowhere/tool")
    assert done.returncode == 126
    assert "/nowhere/tool cannot be started" in done.stderr
    assert held(agent) == []


def test_a_lock_is_taken_anew_from_an_agent_that_was_restarted(tmp_path: Path) -> None:
    first = start(tmp_path, "run")
    path = tmp_path / "state" / "agent.sock"
    second = holder = None
    try:
        while run(tmp_path, "inhibitors").returncode == NOT_RUNNING:
            assert first.poll() is None
        holder = start(tmp_path, "inhibit", "--reason", "it runs", "--", "sleep", "30")
        until_held(tmp_path, "sleep")
        first.kill()
        first.wait()
        assert path.exists()
        second = start(tmp_path, "run")
        while run(tmp_path, "inhibitors").returncode == NOT_RUNNING:
            assert second.poll() is None
        (lock,) = held(tmp_path)
        assert lock["owner"] == "sleep"
        while (now := held(tmp_path)) and now[0]["ends_in_s"] <= RETURN_S:
            pass
        assert now[0]["lock"] == lock["lock"]  # it came back for it in time
    finally:
        for each in (holder, first, second):
            if each is not None:
                each.kill()
                each.wait()


def test_a_device_with_nothing_to_do_says_so(agent: Path) -> None:
    told = asked(agent, "why")
    assert told["deployments"] == []
    assert "There is nothing to do; this device runs no release." in told["sentences"]
    assert any("not connected" in sentence for sentence in told["sentences"])
    assert run(agent, "why").stdout.splitlines() == told["sentences"]
