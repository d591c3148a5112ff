import json
from pathlib import Path
from random import Random

import pytest

from hub.audit import HUB, Act, acting
from hub.deployments import Request
from hub.errors import BadSettings
from hub.export import webhooks as shell
from hub.export.events import secret_of, signature
from hub.export.secrets import otlp_headers, webhook_secret
from hub.export.webhooks import Webhooks, after_attempt, retry_s
from hub.settings import Settings
from hub.store import outbox
from hub.store.outbox import Place
from tests.fakes.receiver import Receiver
from tests.hub.core import Core
from tests.hub.web import CoreClock, device_of, operations_of

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def webhooks_of(core: Core, folder: Path, *urls: str, **chosen: object) -> Webhooks:
    settings = Settings(state_dir=folder, webhook_urls=urls, **chosen)  # type: ignore[arg-type]
    made = Webhooks(
        settings=settings,
        database=core.database,
        clock=CoreClock(core),
        source="urn:fieldfare:hub:5",
        secret=secret_of(SECRET),
    )
    core.database.transact(made._begin)
    return made


async def change(core: Core, name: str) -> None:
    """Change something, as an operator does."""
    operations = operations_of(core, core.database.state_dir)
    with acting(HUB):
        await operations.ledger.write(Act("setting.wish", name, {"value": 1}), lambda _: None)


def bodies(receiver: Receiver) -> list[dict[str, object]]:
    return [json.loads(body) for _, body in receiver.got]


async def test_a_change_is_told_signed_and_once(
    core: Core, tmp_path: Path, receiver: Receiver
) -> None:
    hooks = webhooks_of(core, tmp_path, receiver.url)
    await change(core, "before anybody looked")
    await hooks.look()
    await change(core, "mode")
    assert await hooks.look()
    assert not await hooks.look()
    assert await hooks.tell_next(receiver.url) == 0
    assert await hooks.tell_next(receiver.url) > 0

    (event,) = bodies(receiver)
    assert (event["type"], event["subject"]) == ("fieldfare.change.v1", "mode")
    named, body = receiver.got[0]
    signed = signature(
        named["webhook-id"], int(named["webhook-timestamp"]), body, secret_of(SECRET)
    )
    assert named["webhook-signature"] == signed
    assert named["webhook-id"] == event["id"] == "5-1"


async def test_a_receiver_that_fails_is_told_again_in_order_across_a_restart(
    core: Core, tmp_path: Path, receiver: Receiver
) -> None:
    hooks = webhooks_of(core, tmp_path, receiver.url)
    await hooks.look()
    await change(core, "first")
    await change(core, "second")
    await hooks.look()
    receiver.statuses = [500, 302, 503]
    receiver.where = "http://127.0.0.1:1/elsewhere"
    for _ in range(3):
        pause_s = await hooks.tell_next(receiver.url)
        assert 0 < await hooks.tell_next(receiver.url) <= pause_s + 0.001  # not due yet
        core.pass_time(pause_s + 1)
    restarted = webhooks_of(core, tmp_path, receiver.url)
    await restarted.tell_next(receiver.url)
    await restarted.tell_next(receiver.url)

    assert [each["subject"] for each in bodies(receiver)] == ["first"] * 4 + ["second"]
    assert len({each["id"] for each in bodies(receiver)}) == 2


async def test_an_event_that_nobody_takes_is_given_up_and_the_next_is_told(
    core: Core, tmp_path: Path, receiver: Receiver
) -> None:
    hooks = webhooks_of(core, tmp_path, receiver.url, webhook_give_up_s=60)
    await hooks.look()
    await change(core, "first")
    await change(core, "second")
    await hooks.look()
    receiver.statuses = [500] * 3
    while receiver.statuses:
        core.pass_time(await hooks.tell_next(receiver.url) + 40)
    await hooks.tell_next(receiver.url)
    assert bodies(receiver)[-1]["subject"] == "second"
    assert hooks.counters.webhook_lost_count == 1


