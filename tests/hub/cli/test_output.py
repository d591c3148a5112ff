"""Where answers of commands go: a full disk, a pipe that nobody reads, a file that was there."""

import subprocess
import sys
from pathlib import Path

import pytest

from hub.cli import main
from hub.cli.exits import CommandFailed, Exit
from hub.cli.files import save

PROGRAMS = [["hub.cli", "completion", "bash"], ["agent", "settings"]]


@pytest.mark.parametrize("words", PROGRAMS, ids=lambda words: str(words[0]))
def test_an_answer_that_does_not_fit_the_disk_is_one_line_and_no_traceback(
    words: list[str],
) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", *words], stdout=full, stderr=subprocess.PIPE, check=False
        )

    assert done.returncode in (Exit.FILE, 10)
    (line,) = done.stderr.decode().splitlines()
    assert "the answer cannot be written: No space left on device" in line


@pytest.mark.parametrize("words", PROGRAMS, ids=lambda words: str(words[0]))
def test_whoever_stops_reading_has_seen_enough(words: list[str]) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.close()
    assert child.stderr is not None
    with child.stderr:
        assert child.stderr.read() == b""
    assert child.wait() == Exit.OK


@pytest.mark.parametrize("words", PROGRAMS, ids=lambda words: str(words[0]))
def test_a_command_whose_output_is_closed_does_its_work(words: list[str]) -> None:
    shell = ["sh", "-c", '"$0" -m "$@" >&- 2>&-', sys.executable, *words]
    assert subprocess.run(shell, check=False).returncode == Exit.OK


def test_a_file_stays_as_it_was_until_the_new_one_is_whole(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    save(page, "old")
    (tmp_path / ".page.html.part").mkdir()  # nothing can be written there

    with pytest.raises(CommandFailed, match="cannot be written") as failed:
        save(page, "new")

    assert failed.value.code == Exit.FILE
    assert page.read_text() == "old"
    (tmp_path / ".page.html.part").rmdir()
    save(page, "new")
    assert page.read_text() == "new"
    assert list(tmp_path.iterdir()) == [page]


def test_without_the_hubs_libraries_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "hub.cli.root", raising=False)
    monkeypatch.setitem(sys.modules, "click", None)

    assert main(["status"]) == Exit.NOT_INSTALLED
    assert "install fieldfare[hub]" in capsys.readouterr().err
