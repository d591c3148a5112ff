import json
from pathlib import Path

import pytest

from hub.cli import main
from hub.cli.exits import Exit
from hub.mender.writer import write_artifact
from tests.hub.mender.keys import key_pair
from tests.hub.mender.test_artifact import draft

GOOD = ("--component", "app", "--health", "true", "--unmeasured", "a bench", "--unsigned")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "app.mender"
    made = draft(tmp_path, depends={"rootfs-image.version": "os 1"}, depends_groups=())
    write_artifact(file, made, key=key_pair("rsa").private)
    for number in (0, 1):
        (tmp_path / f"public-{number}.pem").write_bytes(key_pair("rsa", number).public)
    return file


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str]:
    code = main(["release", "import", *map(str, words)])
    told = capsys.readouterr()
    return code, told.out + told.err


def test_a_release_is_written_with_all_its_files_and_says_what_it_is(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--depends", "rootfs-image.version=os", "--key", tmp_path / "public-0.pem")
    code, told = run(capsys, file, *GOOD, *words, "--output", tmp_path / "out", "--json")

    assert code == 0, told
    said = json.loads(told)
    assert said["release"] == "app@release-1"
    assert (said["payload_type"], said["signature"]) == ("single-file", "checked")
    manifest = json.loads((tmp_path / "out/app-release-1.json").read_bytes())
    assert manifest["requires"] == {"app": ["release-0"], "os": ["os_1"]}
    assert manifest["health"]["command"] == ["true"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "app-release-1.json",
        *(f"app-release-1.{each['name']}" for each in manifest["artifacts"]),
    }


def test_a_signature_that_nobody_checked_is_said(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--depends", "rootfs-image.version=os", "--output", tmp_path / "out")
    code, told = run(capsys, file, *GOOD, *words)

    assert code == 0
    assert "was not checked: --key" in told


@pytest.mark.parametrize(
    ("words", "why", "code"),
    [
        (("--health", "true"), "give --component NAME", Exit.BAD_RELEASE),
        (("--component", "app"), "give --health COMMAND", Exit.BAD_RELEASE),
        (GOOD, "--depends rootfs-image.version=COMPONENT", Exit.BAD_RELEASE),
        ((*GOOD, "--depends", "os"), "'os' is not KEY=COMPONENT", Exit.USAGE),
        ((*GOOD, "--health", "'"), "No closing quotation", Exit.USAGE),
        ((*GOOD, "--key", "public-1.pem"), "not signed with this key", Exit.BAD_RELEASE),
        ((*GOOD, "--manifest", "missing.toml"), "cannot be read", Exit.BAD_RELEASE),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_written(
    file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    why: str,
    code: int,
) -> None:
    monkeypatch.chdir(tmp_path)

    ended, told = run(capsys, file, *words, "--output", tmp_path / "out")

    assert ended == code
    assert why in told
    assert not (tmp_path / "out").exists()
