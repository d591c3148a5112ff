import gzip
import lzma
import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from firmware_hooks import archive
from firmware_hooks.archive import BadArchive, TooLarge, unpack
from firmware_hooks.names import NAME_BYTES_MAX
from hub import release_build
from tests.firmware_hooks.trees import Entry, file, folder, link, packed, special, tar

BYTES_MAX = 1_000_000


@pytest.fixture
def into(tmp_path: Path) -> Path:
    (tmp_path / "inside").mkdir()
    (tmp_path / "outside").mkdir()
    return tmp_path / "inside"


def unpack_bytes(content: bytes, into: Path, bytes_max: int = BYTES_MAX) -> None:
    path = into.parent / "tree"
    path.write_bytes(content)
    unpack(path, into, bytes_max=bytes_max)


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize("how", ["plain", "gz", "xz"])
def test_files_folders_and_links_of_a_tree_arrive_however_it_is_packed(
    how: str, into: Path
) -> None:
    big = os.urandom(300_000)
    tree = tar(
        folder("./"),
        folder("bin"),
        file("bin/run", b"#!/bin/sh\n", 0o4711),
        file("./deep/er/data", big),
        link("deep/newest", "er/data"),
        link("deep/er/up", "../../bin"),
        file("n" * 200 + "/" + "m" * 90, b"long"),
    )

    unpack_bytes(packed(tree, how), into)

    assert (into / "deep/er/data").read_bytes() == big
    assert (into / "deep/newest").read_bytes() == big
    assert (into / "deep/er/up/run").read_text() == "#!/bin/sh\n"
    assert (into / ("n" * 200) / ("m" * 90)).read_bytes() == b"long"
    assert stat.S_IMODE((into / "bin/run").stat().st_mode) == 0o755
    assert stat.S_IMODE((into / "deep/er/data").stat().st_mode) == 0o644
    assert (into / "deep/er/data").stat().st_mtime == 1_700_000_000


def test_a_tree_in_several_gzip_members_or_xz_streams_is_one_tree(into: Path) -> None:
    tree = tar(file("a", b"1" * 1000), file("b", b"2" * 1000))
    half = len(tree) // 2
    for pack in (gzip.compress, lzma.compress):
        unpack_bytes(pack(tree[:half]) + pack(tree[half:]), into)
        assert names_in(into) == {"a", "b"}
        for name in ("a", "b"):
            (into / name).unlink()


def test_an_empty_tree_is_a_tree(into: Path) -> None:
    unpack_bytes(tar(), into)

    assert names_in(into) == set()


