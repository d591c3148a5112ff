import io
import os
import socket
import tarfile
from pathlib import Path

import pytest

from hub.release_build import (
    BadRelease,
    Build,
    build_release,
    pack,
    read_description,
    scan,
)

DESCRIPTION = """
component = "lamp"
version = "1.0.0"
[health]
command = ["{python}", "check.py"]
"""
GREENHOUSE = Path(__file__).parents[2] / "examples" / "greenhouse"


def plant(tree: Path, description: str = DESCRIPTION) -> Path:
    (tree / "bin").mkdir(parents=True)
    (tree / "empty").mkdir()
    (tree / "release.toml").write_text(description)
    (tree / "check.py").write_text("print('ok')\n")
    (tree / "bin" / "lamp").write_text("#!/bin/sh\n")
    (tree / "bin" / "lamp").chmod(0o700)
    (tree / "bin" / "latest").symlink_to("lamp")
    return tree


def names_in(archive: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return {member.name: member for member in opened.getmembers()}


def archive_of(*trees: Path) -> bytes:
    output = io.BytesIO()
    pack(scan(trees, left_out=trees[-1] / "release.toml"), output)
    return output.getvalue()


def test_a_tree_is_packed_with_its_folders_links_and_programs_and_without_its_description(
    tmp_path: Path,
) -> None:
    members = names_in(archive_of(plant(tmp_path / "tree")))

    assert list(members) == ["bin", "bin/lamp", "bin/latest", "check.py", "empty"]
    assert [members[name].mode for name in ("bin/lamp", "check.py")] == [0o755, 0o644]
    assert members["bin/latest"].linkname == "lamp"
    assert {(each.uid, each.gid, each.uname, each.mtime) for each in members.values()} == {
        (0, 0, "", 0)
    }


def test_the_same_tree_gives_the_same_digest_wherever_and_whenever_it_was_made(
    tmp_path: Path,
) -> None:
    first, second = plant(tmp_path / "first"), plant(tmp_path / "deeper" / "second")
    os.utime(second / "check.py", (1, 1))
    (second / "check.py").chmod(0o600)
    (second / "__pycache__").mkdir()
    (second / "__pycache__" / "check.pyc").write_text("left by a run")

    with (
        build_release([first], first / "release.toml") as one,
        build_release([second], second / "release.toml") as other,
    ):
        assert one.digest == other.digest
        assert one.artifact.read_bytes() == other.artifact.read_bytes()


def test_another_byte_another_name_or_another_mode_gives_another_digest(tmp_path: Path) -> None:
    def digest(name: str, change: str) -> str:
        tree = plant(tmp_path / name)
        if change == "byte":
            (tree / "check.py").write_text("print('no')\n")
        elif change == "name":
            (tree / "check.py").rename(tree / "look.py")
        elif change == "mode":
            (tree / "check.py").chmod(0o755)
        with build_release([tree], tree / "release.toml") as build:
            return build.digest

    changes = ["nothing", "byte", "name", "mode"]
    assert len({digest(change, change) for change in changes}) == len(changes)


def test_the_manifest_names_the_artifact_by_its_digest_and_length(tmp_path: Path) -> None:
    tree = plant(tmp_path / "tree")
    with build_release([tree], tree / "release.toml", version="2.0") as build:
        (artifact,) = build.manifest.artifacts
        assert artifact.length_bytes == build.artifact.stat().st_size
        assert build.name == "lamp@2.0"
        kept = build.artifact
    assert not kept.exists()


def test_of_trees_laid_over_each_other_the_later_ones_files_count(tmp_path: Path) -> None:
    common, special = plant(tmp_path / "common"), tmp_path / "special"
    (special / "bin").mkdir(parents=True)
    (special / "check.py").write_text("print('special')\n")
    (special / "bin" / "more").write_text("more")

    members = names_in(archive_of(common, special))

    assert "bin/more" in members
    assert "bin/lamp" in members
    assert members["check.py"].size == len("print('special')\n")


def build_both_greenhouses() -> list[Build]:
    builds = []
    for version in ("1.0.0", "1.1.0"):
        trees = [GREENHOUSE / "common", GREENHOUSE / version]
        with build_release(trees, trees[-1] / "release.toml") as build:
            builds.append(build)
    return builds


def test_both_versions_of_the_example_can_be_built_and_differ() -> None:
    old, new = build_both_greenhouses()
    assert (old.name, new.name) == ("greenhouse@1.0.0", "greenhouse@1.1.0")
    assert old.manifest.artifacts != new.manifest.artifacts


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda tree: (tree / "out").symlink_to("../elsewhere"), "leaves the tree"),
        (lambda tree: (tree / "bin" / "out").symlink_to("../../x"), "leaves the tree"),
        (lambda tree: (tree / "out").symlink_to("/etc/passwd"), "make it relative"),
        (lambda tree: (tree / "out").symlink_to("missing"), "leads to nothing"),
        (lambda tree: os.mkfifo(tree / "pipe"), "neither file, folder nor link"),
        (lambda tree: (tree / "Check.py").write_text(""), "differ in case only"),
        (lambda tree: (tree / "two\nlines").write_text(""), "not printable"),
        (lambda tree: (tree / os.fsdecode(b"\xff")).write_text(""), "not printable"),
    ],
)
def test_what_cannot_travel_is_refused_by_name(tmp_path: Path, spoil: object, fault: str) -> None:
    tree = plant(tmp_path / "tree")
    assert callable(spoil)
    spoil(tree)
    with pytest.raises(BadRelease, match=fault) as caught:
        archive_of(tree)
    assert "\n" not in str(caught.value)