async def test_a_receiver_that_is_away_costs_the_others_nothing(
    core: Core, tmp_path: Path, receiver: Receiver
) -> None:
    away = "http://127.0.0.1:9/closed"
    hooks = webhooks_of(core, tmp_path, away, receiver.url)
    await hooks.look()
    await change(core, "mode")
    await hooks.look()
    assert await hooks.tell_next(away) > 0
    assert await hooks.tell_next(receiver.url) == 0
    assert len(receiver.got) == 1
    await hooks.look()
    assert core.database.transact(outbox.places)[away].attempts == 1
    assert core.database.transact(lambda db: outbox.after(db, 0)) is not None, "away was not told"


async def test_what_everybody_was_told_goes_and_so_does_what_is_too_much(
    core: Core, tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = webhooks_of(core, tmp_path, receiver.url)
    await hooks.look()
    await change(core, "told")
    await hooks.look()
    await hooks.tell_next(receiver.url)
    await hooks.look()
    assert core.database.transact(lambda db: outbox.after(db, 0)) is None

    monkeypatch.setattr(shell, "KEPT_MAX", 3)
    for n in range(5):
        await change(core, f"n{n}")
    await hooks.look()
    assert hooks.counters.webhook_lost_count == 2
    await hooks.tell_next(receiver.url)
    assert bodies(receiver)[-1]["subject"] == "n2"


async def test_what_a_deployment_comes_to_is_told_when_it_changes(
    core: Core, tmp_path: Path, receiver: Receiver
) -> None:
    hooks = webhooks_of(core, tmp_path, receiver.url)
    await hooks.look()
    device_of(core, "d1")
    operations = operations_of(core, core.database.state_dir)
    core.release("lamp", "1.0.0")
    with acting(HUB):
        accepted = await operations.deploy(Request(release="lamp@1.0.0", devices=["d1"]))
        await hooks.look()
        await operations.cancel(accepted.deployed.id)
    await hooks.look()
    while not await hooks.tell_next(receiver.url):
        pass
    told = [each["data"] for each in bodies(receiver) if "verdicts" in str(each["type"])]
    assert [[change["to"] for change in each["changed"]] for each in told] == [  # type: ignore[index]
        ["too_early"],
        ["cancelled"],
    ]


def test_pauses_grow_to_an_hour_and_no_further() -> None:
    random = Random(1)
    pauses = [max(retry_s(n, random) for _ in range(200)) for n in (1, 3, 6, 12, 10_000)]
    assert pauses == sorted(pauses)
    assert pauses[0] <= 2
    assert 3000 < pauses[-1] <= 3600


@pytest.mark.parametrize(
    ("is_taken", "first_ms", "now_ms", "expected", "gave_up"),
    [
        (True, 5, 10, Place("u", 9, 0, 0, 0), False),
        (False, 0, 10, Place("u", 8, 3, 10, 17), False),
        (False, 5, 104, Place("u", 8, 3, 5, 111), False),
        (False, 5, 105, Place("u", 9, 0, 0, 112), True),
    ],
)
def test_after_an_attempt(
    is_taken: bool, first_ms: int, now_ms: int, expected: Place, gave_up: bool
) -> None:
    before = Place("u", 8, 2, first_ms, 0)
    assert after_attempt(
        before, 9, is_taken=is_taken, now_ms=now_ms, give_up_ms=100, pause_ms=7
    ) == (expected, gave_up)


@pytest.mark.parametrize(
    "url",
    ["ftp://x/", "nowhere", "http://example.com/", "https://ada:secret@example.com/", "https:///x"],
)
def test_an_address_that_would_tell_others_is_refused(url: str, tmp_path: Path) -> None:
    for chosen in ({"webhook_urls": url}, {"otlp_url": url}):
        with pytest.raises(ValueError, match=r"address|clear|password"):
            Settings(state_dir=tmp_path, **chosen)  # type: ignore[arg-type]


def test_a_secret_that_others_may_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET)
    file.chmod(0o644)
    settings = Settings(state_dir=tmp_path, webhook_secret_file=file, otlp_headers_file=file)
    for read in (webhook_secret, otlp_headers):
        with pytest.raises(BadSettings, match="others may read"):
            read(settings)
    file.chmod(0o600)
    assert webhook_secret(settings) == secret_of(SECRET)
    with pytest.raises(BadSettings, match="line 1"):
        otlp_headers(settings)
