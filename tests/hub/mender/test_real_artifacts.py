"""Files that ours wrote and `mender-artifact` reads, and the other way round."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from hub.mender.artifact import read_artifact
from hub.mender.packing import Compression
from hub.mender.writer import write_artifact
from tests.hub.mender.keys import key_pair
from tests.hub.mender.test_artifact import FILES, SCRIPTS, draft

MENDER_ARTIFACT: Final = shutil.which("mender-artifact")

pytestmark = pytest.mark.skipif(MENDER_ARTIFACT is None, reason="mender-artifact is not installed")


def mender_artifact(*words: str) -> str:
    assert MENDER_ARTIFACT is not None
    done = subprocess.run([MENDER_ARTIFACT, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# zstd came to mender-artifact after the version that Debian has.
@pytest.mark.parametrize("compression", [Compression.NONE, Compression.GZIP, Compression.XZ])
@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_what_ours_wrote_is_valid_to_the_real_tool(
    tmp_path: Path, compression: Compression, kind: str
) -> None:
    file = tmp_path / "ours.mender"
    (tmp_path / "public.pem").write_bytes(key_pair(kind).public)
    write_artifact(file, draft(tmp_path), compression=compression, key=key_pair(kind).private)

    said = mender_artifact("validate", "-k", f"{tmp_path}/public.pem", str(file))
    assert "validated successfully" in said
    shown = mender_artifact("read", str(file))
    for word in ("release-1", "single-file", "beaglebone", "rpi4", *SCRIPTS, *FILES):
        assert word in shown


@pytest.mark.parametrize("compression", ["none", "gzip", "lzma"])
@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_what_the_real_tool_wrote_is_read_by_ours(
    tmp_path: Path, compression: str, kind: str
) -> None:
    file = tmp_path / "theirs.mender"
    (tmp_path / "private.pem").write_bytes(key_pair(kind).private)
    (tmp_path / "meta.json").write_text('{"a": 1}')
    for name, content in {**FILES, **SCRIPTS}.items():
        (tmp_path / name).write_bytes(content)
    words = ["write", "module-image", "--compression", compression, "-o", str(file)]
    words += ["-T", "single-file", "-n", "release-1", "-t", "beaglebone", "-t", "rpi4"]
    words += ["-k", f"{tmp_path}/private.pem", "-m", f"{tmp_path}/meta.json"]
    words += ["-p", "app.flavour:plain", "-d", "rootfs-image.version:base-1"]
    words += ["-N", "release-0", "-G", "stable", "-g", "stable"]
    words += [word for name in FILES for word in ("-f", f"{tmp_path}/{name}")]
    words += [word for name in SCRIPTS for word in ("-s", f"{tmp_path}/{name}")]
    mender_artifact(*words)
    into = tmp_path / "unpacked"
    into.mkdir()

    found = read_artifact(file, into, key=key_pair(kind).public)

    assert found.is_signed
    assert {name: path.read_bytes() for name, path in found.files.items()} == FILES
    assert found.scripts == SCRIPTS
    assert found.headers["meta-data"] == b'{"a":1}'
    assert found.info.artifact_provides.artifact_name == "release-1"
    assert found.info.artifact_provides.artifact_group == "stable"
    assert found.info.artifact_depends.artifact_name == ["release-0"]
    assert found.info.artifact_depends.artifact_group == ["stable"]
    assert found.info.artifact_depends.device_type == ["beaglebone", "rpi4"]
    assert found.type_info.artifact_provides is not None
    assert found.type_info.artifact_provides["app.flavour"] == "plain"
    assert found.type_info.artifact_depends == {"rootfs-image.version": "base-1"}


def test_a_root_file_system_that_the_real_tool_packed_is_read_by_ours(tmp_path: Path) -> None:
    (tmp_path / "image.ext4").write_bytes(bytes(range(256)) * 4096)
    file = tmp_path / "rootfs.mender"
    words = ["write", "rootfs-image", "-f", f"{tmp_path}/image.ext4", "-n", "os-1", "-t", "rpi4"]
    mender_artifact(*words, "-o", str(file))
    into = tmp_path / "unpacked"
    into.mkdir()

    found = read_artifact(file, into)

    assert found.kind == "rootfs-image"
    assert [path.read_bytes() for path in found.files.values()] == [bytes(range(256)) * 4096]
