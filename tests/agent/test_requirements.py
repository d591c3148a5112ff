"""What a device lets in, given what runs on it and what it was told."""

import pytest

from agent.requirements import check_floor, check_way, way_of
from firmware_hooks.contract import InstallerError
from sync.manifest import Artifact, Manifest, PartOf
from sync.stages import Reason
from tests.firmware_hooks.trees import release


def lamp(version: str, **more: object) -> Manifest:
    manifest, _ = release({"VERSION": b"x"}, version=version)
    return Manifest.model_validate(manifest.model_dump() | more)


@pytest.mark.parametrize("floors", [(), ("",), ("1.2",), ("1.2", "1.2-rc1"), ("", "0.9")])
def test_a_release_that_is_not_older_than_the_floor_is_let_in(floors: tuple[str, ...]) -> None:
    check_floor(lamp("1.2"), *floors)


@pytest.mark.parametrize("floors", [("1.2.1",), ("", "1.10"), ("1.0", "2")])
def test_a_release_below_any_floor_is_refused(floors: tuple[str, ...]) -> None:
    with pytest.raises(InstallerError, match=r"lamp 1\.2 is older than") as refused:
        check_floor(lamp("1.2"), *floors)

    assert refused.value.reason == Reason.DOWNGRADE


def test_a_release_that_is_put_in_place_as_the_one_that_runs_is_let_in() -> None:
    check_way(lamp("2"), way_of(lamp("1")))
    check_way(lamp("2"), "")


def test_a_release_that_would_run_beside_the_one_that_runs_is_refused() -> None:
    part = PartOf(name="app", installer="directory").model_dump()
    artifact = Artifact(name="a", sha256="0" * 64, length_bytes=1, part="app").model_dump()
    in_parts = lamp("2", parts=[part], artifacts=[artifact])

    for manifest, runs in (
        (lamp("2", installer="file"), lamp("1")),
        (in_parts, lamp("1")),
        (lamp("2"), in_parts),
    ):
        with pytest.raises(
            InstallerError, match="both would run|another component name"
        ) as refused:
            check_way(manifest, way_of(runs))
        assert refused.value.reason == Reason.INCOMPATIBLE


def test_a_floor_and_parts_change_no_digest_of_a_release_that_has_none() -> None:
    text = lamp("1").canonical()

    assert b"floor" not in text
    assert b"part" not in text
    assert b"checks" not in text
