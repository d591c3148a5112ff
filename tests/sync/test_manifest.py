import hashlib
import json
from copy import deepcopy
from typing import Any

import pytest

from sync.manifest import (
    MANIFEST_BYTES_MAX,
    STEADY_S,
    BadManifest,
    Manifest,
    manifest_from,
    parse_manifest,
)

FIELDS: dict[str, Any] = {
    "component": "pump-app",
    "version": "1.2.0",
    "artifacts": [{"name": "app.tar", "sha256": "0" * 64, "length_bytes": 10}],
    "health": {"command": ["./check"]},
}


def fields(path: str = "", value: object = None) -> dict[str, Any]:
    """Return good fields with the one at `path` replaced, or left out for `...`."""
    result = deepcopy(FIELDS)
    part: Any = result
    *steps, last = path.split(".") if path else [""]
    for step in steps:
        part = part[int(step) if step.isdigit() else step]
    if value is ...:
        del part[last]
    elif last:
        part[last] = value
    return result


def test_what_is_left_out_has_a_default() -> None:
    manifest = manifest_from(FIELDS)
    assert manifest.installer == "directory"
    assert manifest.restart is None
    assert manifest.health.deadline_s == 60


def test_the_identity_of_a_release_does_not_depend_on_how_its_manifest_was_written() -> None:
    shuffled = dict(reversed(FIELDS.items()))
    loose = json.dumps(shuffled, indent=4).encode()
    manifest = parse_manifest(loose)
    assert manifest == manifest_from(FIELDS)
    assert manifest.digest() == manifest_from(FIELDS).digest()
    assert parse_manifest(manifest.canonical(), digest=manifest.digest()) == manifest


def test_any_other_content_is_another_release() -> None:
    digests = {
        manifest_from(each).digest()
        for each in (FIELDS, fields("version", "1.2.1"), fields("notes", "\u00e9"))
    }
    assert len(digests) == 3


def test_a_manifest_with_another_digest_than_deployed_is_refused() -> None:
    text = manifest_from(FIELDS).canonical()
    with pytest.raises(BadManifest, match="digest differs"):
        parse_manifest(text + b" ", digest=hashlib.sha256(text).digest())


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("component", ..., "component"),
        ("component", "Pump", "component"),
        ("component", "a\n", "component"),
        ("component", "", "component"),
        ("version", "1 2", "version"),
        ("version", "../1", "version"),
        ("version", "1" * 64, "version"),
        ("format", 2, "format"),
        ("colour", "red", "colour"),
        ("health", ..., "health"),
        ("health.command", [], "health.command"),
        ("health.command", [""], "health.command.0"),
        ("health.command", "./check", "health.command"),
        ("health.deadline_s", 0, "health.deadline_s"),
        ("health.deadline_s", float("nan"), "health.deadline_s"),
        ("health.pause_s", 0, "health.pause_s"),
        ("restart_s", 601, "restart_s"),
        ("artifacts", [], "artifacts"),
        ("artifacts.0.name", "../app", "artifacts.0.name"),
        ("artifacts.0.name", "a/b", "artifacts.0.name"),
        ("artifacts.0.name", ".hidden", "artifacts.0.name"),
        ("artifacts.0.sha256", "0" * 63, "artifacts.0.sha256"),
        ("artifacts.0.sha256", "A" * 64, "artifacts.0.sha256"),
        ("artifacts.0.length_bytes", -1, "artifacts.0.length_bytes"),
        ("artifacts.0.length_bytes", 2**60, "artifacts.0.length_bytes"),
        ("artifacts", FIELDS["artifacts"] * 2, "same name"),
        ("parameters", {"x": [1]}, "parameters.x"),
        ("parameters", {"x": float("nan")}, "JSON"),
        ("parameters", {"x": float("inf")}, "JSON"),
        ("parameters", {"x": "\ud800"}, "JSON"),
        ("parameters", {"x": 10**5000}, "JSON"),
        ("defer_s", 0, "defer_s"),
        ("overdue", "explode", "overdue"),
        ("notes", "\ud800", "notes"),
        ("notes", "x" * 2001, "notes"),
    ],
)
def test_a_bad_field_is_named_in_one_line(path: str, value: object, named: str) -> None:
    with pytest.raises(BadManifest, match=named) as raised:
        manifest_from(fields(path, value))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [b"", b"null", b"[]", b'"x"', b"\xff", b"{", b"[" * 100_000, b"9" * 5000, b'{"a":NaN}'],
)
def test_anything_else_is_no_manifest(text: bytes) -> None:
    with pytest.raises(BadManifest):
        parse_manifest(text)