HOSTILE: dict[str, list[Entry]] = {
    "absolute": [file("/etc/passwd", b"x")],
    "up and out": [file("../outside/x", b"x")],
    "up in the middle": [file("a/../../outside/x", b"x")],
    "up and back in": [file("a/../b", b"x")],
    "a link to an absolute place": [link("a", "/etc")],
    "a link that leads out": [link("a", "../outside")],
    "a link that leads out from below": [folder("d"), link("d/a", "../../outside")],
    "a link that leads out by way of another": [
        folder("d"),
        link("d/up", ".."),
        link("out", "d/up/.."),
    ],
    "a link without a target": [link("a", "")],
    "an entry below a link": [link("a", "."), file("a/x", b"x")],
    "an entry below a file": [file("a", b"x"), file("a/x", b"x")],
    "an entry below a link in another case": [link("a", "."), file("A/x", b"x")],
    "a folder in place of a link": [link("a", "."), folder("a")],
    "a file in place of a folder": [file("a/x", b"x"), file("a", b"x")],
    "a link in place of a file": [file("a", b"x"), link("a", "b")],
    "a name that comes twice": [file("a", b"1"), file("a", b"2")],
    "names that differ in case": [file("a", b"1"), file("A", b"2")],
    "folders that differ in case": [folder("a"), folder("A")],
    "folders not listed that differ in case": [file("a/x", b"1"), file("A/y", b"2")],
    "names that differ in how an accent is written": [
        file("caf\u00e9", b"1"),
        file("cafe\u0301", b"2"),
    ],
    "a hard link": [file("a", b"x"), special("b", tarfile.LNKTYPE, "a")],
    "a device": [special("a", tarfile.CHRTYPE)],
    "a block device": [special("a", tarfile.BLKTYPE)],
    "a pipe": [special("a", tarfile.FIFOTYPE)],
    "a kind nobody knows": [special("a", b"Y")],
    "a name of absurd length": [file("n" * 1200, b"x")],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_an_honest_tool_would_not_write_is_refused_and_nothing_gets_out(
    name: str, into: Path
) -> None:
    before = names_in(into.parent)

    with pytest.raises(BadArchive):
        unpack_bytes(tar(*HOSTILE[name]), into)

    assert names_in(into.parent / "outside") == set()
    assert {each for each in names_in(into.parent) - before if not each.startswith("inside")} <= {
        "tree"
    }


def test_more_bytes_than_allowed_are_refused_before_they_are_written(into: Path) -> None:
    with pytest.raises(TooLarge):
        unpack_bytes(tar(file("a", bytes(6000)), file("b", bytes(6000))), into, bytes_max=10_000)

    assert names_in(into) == {"a"}


@pytest.mark.parametrize("how", ["gz", "xz"])
def test_a_bomb_is_refused_without_being_unpacked(how: str, into: Path) -> None:
    with pytest.raises(TooLarge):
        unpack_bytes(packed(tar(file("a", bytes(200_000_000))), how), into, bytes_max=1000)

    assert names_in(into) == set()


TAR = ("tar", "--create", "--file", "-")

REAL: dict[str, tuple[str, ...]] = {
    "sparse in the manner of GNU": (*TAR, "-S", "--format=gnu", "sparse"),
    "sparse in the manner of pax 0.0": (
        *TAR,
        "--format=pax",
        "-S",
        "--sparse-version=0.0",
        "sparse",
    ),
    "sparse in the manner of pax 0.1": (
        *TAR,
        "--format=pax",
        "-S",
        "--sparse-version=0.1",
        "sparse",
    ),
    "sparse in the manner of pax 1.0": (
        *TAR,
        "--format=pax",
        "-S",
        "--sparse-version=1.0",
        "sparse",
    ),
    "a hard link": (*TAR, "one", "two"),
    "a pipe": (*TAR, "pipe"),
    "an absolute name": (*TAR, "--absolute-names", "--transform=s,^,/,", "one"),
    "a name that leads out": (*TAR, "--absolute-names", "--transform=s,^,../,", "one"),
    "a link that leads out": (*TAR, "out"),
    "names that differ in case": (*TAR, "--hard-dereference", "one", "ONE"),
    "a label": (*TAR, "--format=gnu", "--label=name", "one"),
    "a dump of folders": (*TAR, "--format=gnu", "--listed-incremental=state", "folder"),
}


@pytest.mark.parametrize("name", REAL)
def test_what_a_real_tar_can_write_and_a_device_does_not_take_is_refused(
    name: str, tmp_path: Path, into: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "one").write_bytes(b"1")
    (source / "ONE").write_bytes(b"1")
    (source / "two").hardlink_to(source / "one")
    (source / "folder").mkdir()
    (source / "out").symlink_to("../outside")
    os.mkfifo(source / "pipe")
    with (source / "sparse").open("wb") as hole:
        hole.truncate(10**12)
        hole.seek(10**9)
        hole.write(b"x")
    made = subprocess.run(REAL[name], cwd=source, capture_output=True, check=True).stdout
    assert len(made) < 100_000

    with pytest.raises(BadArchive):
        unpack_bytes(made, into, bytes_max=10**13)

    assert names_in(tmp_path / "outside") == set()
    assert names_in(into) <= {"one"}


def test_a_device_takes_every_tree_that_a_release_can_be_built_of() -> None:
    assert archive.ENTRIES_MAX >= release_build.ENTRIES_MAX_COUNT
    assert NAME_BYTES_MAX >= release_build.NAME_BYTES_MAX


def test_the_longest_names_fit_what_one_entry_may_take(into: Path) -> None:
    name = "/".join(["é" * 120] * 4)
    entries = [link(f"{name}{number}", "x" * NAME_BYTES_MAX) for number in range(10)]
    empty = len(tar())

    assert len(tar(*entries)) - empty <= 10 * archive.ENTRY_BYTES_MAX
    unpack_bytes(tar(*entries), into)


def test_too_many_entries_are_refused(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "ENTRIES_MAX", 3)

    with pytest.raises(TooLarge):
        unpack_bytes(tar(*(file(f"f{number}") for number in range(4))), into)


def test_folders_that_are_only_named_count_as_entries(
    into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "ENTRIES_MAX", 100)

    with pytest.raises(TooLarge):
        unpack_bytes(tar(*(file(f"{number}/" + "a/" * 40 + "x") for number in range(3))), into)


def _with_size(kind: bytes, size: bytes) -> bytes:
    """Return a header of this kind whose size field is `size`, with a right checksum."""
    member = tarfile.TarInfo("a")
    member.type = kind
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = size.ljust(12, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


NEGATIVE = b"\xff" * 11 + b"\xf0"
HUGE = b"%011o" % (8 * 1024**3 - 1)


@pytest.mark.parametrize("kind", [b"0", b"x", b"g", b"L", b"K"])
@pytest.mark.parametrize("size", [NEGATIVE, HUGE], ids=["negative", "huge"])
def test_headers_with_absurd_sizes_are_refused_in_no_time_and_little_memory(
    kind: bytes, size: bytes, into: Path
) -> None:
    tree = tar(file("first", b"x"))[:1024] + _with_size(kind, size) + bytes(100_000)

    with pytest.raises(BadArchive):
        unpack_bytes(gzip.compress(tree), into)


def test_sparse_files_are_refused(into: Path) -> None:
    with pytest.raises(BadArchive):
        unpack_bytes(_with_size(b"S", b"%011o" % 0) + bytes(10_240), into)


@pytest.mark.parametrize("missing", [1, 4, 8, 30, 60])
@pytest.mark.parametrize("how", ["gz", "xz"])
def test_a_packed_archive_that_is_cut_off_is_refused(how: str, missing: int, into: Path) -> None:
    with pytest.raises(BadArchive):
        unpack_bytes(packed(tar(file("a", os.urandom(600))), how)[:-missing], into)


@pytest.mark.parametrize("keep", [100, 700, 1000, 1700])
def test_a_plain_archive_that_is_cut_off_in_a_file_or_header_is_refused(
    keep: int, into: Path
) -> None:
    with pytest.raises(BadArchive):
        unpack_bytes(tar(file("a", b"x" * 600), file("b", b"y" * 600))[:keep], into)


def test_a_checksum_that_is_wrong_is_noticed(into: Path) -> None:
    whole = bytearray(gzip.compress(tar(file("a", b"x"))))
    whole[-6] ^= 1

    with pytest.raises(BadArchive):
        unpack_bytes(bytes(whole), into)


@pytest.mark.parametrize(
    "content", [b"", b"x", b"x" * 2000, b"\x1f\x8b" + b"x" * 600, b"\xfd7zXZ\0"]
)
def test_what_is_no_archive_is_refused(content: bytes, into: Path) -> None:
    with pytest.raises(BadArchive):
        unpack_bytes(content, into)


def test_garbage_between_the_entries_is_not_taken_for_the_end(into: Path) -> None:
    tree = tar(file("a", b"x"))[:1024] + b"\x07" * 512 + tar(file("b", b"y"))

    with pytest.raises(BadArchive):
        unpack_bytes(tree, into)


def test_a_time_that_no_file_system_can_keep_is_bounded(into: Path) -> None:
    for number, moment in enumerate(("inf", "nan", "-1e300", "1e300")):
        member, content = file(f"f{number}", b"x")
        member.pax_headers = {"mtime": moment}
        unpack_bytes(tar((member, content)), into)

    assert len(names_in(into)) == 4
