"""Topics: what is built can be parsed, and nothing else can."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.documents import BadName
from sync.topics import (
    EVERY_PRESENCE,
    EVERY_UP,
    HUB_PRESENCE,
    RESERVED_GROUPS,
    BadTopic,
    Topic,
    TopicKind,
    down_topic,
    group_topic,
    kill_topic,
    parse_topic,
    presence_topic,
    up_topic,
)
from sync.transport.filters import matches

IDS = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
DEVICES = IDS.filter(lambda text: text not in {"group", "hub", "kill"})
GROUPS = IDS.filter(lambda text: text not in RESERVED_GROUPS)

BAD_IDS = [
    "",
    "-a",
    "a" * 64,
    "Pump",
    "a/b",
    "+",
    "#",
    "a\n",
    "a\0",
    "é",
    "a_b",
    "a b",
    "٣",
]


@given(device=DEVICES)
def test_a_device_topic_says_what_it_carries_and_whose_it_is(device: str) -> None:
    assert parse_topic(up_topic(device)) == Topic(TopicKind.UP, device)
    assert parse_topic(down_topic(device)) == Topic(TopicKind.DOWN, device)
    assert parse_topic(presence_topic(device)) == Topic(TopicKind.PRESENCE, device)


@given(group=GROUPS)
def test_a_group_topic_names_its_group(group: str) -> None:
    assert parse_topic(group_topic(group)) == Topic(TopicKind.GROUP, group)
    assert parse_topic(kill_topic(group)) == Topic(TopicKind.KILL, group)


def test_the_hub_has_a_presence_of_its_own() -> None:
    assert parse_topic(HUB_PRESENCE) == Topic(TopicKind.HUB_PRESENCE, "")


@given(device=DEVICES, group=GROUPS)
def test_the_hub_hears_devices_and_no_group_and_no_command(device: str, group: str) -> None:
    assert matches(EVERY_UP, up_topic(device))
    assert matches(EVERY_PRESENCE, presence_topic(device))
    for quiet in (down_topic(device), group_topic(group), kill_topic(group)):
        assert not matches(EVERY_UP, quiet)
        assert not matches(EVERY_PRESENCE, quiet)


@pytest.mark.parametrize("bad", [*BAD_IDS, "group", "hub", "kill"])
def test_no_topic_is_built_for_a_bad_device_id(bad: str) -> None:
    for build in (up_topic, down_topic, presence_topic):
        with pytest.raises(BadName):
            build(bad)


@pytest.mark.parametrize("bad", [*BAD_IDS, "up", "down", "presence"])
def test_no_topic_is_built_for_a_bad_group_id(bad: str) -> None:
    with pytest.raises(BadName):
        group_topic(bad)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "ff",
        "ff/1",
        "ff/1/pump",
        "ff/1/pump/",
        "ff/1//up",
        "ff/1/pump/up/",
        "ff/1/pump/up/x",
        "/ff/1/pump/up",
        "ff/2/pump/up",
        "gg/1/pump/up",
        "ff/1/pump/UP",
        "ff/1/pump/side",
        "ff/1/hub/up",
        "ff/1/hub/down",
        "ff/1/kill/up",
        "ff/1/group/up",
        "ff/1/group/",
        "ff/1/group/a/b",
        "ff/1/+/up",
        "ff/1/pump\n/up",
        "ff/1/pump/up\n",
        "ff/1/" + "a" * 64 + "/up",
        "ff/1/" + "a" * 70_000 + "/up",
    ],
)
def test_any_other_topic_is_refused(topic: str) -> None:
    with pytest.raises(BadName) as refusal:
        parse_topic(topic)

    assert len(str(refusal.value)) < 300


@given(st.text(max_size=200))
def test_parsing_never_fails_in_another_way(text: str) -> None:
    try:
        parsed = parse_topic(text)
    except BadName:
        return
    assert parsed.name in text


def test_a_bad_topic_is_a_bad_name() -> None:
    assert issubclass(BadTopic, BadName)
    assert issubclass(BadName, ValueError)
