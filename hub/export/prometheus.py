"""Points as Prometheus reads them.

Owns the text (exposition format 0.0.4, by prometheus-client). Knows nothing of what they mean.
"""

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hub.export.names import BY_NAME, Kind, Named, label
from hub.export.points import Point

CONTENT_TYPE: Final = "text/plain; version=0.0.4"
"""The web framework adds `charset=utf-8`, which the format asks for."""


class _Given(Collector):
    """Hands over what it was given."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def exposition(points: Iterable[Point]) -> bytes:
    """Return the points as Prometheus scrapes them."""
    families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
    for point in points:
        family = families.get(point.name)
        if family is None:
            family = families[point.name] = _family(BY_NAME[point.name])
        family.add_metric([value for _, value in point.attributes], point.value)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Given(families.values()))
    return generate_latest(registry)


def _family(named: Named) -> GaugeMetricFamily | CounterMetricFamily:
    labels = [label(each) for each in named.attributes]
    kind = CounterMetricFamily if named.kind is Kind.COUNTER else GaugeMetricFamily
    return kind(named.prometheus, named.help, labels=labels)