def test_a_socket_in_the_tree_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = plant(tmp_path / "tree")
    monkeypatch.chdir(tree)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("talk.sock")
        with pytest.raises(BadRelease, match=r"talk\.sock is neither"):
            archive_of(tree)


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    tree = plant(tmp_path / "tree")
    entries = scan([tree])
    (tree / "check.py").unlink()
    (tree / "check.py").symlink_to("bin/lamp")
    with pytest.raises(BadRelease, match=r"check\.py cannot be read"):
        pack(entries, io.BytesIO())


def test_a_file_that_changes_while_it_is_packed_is_refused(tmp_path: Path) -> None:
    tree = plant(tmp_path / "tree")
    entries = scan([tree])
    grown = tree / "check.py"

    class Meanwhile(io.BytesIO):
        def write(self, piece: object, /) -> int:
            with grown.open("a") as content:
                content.write("more")
            return super().write(piece)  # type: ignore[arg-type]

    grown.write_bytes(os.urandom(2_000_000))  # more than the compressor keeps to itself
    with pytest.raises(BadRelease, match="changed while it was packed"):
        pack(entries, Meanwhile())


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('component = "Lamp"\nversion = "1"', r"component: "),
        ('component = "lamp"', r"version: is missing"),
        ('component = "lamp"\nversion = "1"\nartifacts = []', r"artifacts: leave it out"),
        ('component = "lamp"\nversion = "1"\ncolour = "red"', r"colour: is no name"),
        ("component = lamp", r"is not TOML: .*line 1"),
        ('component = "lamp"\nversion = "1"\n[health]\ncommand = []', r"health\.command: "),
        (
            'component = "lamp"\nversion = "1"\n[health]\ncommand = ["x"]\ndeadline_s = 0',
            r"health\.deadline_s: ",
        ),
    ],
)
def test_a_wrong_description_is_refused_with_its_file_and_key(
    tmp_path: Path, text: str, fault: str
) -> None:
    file = tmp_path / "release.toml"
    file.write_text(text)
    with pytest.raises(BadRelease, match=fault) as caught:
        read_description(file)
    assert str(caught.value).startswith(str(file))


def test_a_missing_description_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(BadRelease, match=r"release\.toml cannot be read \(No such file"):
        read_description(tmp_path / "release.toml")


def test_a_tree_that_is_empty_or_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "release.toml").write_text(DESCRIPTION)
    with pytest.raises(BadRelease, match="is empty"):
        archive_of(tmp_path)
    with pytest.raises(BadRelease, match="is no folder"):
        scan([tmp_path / "release.toml"])
    with pytest.raises(BadRelease, match="does not exist"):
        scan([tmp_path / "nowhere"])
