import errno
import io
import json
import os
import stat
import subprocess
import sys
import tracemalloc
from pathlib import Path
from random import Random

import pytest

from firmware_hooks import pack as packs
from firmware_hooks.frames import zstd
from firmware_hooks.pack import BadPack, Change, Part, encode_index, read_index
from firmware_hooks.tree import list_tree
from firmware_hooks.unpack import BaseDiffers, Exit
from tests.fakes.packs import Files, Pair, pair

TEXT = b"".join(b"line %d of a file that changes little\n" % n for n in range(2000))

OLD: Files = {
    "lib/core.py": TEXT,
    "lib/moved.py": TEXT[::-1],
    "bin/run": (b"#!/bin/sh\nexit 0\n", 0o755),
    "gone.txt": b"goes away",
    "pkg-1.2.dist-info/RECORD": TEXT[:9000],
    "same.txt": b"stays",
    "empty": b"",
    "now": "bin/run",
}
NEW: Files = {
    "lib/core.py": TEXT.replace(b"line 77 ", b"LINE 77 "),
    "lib/moved2.py": TEXT[::-1],
    "bin/run": (b"#!/bin/sh\nexit 1\n", 0o755),
    "pkg-1.3.dist-info/RECORD": TEXT[:9000].replace(b"0", b"zero"),
    "same.txt": b"stays",
    "empty": b"",
    "new/void": b"",
    "new/file": b"never seen before",
    "now": "lib/core.py",
}


@pytest.fixture
def between(tmp_path: Path) -> Pair:
    made = pair(tmp_path, OLD, NEW)
    made.make()
    return made


def test_a_pack_turns_the_old_tree_into_the_new_one_exactly(between: Pair, tmp_path: Path) -> None:
    done = between.apply(tmp_path / "out")

    assert list_tree(tmp_path / "out") == between.target.text
    assert done.linked_count == 4
    assert done.made_count == 4
    assert between.pack.stat().st_size < 2000


def test_unchanged_files_are_the_very_same_and_others_are_not(
    between: Pair, tmp_path: Path
) -> None:
    between.apply(tmp_path / "out")

    assert (tmp_path / "out/same.txt").samefile(between.old / "same.txt")
    assert (tmp_path / "out/lib/moved2.py").samefile(between.old / "lib/moved.py")
    assert stat.S_IMODE((tmp_path / "out/bin/run").stat().st_mode) == 0o755
    assert (between.old / "bin/run").read_bytes() == b"#!/bin/sh\nexit 0\n"


def test_a_file_that_only_may_be_run_now_is_a_file_of_its_own(tmp_path: Path) -> None:
    made = pair(tmp_path, {"run": b"x"}, {"run": (b"x", 0o755)})
    made.make()

    made.apply(tmp_path / "out")

    assert list_tree(tmp_path / "out") == made.target.text
    assert list_tree(made.old) == made.base.text


def test_a_large_image_is_made_of_its_chunks_within_the_room_for_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = Random(7).randbytes(3_000_000)
    image = noise[:900_000] + b"inserted" * 5000 + noise[900_000:2_000_000] + noise[2_100_000:]
    made = pair(tmp_path, {"image": noise}, {"image": image})
    for module in ("firmware_hooks.unpack", "hub.packing"):
        monkeypatch.setattr(f"{module}.room_bytes", lambda *_: 1024 * 1024)
    made.make()

    made.apply(tmp_path / "out")

    assert list_tree(tmp_path / "out") == made.target.text
    # The insertion, and the cuts around it and around what is left out.
    assert made.pack.stat().st_size < 250_000


def test_a_large_file_without_a_predecessor_is_made_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = pair(tmp_path, {"a": b""}, {"a": b"", "image": TEXT * 9})
    for module in ("firmware_hooks.unpack", "hub.packing"):
        monkeypatch.setattr(f"{module}.room_bytes", lambda *_: 64 * 1024)
    made.make()

    made.apply(tmp_path / "out")

    assert list_tree(tmp_path / "out") == made.target.text


@pytest.mark.parametrize("path", ["lib/core.py", "same.txt", "lib/moved.py"])
def test_a_tree_that_changed_since_it_was_installed_is_told_apart_from_a_bad_pack(
    between: Pair, tmp_path: Path, path: str
) -> None:
    content = (between.old / path).read_bytes()
    (between.old / path).write_bytes(content + b"!")

    with pytest.raises(BaseDiffers):
        between.apply(tmp_path / "out")


