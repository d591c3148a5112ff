import json

from agent.facts import AGENT_VERSION, facts, news
from agent.settings import Settings
from sync.records import Fact, decode_as

BOOT = b"boot-1"


def settings(**more: object) -> Settings:
    return Settings.model_validate({"device": "lamp-1", **more})


def told(values: dict[str, bytes]) -> dict[str, object]:
    return {key: json.loads(decode_as(Fact, key, value).value) for key, value in values.items()}


def test_a_device_says_what_it_is() -> None:
    found = facts(settings(device_class="pump", labels={"site": "s7"}), BOOT, ())

    assert told(found) == {
        "s/class": "pump",
        "s/labels": {"site": "s7", "class": "pump"},
        "s/groups": ["all"],
        "s/agent": AGENT_VERSION,
        "s/boot": BOOT.hex(),
        "s/damaged": [],
    }


def test_what_is_known_already_is_not_said_again() -> None:
    found = facts(settings(), BOOT, ())
    assert news(found, found) == {}


def test_what_has_changed_is_said() -> None:
    known = facts(settings(), BOOT, ())
    changed = facts(settings(labels={"site": "s8"}), BOOT, ())
    assert set(news(changed, known)) == {"s/labels"}


def test_that_nothing_is_damaged_is_said_only_after_something_was() -> None:
    sound, damaged = facts(settings(), BOOT, ()), facts(settings(), BOOT, ("agent.db.damaged-1",))
    assert "s/damaged" not in news(sound, {})
    assert "s/damaged" in news(damaged, {})
    assert "s/damaged" in news(sound, damaged)


def test_the_longest_labels_and_groups_that_settings_allow_fit_their_records() -> None:
    labels = {f"l{number}": "x" * 35 for number in range(20)}
    groups = [f"g{number}" + "x" * 20 for number in range(32)]
    found = facts(settings(labels=labels, groups=groups), BOOT, ())
    assert told(found)["s/groups"] == groups
