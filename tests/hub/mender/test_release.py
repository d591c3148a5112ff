import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from firmware_hooks.mender.payload import payload_of
from hub.mender.artifact import read_artifact
from hub.mender.release import MenderRelease, mender_release, version_of
from hub.mender.writer import write_artifact
from hub.release_build import BadRelease
from tests.hub.mender.keys import key_pair
from tests.hub.mender.test_artifact import FILES, SCRIPTS, draft

FIELDS: Final[Mapping[str, Any]] = {"component": "app", "health": {"command": ["true"]}}


def made(folder: Path, fields: Mapping[str, Any] = FIELDS, **more: Any) -> MenderRelease:
    """Return the release of an artifact; its files are gone."""
    options = {name: more.pop(name) for name in ("key", "stands_for") if name in more}
    more = {"depends": {}, "depends_groups": (), **more}
    file = folder / "app.mender"
    write_artifact(file, draft(folder, **more), key=key_pair("rsa").private)
    with mender_release(file, fields, **options) as release:
        for artifact in release.manifest.artifacts:
            content = release.artifacts[artifact.name].read_bytes()
            assert len(content) == artifact.length_bytes
        return release


def test_each_part_of_an_artifact_has_its_place_in_the_release(tmp_path: Path) -> None:
    release = made(tmp_path)
    manifest = release.manifest

    assert (manifest.component, manifest.version) == ("app", "release-1")
    assert manifest.installer == "mender-module"
    assert manifest.compatible == ("beaglebone", "rpi4")
    assert manifest.requires == {"app": ("release-0",)}
    payload = payload_of(manifest)
    assert payload.kind == "single-file"
    assert (payload.artifact_name, payload.artifact_group) == ("release-1", "stable")
    assert (list(payload.files), list(payload.scripts)) == (list(FILES), sorted(SCRIPTS))
    assert [each.name for each in manifest.artifacts] == [
        *("header-info", "type-info", "meta-data", "script-000", "script-001"),
        *("file-000", "file-001", "file-002"),
    ]
    assert release.is_signed


def test_the_same_artifact_gives_the_same_release(tmp_path: Path) -> None:
    assert made(tmp_path).manifest.digest() == made(tmp_path).manifest.digest()


def test_what_runs_scripts_and_reads_files_gets_the_bytes_of_the_artifact(tmp_path: Path) -> None:
    file = tmp_path / "app.mender"
    write_artifact(file, draft(tmp_path, depends={}, depends_groups=()))
    (tmp_path / "plain").mkdir()
    plain = read_artifact(file, tmp_path / "plain")

    with mender_release(file, FIELDS) as release:
        payload = payload_of(release.manifest)
        for name, artifact in payload.files.items():
            assert release.artifacts[artifact].read_bytes() == FILES[name]
        for name, artifact in payload.scripts.items():
            assert release.artifacts[artifact].read_bytes() == SCRIPTS[name]
        for name, text in plain.headers.items():
            assert release.artifacts[name].read_bytes() == text


def test_a_key_is_checked(tmp_path: Path) -> None:
    made(tmp_path, key=key_pair("rsa").public)

    with pytest.raises(BadRelease, match="not signed with this key"):
        made(tmp_path, key=key_pair("rsa", 1).public)


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("1.4.2", "1.4.2"),
        ("release 1.4 (final)", "release_1.4__final_"),
        (".hidden", "hidden"),
        ("\N{GREEK SMALL LETTER PI}-3", "3"),
    ],
)
def test_an_artifact_name_becomes_a_version(tmp_path: Path, name: str, version: str) -> None:
    assert made(tmp_path, artifact_name=name).manifest.version == version


@pytest.mark.parametrize("name", ["x" * 64, "...", "\N{GREEK SMALL LETTER PI}"])
def test_a_name_that_cannot_be_a_version_asks_for_one(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadRelease, match="--version"):
        version_of(name)
    assert made(tmp_path, {**FIELDS, "version": "7"}, artifact_name=name).manifest.version == "7"


def test_what_it_depends_on_is_required_of_the_component_that_stands_for_it(
    tmp_path: Path,
) -> None:
    release = made(
        tmp_path,
        {**FIELDS, "requires": {"radio": ["2.*"]}},
        depends={"rootfs-image.version": ["os 1", "os 2"]},
        stands_for={"rootfs-image.version": "os"},
    )

    assert release.manifest.requires == {
        "radio": ("2.*",),
        "os": ("os_1", "os_2"),
        "app": ("release-0",),
    }


@pytest.mark.parametrize(
    "more",
    [
        {"depends": {"rootfs-image.checksum": "0" * 64}},
        {"depends_groups": ("stable",)},
        {"depends": {"a": "1"}, "stands_for": {"a": "app"}},
    ],
)
def test_what_it_depends_on_is_never_dropped(tmp_path: Path, more: dict[str, Any]) -> None:
    with pytest.raises(BadRelease, match="depends on"):
        made(tmp_path, **more)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"installer": "directory"}, "installer: leave it out"),
        ({"artifacts": []}, "artifacts: leave it out"),
        ({"restart": "sh"}, "restart"),
        ({"component": "App"}, "component"),
        ({"version": "a b"}, "version"),
    ],
)
def test_fields_that_cannot_be_are_named(tmp_path: Path, fields: dict[str, Any], why: str) -> None:
    with pytest.raises(BadRelease, match=why):
        made(tmp_path, {**FIELDS, **fields})


def test_more_files_than_a_release_takes_are_refused_by_their_number(tmp_path: Path) -> None:
    with pytest.raises(BadRelease, match="at most 100"):
        made(tmp_path, files={f"f{at}": b"x" for at in range(96)})


def test_an_artifact_without_files_is_a_release_of_its_headers(tmp_path: Path) -> None:
    release = made(tmp_path, files={}, scripts={}, meta_data=b'{"containers": ["a"]}')

    assert payload_of(release.manifest).files == {}
    assert json.loads(str(release.manifest.parameters["files"])) == []
    assert len(release.manifest.artifacts) == 3


@pytest.mark.parametrize("device_types", [("x" * 64,), tuple(f"d{at}" for at in range(51))])
def test_device_types_that_no_release_can_name_are_refused(
    tmp_path: Path, device_types: tuple[str, ...]
) -> None:
    with pytest.raises(BadRelease, match="compatible"):
        made(tmp_path, device_types=device_types)
