import json
import logging
from collections.abc import Iterator

import pytest

from agent.log import say, start_log
from sync.stages import Stage

logger = logging.getLogger("agent.test")


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)


def test_a_line_of_text_is_the_event_and_its_fields(capfd: pytest.CaptureFixture[str]) -> None:
    start_log(as_json=False)

    say(logger, "stage", deployment="d1", stage=Stage.ROLLED_BACK, reason="", count=3)

    assert capfd.readouterr().err == (
        "info agent.test stage deployment=d1 stage=rolled_back count=3\n"
    )


@pytest.mark.parametrize("text", ["two words", 'a "quote"', "a=b", "line\nbreak", "\x1b[31mred"])
def test_what_could_be_taken_for_something_else_is_quoted(
    text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    start_log(as_json=False)

    say(logger, "event", detail=text)

    (line,) = capfd.readouterr().err.splitlines()
    assert line == f"info agent.test event detail={json.dumps(text)}"


def test_a_line_of_json_has_a_member_for_each_field(capfd: pytest.CaptureFixture[str]) -> None:
    start_log(as_json=True)

    say(logger, "stage", level=logging.WARNING, stage=Stage.HEALTHY, error=ValueError("no"))

    line = json.loads(capfd.readouterr().err)
    assert line.pop("at").endswith("Z")
    assert line == {
        "level": "warning",
        "from": "agent.test",
        "event": "stage",
        "stage": "healthy",
        "error": "no",
    }


@pytest.mark.parametrize("as_json", [False, True])
def test_where_it_went_wrong_is_part_of_the_line(
    as_json: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    start_log(as_json=as_json)
    try:
        int("no")
    except ValueError:
        logger.exception("request_failed")

    said = capfd.readouterr().err
    assert "request_failed" in said
    assert "ValueError: invalid literal" in said


def test_messages_of_libraries_are_lines_as_well(capfd: pytest.CaptureFixture[str]) -> None:
    start_log(as_json=False)

    logging.getLogger("library").warning("lost %s", "it")

    assert capfd.readouterr().err == "warning library lost it\n"
