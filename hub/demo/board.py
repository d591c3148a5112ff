"""What is seen while the demo runs: a table that moves in a terminal, plain lines elsewhere.

Owns the display. Never decides or waits for anything.
"""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from hub import answers
from hub.cli.outcome import span_text, verdict_text
from hub.demo.cast import CAST

REFRESH_PER_S: Final = 6
SAID_MAX: Final = 6
"""Lines of what happened that stay in view."""


class Board(Protocol):
    """Where the demo tells what happens."""

    def elapsed_s(self) -> float:
        """Return the seconds since the demo began."""
        ...

    def phase(self, title: str) -> None:
        """Something new begins."""
        ...

    def say(self, line: str) -> None:
        """Something happened."""
        ...

    def show(self, report: answers.Report, runs: Mapping[str, str]) -> None:
        """This is what the hub reports, and what really runs."""
        ...


class PlainBoard:
    """One line for each thing that happens or changes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began_mono = time.monotonic()
        self._shown: dict[str, str] = {}

    def elapsed_s(self) -> float:
        """Return the seconds since the demo began."""
        return time.monotonic() - self._began_mono

    def phase(self, title: str) -> None:
        """Print it with its time."""
        self._print(f"== {title}")
        self._shown.clear()

    def say(self, line: str) -> None:
        """Print it with its time."""
        self._print(f"   {line}")

    def show(self, report: answers.Report, runs: Mapping[str, str]) -> None:
        """Print what has changed since it was last shown."""
        for each in report.devices:
            stage = each.stage.value if each.stage is not None else "-"
            line = f"{each.verdict.value} (stage {stage}), runs {runs[each.device]}"
            if self._shown.get(each.device) != line:
                self._shown[each.device] = line
                self._print(f"   {each.device}: {line}")

    def _print(self, line: str) -> None:
        self._console.print(f"[{self.elapsed_s():5.1f} s] {line}", markup=False, soft_wrap=True)

    def __enter__(self) -> Self:
        """Do nothing."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Do nothing."""


class LiveBoard(PlainBoard):
    """A table in the terminal that is drawn anew several times a second."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._title = ""
        self._said: list[str] = []
        self._report: answers.Report | None = None
        self._runs: Mapping[str, str] = {}
        self._spinner = Spinner("dots")
        self._live = Live(
            get_renderable=self._draw,
            console=console,
            refresh_per_second=REFRESH_PER_S,
            transient=True,
        )

    def phase(self, title: str) -> None:
        """Put it on top."""
        self._title = title
        self.say(title)

    def say(self, line: str) -> None:
        """Put it into the last lines."""
        self._said.append(f"[{self.elapsed_s():5.1f} s] {line}")
        del self._said[:-SAID_MAX]

    def show(self, report: answers.Report, runs: Mapping[str, str]) -> None:
        """Put it into the table."""
        self._report, self._runs = report, runs

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._live.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was; what matters is printed afterwards."""
        self._live.stop()

    def _draw(self) -> RenderableType:
        self._spinner.update(text=Text(f" {self._title}  {self.elapsed_s():.0f} s", style="bold"))
        lines = [Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in self._said]
        return Group(self._spinner, Text(), self._table(), Text(), *lines)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("device", "what is done to it", "runs", "verdict", "stage", "Execution Gap"):
            table.add_column(name, no_wrap=name != "what is done to it")
        report = self._report
        found = {each.device: each for each in report.devices} if report is not None else {}
        for part in CAST:
            each = found.get(part.device)
            table.add_row(
                part.device,
                part.done,
                self._runs.get(part.device, "-"),
                verdict_text(each.verdict) if each is not None else "-",
                each.stage.value if each is not None and each.stage is not None else "-",
                span_text(each.execution_gap) if each is not None else "-",
            )
        if report is not None:
            table.title = Text(f"{report.component} {report.version}", style="bold")
            table.title_justify = "left"
        return table