def test_a_manifest_that_is_too_long_is_not_even_read() -> None:
    with pytest.raises(BadManifest, match="bytes"):
        parse_manifest(b" " * (MANIFEST_BYTES_MAX + 1))


def test_parameters_keep_their_types() -> None:
    given = {"flag": True, "count": 1, "ratio": 1.0, "name": "1"}
    manifest: Manifest = manifest_from(fields("parameters", given))
    again = parse_manifest(manifest.canonical())
    assert [type(value) for value in again.parameters.values()] == [
        type(given[key]) for key in again.parameters
    ]


def test_what_was_released_before_a_field_existed_keeps_its_digest() -> None:
    manifest: Manifest = manifest_from(FIELDS)
    added = {"requires", "forbids", "owner", "outcomes", "unmeasured", "defer_s", "overdue"}
    assert not added & set(json.loads(manifest.canonical()))


@pytest.mark.parametrize(
    ("owner", "outcomes", "is_measured"),
    [("us", ["adoption"], True), ("us", [], False), (" ", ["adoption"], False)],
)
def test_a_release_is_measured_if_it_has_an_owner_and_an_outcome(
    owner: str, outcomes: list[str], is_measured: bool
) -> None:
    manifest: Manifest = manifest_from({**FIELDS, "owner": owner, "outcomes": outcomes})
    assert manifest.is_measured is is_measured
    assert parse_manifest(manifest.canonical()) == manifest


def test_checks_of_every_kind_read_back_as_they_were_written() -> None:
    checks = [
        {"kind": "command", "command": ["true"]},
        {"kind": "http", "url": "http://127.0.0.1:8080/health?deep=1", "status": 204},
        {"kind": "unit", "unit": "pump@1.service"},
        {"kind": "hub", "budget_s": 5},
    ]
    manifest = manifest_from({**FIELDS, "health": {"checks": checks}})

    assert parse_manifest(manifest.canonical()) == manifest


@pytest.mark.parametrize(
    "check",
    [
        {"kind": "http"},
        {"kind": "http", "url": "https://example.org/"},
        {"kind": "unit"},
        {"kind": "unit", "unit": "../x.service"},
        {"kind": "command"},
        {"kind": "hub"},
        {"kind": "ping"},
    ],
)
def test_health_that_proves_nothing_is_refused(check: dict[str, object]) -> None:
    with pytest.raises(BadManifest, match="health"):
        manifest_from({**FIELDS, "health": {"checks": [check]}})


@pytest.mark.parametrize(
    ("health", "steady_s"),
    [
        ({"command": ["true"]}, 0),
        ({"command": ["true"], "steady_s": 5}, 5),
        ({"checks": [{"kind": "unit", "unit": "pump.service"}]}, STEADY_S),
        ({"checks": [{"kind": "unit", "unit": "pump.service"}], "steady_s": 0}, 0),
    ],
)
def test_a_service_has_to_stay_up_for_a_while_unless_the_release_says_otherwise(
    health: dict[str, object], steady_s: float
) -> None:
    manifest: Manifest = manifest_from({**FIELDS, "health": health})

    assert manifest.health.steady_for_s == steady_s
    assert ("steady_s" in json.loads(manifest.canonical())["health"]) is ("steady_s" in health)
    assert parse_manifest(manifest.canonical()) == manifest
