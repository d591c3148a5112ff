"""Where each kind of message travels: building and parsing MQTT topics.

This module owns the topic tree; `sync.documents` owns the rule for ids.
It never talks to a broker.
Its rule: a name becomes part of a topic only after it was checked, so no name can smuggle a
wildcard, a level or a control character into a subscription.

    ff/1/<device>/up         frames from the device to the hub
    ff/1/<device>/down       frames from the hub to the device
    ff/1/<device>/presence   retained birth of the device; its will is published here too
    ff/1/group/<group>       retained frame of a group document
    ff/1/kill/<group>        retained list of what is off for a group, before anything is asked
    ff/1/hub/presence        retained birth of the hub; its will is published here too

Every topic is ASCII and has four levels.
"""

from enum import StrEnum
from typing import Final, NamedTuple

from sync.documents import RESERVED_DEVICE_IDS, BadName, check_id

ROOT: Final = "ff"
VERSION: Final = "1"

TOPIC_MAX_CHARS: Final = 128
"""Longest topic that `parse` looks at; the longest legal one has 77 characters."""

RESERVED_GROUPS: Final = frozenset({"up", "down", "presence"})
"""A group of this name would be heard by the hub's subscriptions to devices (`ff/1/+/up`)."""

_PREFIX: Final = f"{ROOT}/{VERSION}/"

HUB_PRESENCE: Final = f"{_PREFIX}hub/presence"
"""Retained birth of the hub. `EVERY_PRESENCE` matches it as well."""

EVERY_UP: Final = f"{_PREFIX}+/up"
"""Subscription of the hub: what all devices send."""

EVERY_PRESENCE: Final = f"{_PREFIX}+/presence"
"""Subscription of the hub: births and deaths of all devices, and the hub's own."""


class BadTopic(BadName):
    """A topic is none of ours; whoever published it is to blame, and it can be dropped."""


class TopicKind(StrEnum):
    """What a topic carries."""

    UP = "up"
    DOWN = "down"
    PRESENCE = "presence"
    GROUP = "group"
    KILL = "kill"
    HUB_PRESENCE = "hub_presence"


class Topic(NamedTuple):
    """A parsed topic: its kind, and the device or group it belongs to ("" for the hub)."""

    kind: TopicKind
    name: str


def check_device(device: str) -> str:
    """Return the device id unchanged.

    Raises:
        BadName: The id breaks the rule for ids or is a reserved word.
    """
    check_id(device)
    if device in RESERVED_DEVICE_IDS:
        raise BadName(f"{device!r} is a reserved word and cannot name a device")
    return device


def check_group(group: str) -> str:
    """Return the group id unchanged.

    Raises:
        BadName: The id breaks the rule for ids or is a reserved word.
    """
    check_id(group)
    if group in RESERVED_GROUPS:
        raise BadName(f"{group!r} is a reserved word and cannot name a group")
    return group


def up_topic(device: str) -> str:
    """Return the topic of the device's frames to the hub."""
    return f"{_PREFIX}{check_device(device)}/up"


def down_topic(device: str) -> str:
    """Return the topic of the hub's frames to the device."""
    return f"{_PREFIX}{check_device(device)}/down"


def presence_topic(device: str) -> str:
    """Return the topic of the device's retained birth and of its will."""
    return f"{_PREFIX}{check_device(device)}/presence"


def group_topic(group: str) -> str:
    """Return the topic of the retained frame of a group document."""
    return f"{_PREFIX}group/{check_group(group)}"


def kill_topic(group: str) -> str:
    """Return the topic of the retained list of kill orders of a group."""
    return f"{_PREFIX}kill/{check_group(group)}"


# Only these three follow a device id; anything else there is not ours.
_DEVICE_LEAVES: Final = {
    "up": TopicKind.UP,
    "down": TopicKind.DOWN,
    "presence": TopicKind.PRESENCE,
}


def parse_topic(topic: str) -> Topic:
    """Tell what a topic carries and whose it is.

    Raises:
        BadTopic: The topic is none of the six forms. The sender is to blame.
        BadName: It has the right form, but the id in it is not valid. The sender is to blame.
    """
    if topic == HUB_PRESENCE:
        return Topic(TopicKind.HUB_PRESENCE, "")
    if len(topic) > TOPIC_MAX_CHARS or not topic.startswith(_PREFIX):
        raise BadTopic(f"{topic[:TOPIC_MAX_CHARS]!r} is not a topic below {_PREFIX}")
    middle, _, leaf = topic[len(_PREFIX) :].partition("/")
    if middle == "group":
        return Topic(TopicKind.GROUP, check_group(leaf))
    if middle == "kill":
        return Topic(TopicKind.KILL, check_group(leaf))
    kind = _DEVICE_LEAVES.get(leaf)
    if kind is None:
        raise BadTopic(f"{topic!r} does not end in up, down or presence")
    return Topic(kind, check_device(middle))
