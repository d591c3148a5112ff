"""Devices that tell a hub what they measured, with the records that real agents write."""

from collections.abc import Iterable

from sync.documents import CASE, EVENT, Kind
from sync.records import Case, Event, Measure, encode
from sync.series import Series
from sync.sketch import Sketch
from tests.fakes.fleet import FleetDevice
from tests.hub.core import Core

START = b"start1"


class Teller:
    """The telemetry of one device that the hub knows."""

    def __init__(self, core: Core, device: FleetDevice, number: int = 0) -> None:
        self._core = core
        self._device = FleetDevice(device.name, 1000 + number, kind=Kind.TELEMETRY)
        self._device.boot = device.boot
        core.connect(self._device)

    def histogram(self, series: Series, values: Iterable[float], *, start: bytes = START) -> None:
        sketch = Sketch()
        for value in values:
            sketch.add(value)
        self._write(series.key(), sketch.to_record(start, self._device.boot, 1))

    def counter(self, series: Series, total: float, calls: int = 1) -> None:
        self._write(series.key(), Measure("c", START, calls, total))

    def gauge(self, series: Series, value: float) -> None:
        self._write(series.key(), Measure("g", START, 1, value, value, value))

    def event(self, number: int, code: str, *, release: str = "", count: int = 1) -> None:
        event = Event(number, self._device.boot, number, 0, code, "a detail", release, count)
        self._write(f"{EVENT}{number % 64}", event)

    def case(
        self, intent: str, intended: str, reached: str = "", *, by: str = "", release: str = ""
    ) -> None:
        """Tell of a case that ended now."""
        now = self._core.now
        boottime_ms = round(now.mono_s * 1000)
        # The device has heard of the hub just now, and so has the hub of the device.
        self._core.say(
            self._device.name,
            boot=self._device.boot,
            sent_ms=boottime_ms,
            anchor=(now.ms, boottime_ms),
        )
        case = Case(self._device.boot, boottime_ms, now.ms, intended, reached, by, release)
        self._write(f"{CASE}{intent}", case)

    def _write(self, key: str, record: Measure | Event | Case) -> None:
        device = self._device
        self._core.talk(device, device.write({key: encode(record)}, self._core.now.mono_s))
        assert device.is_settled()
