"""Points sent on by OTLP over HTTP, from time to time.

Owns the sending (opentelemetry-sdk) and its pace. A collector that is away costs nothing but a log
line: what is sent is what is so at that moment, so nothing is kept for later.

Imported only where `otlp_url` is set: the library is an extra, and takes 20 MB of memory.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from hub.export.names import ALL, Kind, Named
from hub.export.points import Point

logger = logging.getLogger(__name__)

SEND_S: Final = 10.0
"""Longest wait for the collector."""


class Otlp:
    """Sends points to one collector. One task runs it."""

    def __init__(
        self,
        points: Callable[[], Awaitable[Iterable[Point]]],
        exporter: MetricExporter,
        *,
        every_s: float,
        resource: Mapping[str, str],
    ) -> None:
        """Send what `points` gives, every `every_s` seconds.

        Args:
            points: The figures of the moment.
            exporter: Where they go.
            every_s: Pause between two sendings.
            resource: What the hub says of itself: `service.name`, `service.version`, ...
        """
        self._points = points
        self._every_s = every_s
        self._held: dict[str, list[Observation]] = {}
        # It never sends by itself: figures are worked out on the event loop, first.
        self._reader = PeriodicExportingMetricReader(exporter, export_interval_millis=math.inf)
        self._provider = MeterProvider(
            [self._reader], Resource(dict(resource)), shutdown_on_exit=False
        )
        meter = self._provider.get_meter("fieldfare")
        for named in ALL:
            make = (
                meter.create_observable_counter
                if named.kind is Kind.COUNTER
                else meter.create_observable_gauge
            )
            make(named.name, [self._observe(named)], unit=named.unit, description=named.help)

    async def run(self) -> None:
        """Send until cancelled."""
        try:
            while True:
                await self.send()
                await asyncio.sleep(self._every_s)
        finally:
            await asyncio.to_thread(self._provider.shutdown, SEND_S * 1000)

    async def send(self) -> None:
        """Send the figures of this moment; whether they arrived, the log says."""
        held: dict[str, list[Observation]] = {}
        for point in await self._points():
            held.setdefault(point.name, []).append(Observation(point.value, dict(point.attributes)))
        self._held = held
        await asyncio.to_thread(self._provider.force_flush, SEND_S * 1000)

    def _observe(self, named: Named) -> Callable[[CallbackOptions], list[Observation]]:
        return lambda _: self._held.get(named.name, [])


def exporter_to(url: str, headers: Mapping[str, str]) -> MetricExporter:
    """Return what sends to a collector; `url` is its whole address, `.../v1/metrics`."""
    return OTLPMetricExporter(url, headers=dict(headers), timeout=SEND_S)
