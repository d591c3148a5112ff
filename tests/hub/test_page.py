import re
from html.parser import HTMLParser

import pytest

from hub.charts import Axis, funnel_chart, gap_chart, verdict_bar
from hub.outcomes.silence import Verdict
from hub.page import DEVICES_MAX, Cell, Chapter, Figure, Section, by_urgency, render_page
from sync.stages import Stage
from tests.hub.cli.told import SIX, report_of
from tests.hub.outcomes.courses import course, finished, said

VOID = {"meta", "rect", "line", "th", "td", "li"}
"""Elements that need no end, or whose end HTML lets one leave out."""


class Outline(HTMLParser):
    """Checks that elements nest, and gathers what would leave the page or run in it."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.suspect: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"script", "link", "img", "iframe"}:
            self.suspect.append(tag)
        self.suspect += [name for name, _ in attrs if name in {"src", "href", "onload", "onclick"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def outline(page: str) -> Outline:
    found = Outline()
    found.feed(page)
    found.close()
    assert found.open == []
    return found


def test_the_page_is_whole_and_needs_nothing_else() -> None:
    page = render_page([Chapter("", report_of(*SIX), [Figure("6", "registered")])])
    assert outline(page).suspect == []
    assert "http" not in page
    assert "prefers-color-scheme: dark" in page


def test_the_page_says_the_sentence_and_names_every_device_the_urgent_ones_first() -> None:
    found = report_of(*SIX)
    text = " ".join(outline(render_page([Chapter("", found)])).text)
    assert "3 of 6 devices run greenhouse 1.1.0 (proven by a passed health check)" in text
    assert [each.device for each in by_urgency(found)] == ["d6", "d4", "d5", "d1", "d2", "d3"]
    last = text.index("what is known")
    positions = [text.index(f"{each.device} ", last) for each in by_urgency(found)]
    assert positions == sorted(positions)


def test_what_devices_say_cannot_become_part_of_the_page() -> None:
    evil = "<script>alert(1)</script>"
    stages = {Stage.DELIVERED: said(4), Stage.FAILED: said(5, evil, evil)}
    report = report_of(course("d1", stages))
    section = Section(evil, evil, (evil,), ((Cell(evil), Cell(evil, "good")),))
    page = render_page([Chapter(evil, report)], sections=[section], remark=evil)
    assert "script" not in outline(page).suspect


def test_a_page_of_several_moments_has_a_chapter_for_each() -> None:
    early = report_of(course("d1", {Stage.DELIVERED: said(4)}), after_s=5)
    late = report_of(finished("d1"))
    text = outline(render_page([Chapter("Before", early), Chapter("After", late)])).text
    assert text.index("Before") < text.index("After")
    assert any("0 of 1 device run" in line for line in text)
    assert any("1 of 1 device runs" in line for line in text)


def test_a_large_fleet_is_cut_short_and_the_page_says_so() -> None:
    fleet = [finished(f"d{number}") for number in range(DEVICES_MAX + 5)]
    text = " ".join(outline(render_page([Chapter("", report_of(*fleet))])).text)
    assert "and 5 more devices" in text


def test_a_page_without_any_device_is_a_page() -> None:
    text = " ".join(outline(render_page([Chapter("", report_of())])).text)
    assert "was not deployed to any device" in text


def test_the_bar_has_a_part_for_each_verdict_as_wide_as_its_share() -> None:
    drawn = verdict_bar({Verdict.ACKNOWLEDGED: 3, Verdict.SILENT: 1, Verdict.FAILED: 0})
    widths = [
        float(width) for width in re.findall(r'<rect class="v-\w+".*? width="([\d.]+)"', drawn)
    ]
    assert len(widths) == 2
    assert widths[0] > 2.9 * widths[1]


def test_a_span_that_lasts_is_drawn_open_and_one_that_ended_is_not() -> None:
    assert 'still"' in gap_chart(report_of(course("d1")))
    assert 'still"' not in gap_chart(report_of(finished("d1")))


def test_the_funnel_never_shows_the_brokers_word_as_progress() -> None:
    drawn = funnel_chart(report_of(*SIX).funnel)
    assert drawn.count("c-device") == 5
    assert drawn.count('class="hatch"') == 1


@pytest.mark.parametrize("longest_ms", [900, 20_000, 5_000_000, 900_000_000])
def test_an_axis_has_a_handful_of_ticks_within_it(longest_ms: int) -> None:
    axis = Axis(longest_ms, 0.0, 500.0)
    assert len(axis.ticks_ms()) <= 10
    assert all(0 <= axis.at(tick) <= 500 for tick in axis.ticks_ms())


def test_a_fleet_with_seconds_and_weeks_gets_a_logarithmic_axis() -> None:
    axis = Axis(1_209_600_000, 1_000, 500.0)
    assert axis.at(500) == 0
    assert axis.at(1_209_600_000) == pytest.approx(500)
    assert 2 <= len(axis.ticks_ms()) <= 10
    assert axis.at(60_000) > 100
