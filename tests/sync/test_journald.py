"""Log lines as systemd's journal takes them."""

import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sync.journald import ENTRY_BYTES_MAX, entry, is_stream_of
from sync.transport.journal import JournalHandler, writes_to_journal
from sync.transport.notify import status, watchdog_s


def fields_in(datagram: bytes) -> dict[str, str]:
    """Read the native protocol as the journal does."""
    found: dict[str, str] = {}
    while datagram:
        line, _, rest = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if equals:
            found[name.decode()], datagram = value.decode(), rest
            continue
        length = int.from_bytes(rest[:8], "little")
        found[name.decode()] = rest[8 : 8 + length].decode()
        assert rest[8 + length : 9 + length] == b"\n"
        datagram = rest[9 + length :]
    return found


def told(message: str = "install", /, **fields: object) -> dict[str, str]:
    made = entry(
        message, level=logging.WARNING, program="fieldfare-agent", logger="agent.x", fields=fields
    )
    return fields_in(made)


def test_a_line_has_its_fields_and_syslogs_priority() -> None:
    assert told(deployment="d1", state="trial", again_s=3.5) == {
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "fieldfare-agent",
        "LOGGER": "agent.x",
        "MESSAGE": "install",
        "FIELDFARE_DEPLOYMENT": "d1",
        "FIELDFARE_STATE": "trial",
        "FIELDFARE_AGAIN_S": "3.5",
    }


def test_a_value_of_several_lines_cannot_become_fields_of_its_own() -> None:
    found = told("one\nPRIORITY=0\n", detail="a\nMESSAGE=forged")
    assert found["PRIORITY"] == "4"
    assert found["MESSAGE"] == "one\nPRIORITY=0\n"
    assert found["FIELDFARE_DETAIL"] == "a\nMESSAGE=forged"


def test_a_name_that_the_journal_would_refuse_is_made_one_that_it_takes() -> None:
    assert set(told("x", **{"odd name=x": 1})) >= {"FIELDFARE_ODD_NAME_X"}


def test_what_is_too_long_is_left_out_and_the_rest_is_told() -> None:
    found = told(long="x" * ENTRY_BYTES_MAX, short="y")
    assert "FIELDFARE_LONG" not in found
    assert found["FIELDFARE_SHORT"] == "y"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "journal"))
        listening.settimeout(10)
        yield listening


def test_lines_go_to_the_journal_and_to_standard_error_where_there_is_none(
    journal: socket.socket, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    handler = JournalHandler("fieldfare-agent", lambda _: {"event": "e"}, str(tmp_path / "journal"))
    record = logging.LogRecord("agent.x", logging.ERROR, "", 0, "it happened", None, None)
    handler.emit(record)
    found = fields_in(journal.recv(ENTRY_BYTES_MAX))
    assert (found["MESSAGE"], found["PRIORITY"]) == ("it happened", "3")
    assert found["FIELDFARE_EVENT"] == "e"
    (tmp_path / "journal").unlink()
    handler.emit(record)
    handler.close()
    assert capfd.readouterr().err == "it happened\n"


def test_only_a_standard_error_that_is_the_journal_is_taken_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with (tmp_path / "err").open("w") as file:
        monkeypatch.setattr(sys, "stderr", file)
        there = os.fstat(file.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{there.st_dev}:{there.st_ino}")
        assert writes_to_journal()
        monkeypatch.setenv("JOURNAL_STREAM", f"{there.st_dev}:{there.st_ino + 1}")
        assert not writes_to_journal()
        monkeypatch.delenv("JOURNAL_STREAM")
        assert not writes_to_journal()
    assert not is_stream_of("", 0, 0)


@pytest.mark.parametrize(
    ("environment", "within_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_that_of_this_process(
    environment: dict[str, str], within_s: float | None
) -> None:
    assert watchdog_s(environment, 7) == within_s


def test_a_status_is_one_line_and_nothing_else() -> None:
    assert status("installing: 40 %\nREADY=1") == "STATUS=installing: 40 % READY=1"