@pytest.mark.parametrize("path", ["lib/core.py", "same.txt"])
def test_a_link_or_a_pipe_in_the_place_of_a_file_is_not_followed(
    between: Pair, tmp_path: Path, path: str
) -> None:
    (between.old / path).unlink()
    (between.old / path).symlink_to("/etc/hostname")
    with pytest.raises(BaseDiffers):
        between.apply(tmp_path / "out")
    (between.old / path).unlink()
    os.mkfifo(between.old / path)
    with pytest.raises(BaseDiffers):
        between.apply(tmp_path / "again")


def test_a_pack_for_other_trees_is_refused_before_anything_is_written(
    between: Pair, tmp_path: Path
) -> None:
    other = pair(tmp_path / "other", {"a": b"1"}, {"a": b"2"})
    other.make()

    with pytest.raises(BadPack, match="another tree"):
        between.apply(tmp_path / "out", pack=other.pack)

    assert list((tmp_path / "out").iterdir()) == []


def test_what_is_made_of_a_pack_leaves_the_disk_its_reserve(between: Pair, tmp_path: Path) -> None:
    made_bytes = between.apply(tmp_path / "known").made_bytes
    with pytest.raises(OSError, match="less than its reserve") as caught:
        between.apply(tmp_path / "out", room_bytes=made_bytes - 1)
    assert caught.value.errno == errno.ENOSPC
    done = between.apply(tmp_path / "fits", room_bytes=made_bytes)
    assert done.linked_count > 0


def test_a_tree_with_more_bytes_than_allowed_is_refused_before_anything_is_written(
    between: Pair, tmp_path: Path
) -> None:
    with pytest.raises(BadPack, match="at most 1000"):
        between.apply(tmp_path / "out", bytes_max=1000)

    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("index", "fault"),
    [
        (b"", "ends too early"),
        (b"\x00\x00", "behind its end"),
        (encode_index([Change(0, [])])[:-1], "ends too early"),
        (encode_index([Change(0, [Part(None, 1, 0, 5, 5)])]), "place in no file"),
        (encode_index([Change(0, [Part(None, 0, 0, 5, 0)])]), "place in no file"),
        (encode_index([Change(0, [Part(3, 0, 6, 5, 0)])]), "copies more or less"),
        (encode_index([Change(0, [Part(3, 0, 2**41, 2**41, 0)])]), "larger than a file"),
        (b"\x01\xff\xff\xff\x7f", "parts"),
    ],
)
def test_an_index_that_makes_no_sense_is_refused(index: bytes, fault: str) -> None:
    with pytest.raises(BadPack, match=fault):
        list(read_index(index))


def rebuilt(between: Pair, tmp_path: Path, changes: list[Change], payload: bytes) -> Path:
    """A pack between the same trees, with the right list and another index and payload."""
    texts = packs.pack(between.target.text, between.base.text, 3)
    index = encode_index(changes)
    packed = packs.pack(index, b"", 3)
    header = packs.Header(
        between.base.sha256,
        between.target.sha256,
        len(texts),
        len(between.target.text),
        len(packed),
        len(index),
        len(payload),
    )
    path = tmp_path / "rebuilt"
    path.write_bytes(packs.encode_header(header) + texts + packed + payload)
    return path


def changes_of(between: Pair) -> tuple[list[Change], bytes]:
    with between.pack.open("rb") as file:
        reader = packs.Pack(file, between.base.text, between.target.sha256)
        reader.read_list()
        return list(reader.read_changes()), file.read()


def test_parts_that_ask_for_more_memory_or_read_on_for_ever_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    between = pair(tmp_path, {"a": TEXT}, {"a": TEXT[:1000]})
    between.make()
    (change,), payload = changes_of(between)
    frame = packs.pack(b"x", TEXT, 1)
    greedy = [Change(0, [Part(0, 0, len(TEXT), 1, len(frame))] * 1000)]
    path = rebuilt(between, tmp_path, greedy, frame * 1000)
    monkeypatch.setattr("firmware_hooks.unpack.WORK_BYTES_MIN", 0)
    with pytest.raises(BadPack, match="over and over"):
        between.apply(tmp_path / "out", pack=path)

    monkeypatch.setattr("firmware_hooks.unpack.room_bytes", lambda *_: len(TEXT))
    path = rebuilt(between, tmp_path, [change], payload)
    with pytest.raises(BadPack, match="more memory"):
        between.apply(tmp_path / "again", pack=path)


