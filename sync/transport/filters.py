"""What MQTT allows as a topic and as a topic filter, and which topics a filter matches.

Pure functions; MQTT 3.1.1 (OASIS, 2014), section 4.7.
"""

from sync.transport.port import Link

TOPIC_MAX_BYTES = 65_535
"""Longest topic or filter that MQTT can express (section 1.5.3)."""


def check_message(link: Link, topic: str, payload: bytes, qos: int) -> bytes:
    """Return the topic as bytes if the message can be published.

    Raises:
        ValueError: It cannot, ever; the caller is to blame.
    """
    encoded = topic.encode()
    if not encoded or len(encoded) > TOPIC_MAX_BYTES:
        raise ValueError(f"a topic has 1 to {TOPIC_MAX_BYTES} bytes, not {len(encoded)}")
    if b"+" in encoded or b"#" in encoded or b"\0" in encoded:
        raise ValueError(f"a topic to publish on has no wildcard and no NUL: {topic[:80]!r}")
    if len(payload) > link.payload_max_bytes:
        raise ValueError(
            f"a payload of {len(payload)} bytes for {topic[:80]} is above payload_max_bytes "
            f"({link.payload_max_bytes})"
        )
    if qos not in (0, 1):
        raise ValueError(f"qos must be 0 or 1, not {qos}")
    return encoded


def check_filter(topic_filter: str, qos: int) -> None:
    """Accept a topic filter.

    Raises:
        ValueError: MQTT has no such filter; the caller is to blame.
    """
    if not 1 <= len(topic_filter.encode()) <= TOPIC_MAX_BYTES or "\0" in topic_filter:
        raise ValueError(f"a topic filter has 1 to {TOPIC_MAX_BYTES} bytes and no NUL")
    levels = topic_filter.split("/")
    misplaced = any(len(level) > 1 and ("+" in level or "#" in level) for level in levels)
    if misplaced or "#" in levels[:-1]:
        raise ValueError(f"a wildcard stands alone in its level, # in the last: {topic_filter!r}")
    if qos not in (0, 1):
        raise ValueError(f"qos must be 0 or 1, not {qos}")


def matches(topic_filter: str, topic: str) -> bool:
    """Tell whether a message on `topic` goes to a subscription to `topic_filter`."""
    filter_levels = topic_filter.split("/")
    topic_levels = topic.split("/")
    if topic.startswith("$") and filter_levels[0] in ("+", "#"):
        return False
    for at, level in enumerate(filter_levels):
        if level == "#":
            return True
        if at == len(topic_levels) or level not in ("+", topic_levels[at]):
            return False
    return len(filter_levels) == len(topic_levels)
