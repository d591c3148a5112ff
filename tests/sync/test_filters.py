"""Topic filters: what MQTT allows, and what they match."""

import pytest

from sync.transport.filters import check_filter, matches


@pytest.mark.parametrize(
    ("topic_filter", "topic", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/c", False),
        ("a/b", "a", False),
        ("a", "a/b", False),
        ("+", "a", True),
        ("+", "a/b", False),
        ("+/+", "/a", True),
        ("/+", "/a", True),
        ("+", "/a", False),
        ("a/+/c", "a/b/c", True),
        ("a/+/c", "a//c", True),
        ("a/+", "a", False),
        ("#", "a/b/c", True),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("a/#", "ab", False),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("$SYS/#", "$SYS/x", True),
    ],
)
def test_matching_follows_section_4_7(topic_filter: str, topic: str, expected: bool) -> None:
    assert matches(topic_filter, topic) is expected


@pytest.mark.parametrize("bad", ["", "a+", "+a", "a/#/b", "a#", "#a", "a\0", "x" * 65_536])
def test_a_filter_that_mqtt_does_not_know_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match=r"filter|wildcard"):
        check_filter(bad, 1)


def test_qos_2_is_never_asked_for() -> None:
    with pytest.raises(ValueError, match="qos"):
        check_filter("a", 2)