def test_a_change_to_a_folder_or_to_nothing_is_refused(between: Pair, tmp_path: Path) -> None:
    changes, payload = changes_of(between)
    to_folder = sorted([Change(0, [Part(0, 0, 0, 0, 0)]), *changes])
    with pytest.raises(BadPack, match="no file, so"):
        between.apply(tmp_path / "a", pack=rebuilt(between, tmp_path, to_folder, payload))
    to_nothing = [*changes, Change(500, [])]
    with pytest.raises(BadPack, match="not in the list"):
        between.apply(tmp_path / "b", pack=rebuilt(between, tmp_path, to_nothing, payload))
    with pytest.raises(BadPack, match="belong to no file"):
        between.apply(tmp_path / "c", pack=rebuilt(between, tmp_path, changes, payload + b"more"))
    with pytest.raises(BadPack, match="new or changed"):
        between.apply(tmp_path / "d", pack=rebuilt(between, tmp_path, [], b""))


def test_a_frame_that_hides_its_length_or_asks_for_a_long_window_is_refused() -> None:
    parameter = zstd.CompressionParameter
    content = bytes(1000)
    hidden = zstd.compress(content, options={parameter.content_size_flag: 0})
    with pytest.raises(BadPack, match="does not say the length"):
        packs.unpack(io.BytesIO(hidden), len(hidden), bytes, len(content), lambda _: None)
    bomb = packs.pack(bytes(2**28), b"", 1)
    with pytest.raises(BadPack, match="does not say the length"):
        packs.unpack(io.BytesIO(bomb), len(bomb), bytes, 1000, lambda _: None)


def run(between: Pair, into: Path, target: bytes) -> "subprocess.CompletedProcess[str]":
    into.mkdir()
    base_list = into.with_name("base-list")
    base_list.write_bytes(between.base.text)
    return subprocess.run(
        [
            *(sys.executable, "-P", "-m", "firmware_hooks.unpack"),
            *(
                between.pack,
                between.old,
                base_list,
                into,
                into.with_name("list"),
                target.hex(),
                str(2**30),
            ),
        ],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_program_says_what_it_did_and_ends_with_a_code_for_each_reason(
    between: Pair, tmp_path: Path
) -> None:
    ended = run(between, tmp_path / "out", between.target.sha256)
    assert (ended.returncode, ended.stderr) == (Exit.DONE, "")
    assert json.loads(ended.stdout)["made_count"] == 4
    assert list_tree(tmp_path / "out") == between.target.text
    assert (tmp_path / "list").read_bytes() == between.target.text

    ended = run(between, tmp_path / "wrong", bytes(32))
    assert ended.returncode == Exit.BAD_PACK
    assert ended.stderr == "the pack leads to another tree than the release names\n"

    (between.old / "same.txt").unlink()
    ended = run(between, tmp_path / "gone", between.target.sha256)
    assert ended.returncode == Exit.BASE_DIFFERS
    assert ended.stderr == "'same.txt' is gone\n"

    between.pack.unlink()
    assert run(between, tmp_path / "disk", between.target.sha256).returncode == Exit.DISK


@pytest.mark.parametrize("length_mb", [15, 34], ids=["a file held whole", "an image"])
def test_applying_a_pack_takes_less_than_64_mb_whatever_the_length_of_a_file(
    tmp_path: Path, length_mb: int
) -> None:
    old = Random(2).randbytes(length_mb * 1_000_000)
    new = old[:5_000_000] + b"inserted" + old[5_000_000:]
    between = pair(tmp_path, {"image": old}, {"image": new})
    between.make()

    ended = run(between, tmp_path / "out", between.target.sha256)

    assert (ended.returncode, ended.stderr) == (Exit.DONE, "")
    assert json.loads(ended.stdout)["peak_bytes"] < 64_000_000
    assert between.pack.stat().st_size < 200_000


def test_the_parts_of_one_file_take_little_memory_however_many_there_are() -> None:
    parts = [Part(0, 70_000 + place % 1000, 300, 300, 0) for place in range(100_000)]
    index = encode_index([Change(0, parts)])
    tracemalloc.start()
    try:
        (change,) = read_index(index)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 80 * len(parts)
    assert list(change.parts) == parts
    assert change.parts[-1] == parts[-1]
