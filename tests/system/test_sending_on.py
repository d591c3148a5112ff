"""A real hub that is killed between what happens and telling it."""

import base64
import json
import os
from pathlib import Path

import pytest

from hub.export.events import secret_of, signature
from tests.fakes.receiver import Receiver, receiving
from tests.hub.export.test_otlp import read
from tests.system.programs import HubProgram, until

pytestmark = [pytest.mark.broker, pytest.mark.timeout(120)]


def subjects(receiver: Receiver) -> list[str]:
    return [json.loads(body)["subject"] for _, body in receiver.got]


async def test_what_was_changed_is_told_though_the_hub_was_killed_before_it_could(
    tmp_path: Path,
) -> None:
    secret = "whsec_" + base64.b64encode(os.urandom(32)).decode()
    file = tmp_path / "webhook.secret"
    file.write_text(secret)
    file.chmod(0o600)
    with receiving() as events, receiving() as collector:
        hub = HubProgram(
            tmp_path,
            None,
            webhook_urls=events.url,
            webhook_secret_file=str(file),
            webhook_look_s="0.1",
            otlp_url=collector.url,
            otlp_every_s="1",
        )
        hub.start()
        try:
            await hub.wait_ready()
            hub.ask("PUT", "/groups/all/settings/mode", {"value": "eco"})
            await until(lambda: "grp/all mode" in subjects(events), hub.tail)
            events.statuses = [503] * 1000
            hub.ask("PUT", "/groups/all/settings/limit", {"value": 3})
            hub.kill()
            events.statuses.clear()
            hub.start()
            await hub.wait_ready()
            await until(lambda: "grp/all limit" in subjects(events), hub.tail)
            await until(lambda: bool(collector.got), hub.tail)
        finally:
            hub.end()

    taken = {json.loads(body)["id"]: json.loads(body) for _, body in events.got}
    assert [each["subject"] for each in taken.values()] == ["grp/all mode", "grp/all limit"]
    for named, body in events.got:
        signed = signature(
            named["webhook-id"], int(named["webhook-timestamp"]), body, secret_of(secret)
        )
        assert named["webhook-signature"] == signed
    assert read(collector.got[-1][1])["fleet.devices", "registered"] == 0
