import logging
from pathlib import Path

from hub.demo.ground import Program
from hub.shown import INSTEAD, ShownFormatter, shown, shown_all

HARMFUL = "\x1b[2J\u202eabc\nforged"


def test_what_can_be_seen_stays_as_it_is() -> None:
    text = "Gewächshaus 7: 21 °C, 湿度 40 % \N{SEEDLING}"
    assert shown(text) is text
    assert shown("") == ""


def test_what_steers_is_replaced_wherever_it_stands() -> None:
    assert shown(HARMFUL) == f"{INSTEAD}[2J{INSTEAD}abc{INSTEAD}forged"
    answer = {HARMFUL: [HARMFUL, 1, None, {"x": HARMFUL}]}
    clean = shown(HARMFUL)
    assert shown_all(answer) == {clean: [clean, 1, None, {"x": clean}]}


def test_a_log_line_is_one_line_and_a_traceback_keeps_its_own() -> None:
    formatter = ShownFormatter("%(levelname)s %(message)s")
    record = logging.LogRecord("x", logging.ERROR, "", 1, "said %s", (HARMFUL,), None)
    assert formatter.format(record) == f"ERROR said {shown(HARMFUL)}"
    try:
        dict[str, int]()[HARMFUL]
    except KeyError as error:
        record.exc_info = (type(error), error, error.__traceback__)
    record.exc_text = None
    lines = formatter.format(record).split("\n")
    assert lines[1] == "Traceback (most recent call last):"
    assert all(line.isprintable() for line in lines)


def test_the_last_words_of_a_demos_program_are_cleaned(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("started\nended \x1b[31mred\u202e\n")
    assert Program("x", [], {}, log).last_words() == f"ended {INSTEAD}[31mred{INSTEAD}"
