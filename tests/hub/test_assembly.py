"""Releases of files as they are: what goes in, under which name, and what is refused."""

import hashlib
import tarfile
from pathlib import Path

import pytest

from hub.assembly import assemble
from hub.release_build import BadRelease, read_description

HEAD = 'component = "station"\nversion = "2"\n[health]\ncommand = ["true"]\n'


def described(folder: Path, text: str, *, head: str = HEAD) -> Path:
    (folder / "image.zst").write_bytes(b"an image")
    (folder / "app").mkdir(exist_ok=True)
    (folder / "app" / "run").write_text("run")
    file = folder / "station.toml"
    file.write_text(head + text)
    return file


def test_a_file_becomes_an_artifact_under_its_own_name(tmp_path: Path) -> None:
    file = described(tmp_path, '[[files]]\npath = "image.zst"\n')

    with assemble(file, version="3") as made:
        (artifact,) = made.manifest.artifacts
        assert made.name == "station@3"
        assert artifact.name == "image.zst"
        assert artifact.sha256 == hashlib.sha256(b"an image").hexdigest()
        assert made.artifacts[artifact.name].read_bytes() == b"an image"


def test_a_release_of_parts_holds_trees_and_files(tmp_path: Path) -> None:
    parts = '[[parts]]\nname = "app"\ninstaller = "directory"\n'
    parts += '[[parts]]\nname = "radio"\ninstaller = "mcu"\n[parts.parameters]\nidentity = "r2"\n'
    files = '[[files]]\ntree = "app"\npart = "app"\n'
    files += '[[files]]\npath = "image.zst"\npart = "radio"\nname = "radio.bin"\n'

    with assemble(described(tmp_path, parts + files)) as made:
        assert [(each.name, each.part) for each in made.manifest.artifacts] == [
            ("app.tar.gz", "app"),
            ("radio.bin", "radio"),
        ]
        with tarfile.open(made.artifacts["app.tar.gz"]) as archive:
            assert archive.getnames() == ["run"]
        assert made.manifest.parts[1].parameters == {"identity": "r2"}
        digest = made.manifest.digest()
    with assemble(described(tmp_path, parts + files)) as again:
        assert again.manifest.digest() == digest


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "say what the artifacts are"),
        ("[[files]]\n", "give path or tree"),
        ('[[files]]\npath = "image.zst"\ntree = "app"\n', "give path or tree"),
        ('[[files]]\npath = "image.zst"\nmode = "x"\n', "give path or tree"),
        ('[[files]]\npath = ""\n', "not empty"),
        ("[[files]]\npath = 7\n", "not empty"),
        ('[[files]]\npath = "absent"\n', "does not exist"),
        ('[[files]]\npath = "app"\n', "is no file"),
        ('[[files]]\ntree = "absent"\n', "does not exist"),
        ('[[files]]\npath = "image.zst"\nname = "../x"\n', "is no name of an artifact"),
        ('[[files]]\npath = "image.zst"\npart = "radio"\n', "each artifact names a part"),
        ('[[files]]\npath = "image.zst"\n[[files]]\npath = "image.zst"\n', "the same name"),
        ('colour = "red"\n[[files]]\npath = "image.zst"\n', "colour"),
    ],
)
def test_what_makes_no_release_is_refused_and_says_what_is_wrong(
    text: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(BadRelease, match=words), assemble(described(tmp_path, text)):
        pass


def test_a_description_of_files_is_not_taken_for_one_of_a_tree(tmp_path: Path) -> None:
    file = described(tmp_path, '[[files]]\npath = "image.zst"\n')

    with pytest.raises(BadRelease, match="release assemble"):
        read_description(file)
