"""The OpenFeature provider in the real SDK, beside a real agent."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import EventDetails, ProviderEvent
from openfeature.exception import ErrorCode, ProviderNotReadyError
from openfeature.flag_evaluation import Reason

from agent.openfeature import FieldfareProvider
from sync.transport.memory_broker import MemoryBroker
from tests.agent.agents import DEVICE, Device
from tests.agent.test_flags import DAY_S, Shifted, text
from tests.fakes.small_hub import SmallHub
from tests.sync.test_flags import METADATA

PATIENCE_S = 30.0


@pytest.fixture(autouse=True)
def _fresh_sdk() -> Iterator[None]:
    yield
    api.shutdown()
    api.clear_providers()
    api.clear_hooks()


async def plugged(device: Device, **more: Any) -> OpenFeatureClient:
    """Return a client of the SDK with our provider."""
    provider = FieldfareProvider(device.folder / "a.sock", reader="app@1.0.0", **more)
    # Until it is ready the SDK gives defaults, and being ready is another event than a change.
    with contextlib.suppress(ProviderNotReadyError):
        await asyncio.to_thread(api.set_provider_and_wait, provider)
    return api.get_client()


@contextlib.asynccontextmanager
async def following(client: OpenFeatureClient, event: ProviderEvent) -> AsyncIterator[Any]:
    """Give a way to wait until a condition holds, looked at after each event."""
    loop, news = asyncio.get_running_loop(), asyncio.Event()

    def told(_: EventDetails) -> None:
        loop.call_soon_threadsafe(news.set)

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await news.wait()
                news.clear()

    client.add_handler(event, told)
    try:
        yield until
    finally:
        client.remove_handler(event, told)


async def test_flags_are_evaluated_in_the_application_and_the_hub_learns_of_it(
    device: Device, hub: SmallHub
) -> None:
    async with device.up():
        hub.flag("f", text(), clock=3)
        client = await plugged(device)
        async with following(client, ProviderEvent.PROVIDER_CONFIGURATION_CHANGED) as until:
            await until(lambda: client.get_boolean_value("f", default_value=False))
        found = client.get_boolean_details("f", default_value=False)
        assert (found.value, found.variant, found.reason) == (True, "on", Reason.STATIC)
        assert found.flag_metadata["owner"] == "fleet-core"
        await hub.until(lambda: hub.exposure("f") is not None)
        await asyncio.to_thread(api.shutdown)
    told = hub.exposure("f")
    assert told is not None
    assert (told.variant, told.clock, told.reader) == ("on", 3, "app@1.0.0")


async def test_a_kill_order_reaches_the_application_and_stays_when_the_agent_has_gone(
    device: Device, hub: SmallHub
) -> None:
    async with device.up():
        hub.flag("f", text())
        client = await plugged(device)
        async with following(client, ProviderEvent.PROVIDER_CONFIGURATION_CHANGED) as until:
            await until(lambda: client.get_boolean_value("f", default_value=False))
            hub.kill("flag:f", clock=9)
            await until(lambda: not client.get_boolean_value("f", default_value=True))
    found = client.get_boolean_details("f", default_value=True)
    assert (found.value, found.reason) == (False, Reason.DISABLED)
    await asyncio.to_thread(api.shutdown)


async def test_without_an_agent_a_lease_ends_all_the_same(device: Device, hub: SmallHub) -> None:
    clock = Shifted()
    async with device.up():
        hub.flag("f", text())
        client = await plugged(device, clock=clock)
        async with following(client, ProviderEvent.PROVIDER_CONFIGURATION_CHANGED) as until:
            await until(lambda: client.get_boolean_value("f", default_value=False))
    assert client.get_boolean_details("f", default_value=False).reason == Reason.STATIC
    clock.more_s = DAY_S + 60
    found = client.get_boolean_details("f", default_value=True)
    assert (found.value, found.variant, found.reason) == (False, "off", Reason.STALE)
    await asyncio.to_thread(api.shutdown)


async def test_an_application_that_begins_before_the_agent_has_its_defaults_until_it_comes(
    device: Device, hub: SmallHub, broker: MemoryBroker
) -> None:
    client = await plugged(device, ready_s=0.05)
    found = client.get_boolean_details("f", default_value=True)
    assert (found.value, found.error_code) == (True, ErrorCode.PROVIDER_NOT_READY)
    async with device.up():
        hub.flag("f", text(defaultVariant="off"))
        async with following(client, ProviderEvent.PROVIDER_CONFIGURATION_CHANGED) as until:
            await until(lambda: not client.get_boolean_value("f", default_value=True))
        await asyncio.to_thread(api.shutdown)
    assert broker is not None


async def test_every_type_is_read_and_another_one_is_an_error_with_the_default(
    device: Device, hub: SmallHub
) -> None:
    metadata = {**METADATA, "safe": "a"}
    kinds: dict[str, Any] = {"text": "x", "whole": 5, "number": 2.5, "object": {"k": [1]}}
    async with device.up():
        for key, value in kinds.items():
            hub.flag(key, text(variants={"a": value}, defaultVariant="a", metadata=metadata))
        client = await plugged(device)
        async with following(client, ProviderEvent.PROVIDER_CONFIGURATION_CHANGED) as until:
            await until(lambda: client.get_object_value("object", {}) == {"k": [1]})
        assert client.get_string_value("text", "") == "x"
        assert client.get_integer_value("whole", 0) == 5
        assert client.get_float_value("whole", 0.0) == 5.0
        assert client.get_float_value("number", 0.0) == 2.5
        found = client.get_integer_details("text", 7)
        assert (found.value, found.error_code) == (7, ErrorCode.TYPE_MISMATCH)
        absent = client.get_string_details("nobody-defined-it", "mine")
        assert (absent.value, absent.reason) == ("mine", Reason.DEFAULT)
        await asyncio.to_thread(api.shutdown)


async def test_targeting_sees_the_device_and_what_the_application_adds(
    device: Device, hub: SmallHub
) -> None:
    rule = {
        "if": [
            {"and": [{"==": [{"var": "targetingKey"}, DEVICE]}, {"==": [{"var": "mode"}, "n"]}]},
            "on",
            "off",
        ]
    }
    async with device.up():
        hub.flag("f", text(targeting=rule))
        client = await plugged(device)
        night = EvaluationContext("somebody", {"mode": "n"})
        async with following(client, ProviderEvent.PROVIDER_CONFIGURATION_CHANGED) as until:
            await until(
                lambda: client.get_boolean_value("f", default_value=False, evaluation_context=night)
            )
        assert not client.get_boolean_value("f", default_value=True)
        await asyncio.to_thread(api.shutdown)


def test_the_agents_own_process_does_not_import_the_sdk() -> None:
    import subprocess
    import sys

    script = "import sys, agent.daemon, json; print(json.dumps(sorted(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert not {"openfeature", "agent.openfeature"} & set(json.loads(ran.stdout))
