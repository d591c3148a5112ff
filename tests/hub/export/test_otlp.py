from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from hub.export.otlp import Otlp, exporter_to
from hub.export.points import Point
from tests.fakes.receiver import Receiver


def read(body: bytes) -> dict[tuple[str, ...], float]:
    """Return values by name and attributes, as a collector reads them."""
    message = ExportMetricsServiceRequest.FromString(body)
    found = {}
    for resource in message.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                kind = metric.sum if metric.HasField("sum") else metric.gauge
                for point in kind.data_points:
                    attributes = [each.value.string_value for each in point.attributes]
                    found[metric.name, *attributes] = point.as_double or float(point.as_int)
    return found


async def test_a_collector_gets_the_figures_of_the_moment_under_their_names(
    receiver: Receiver,
) -> None:
    held = [Point("fleet.devices", (("fleet.state", "active"),), 7.0)]

    async def now() -> list[Point]:
        return held

    exporter = exporter_to(receiver.url, {"authorization": "Bearer x"})
    otlp = Otlp(now, exporter, every_s=60, resource={"service.name": "fieldfare-hub"})
    await otlp.send()
    held[0] = Point("fleet.devices", (("fleet.state", "active"),), 5.0)
    await otlp.send()

    assert [read(body) for _, body in receiver.got] == [
        {("fleet.devices", "active"): 7.0},
        {("fleet.devices", "active"): 5.0},
    ]
    named, body = receiver.got[0]
    assert named["content-type"] == "application/x-protobuf"
    assert named["authorization"] == "Bearer x"
    resource = ExportMetricsServiceRequest.FromString(body).resource_metrics[0].resource
    assert ("service.name", "fieldfare-hub") in {
        (each.key, each.value.string_value) for each in resource.attributes
    }


async def test_a_collector_that_refuses_is_sent_the_next_figures_all_the_same(
    receiver: Receiver,
) -> None:
    receiver.statuses = [400]

    async def now() -> list[Point]:
        return [Point("fleet.state_conflicts", (), 2.0)]

    otlp = Otlp(now, exporter_to(receiver.url, {}), every_s=60, resource={})
    await otlp.send()
    await otlp.send()
    assert [read(body) for _, body in receiver.got] == [{("fleet.state_conflicts",): 2.0}] * 2
