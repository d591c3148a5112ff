"""The power goes at each write of the boot state, on real filesystems, with the disk's cache lost.

What is left is read as firmware reads it: no journal is replayed, nothing is repaired first.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.fakes.firmware import (
    AUTOBOOT,
    ENVIRONMENT_BYTES,
    TrybootBoard,
    chosen_by_autoboot,
    chosen_by_environment,
    chosen_by_grubenv,
    environment,
    make_grubenv,
)
from tests.fakes.write_log import cuts, record, require, run

pytestmark = pytest.mark.timeout(300)

MIB = 1024 * 1024
Seen = tuple[tuple[str, ...], str, str]
"""Marks reached, slot that the next boot leads to, slot of the boot after it."""


def fat(folder: Path, bits: int, files: Sequence[Path]) -> Path:
    require("mkfs.vfat", "mcopy", "mtype")
    image = folder / "image"
    with image.open("wb") as file:
        file.truncate({12: 1, 16: 4, 32: 35}[bits] * MIB)
    run("mkfs.vfat", "-F", str(bits), "-s", "1", image)
    run("mcopy", "-i", image, *files, "::")
    return image


def ext4(folder: Path, files: Sequence[Path]) -> Path:
    image, tree = folder / "image", folder / "tree"
    tree.mkdir()
    for file in files:
        (tree / file.name).write_bytes(file.read_bytes())
    image.write_bytes(bytes(8 * MIB))
    run("mkfs.ext4", "-q", "-b", "1024", "-E", "lazy_itable_init=0", "-d", tree, image)
    return image


def read_fat(image: Path, name: str) -> bytes:
    return run("mtype", "-i", image, f"::{name}")


def read_by_grub(image: Path, name: str) -> bytes:
    return run("grub-fstest", image, "cat", f"(loop0)/{name}")


def states(
    image: Path, kind: str, argv: Sequence[str], folder: Path, *, options: str = ""
) -> Iterator[tuple[Path, tuple[str, ...]]]:
    cut = folder / "cut"
    for disk, marks in cuts(image, record(image, kind, argv, folder, options=options)):
        cut.write_bytes(disk)
        yield cut, marks


def acts(options: dict[str, str], *given: str) -> list[str]:
    return [sys.executable, "-B", "-m", "tests.crash.boot_child", json.dumps(options), *given]


def check(
    seen: Sequence[Seen], given: Sequence[str], first: str, *, is_wish_stored: bool = True
) -> None:
    """Whatever was cut: a promise is kept, and nothing boots but what was asked for by then.

    Where no wish is stored, it comes with the reboot, and no reboot comes after a power cut.
    """
    for marks, coming, staying in seen:
        done = [mark for mark in marks if mark in given]
        under_way = given[len(done) : len(done) + 1]
        primaries = [first, *(act[7:] for act in done if act.startswith("commit:"))]
        may_stay = {primaries[-1], *(act[7:] for act in under_way if act.startswith("commit:"))}
        assert staying in may_stay, (marks, coming, staying)
        may_come = {*may_stay, *(act[4:] for act in under_way if act.startswith("try:"))}
        if not is_wish_stored:
            assert coming == staying
        elif done and done[-1].startswith("try:"):
            may_come = {done[-1][4:]} if not under_way else {done[-1][4:], *may_come}
        assert coming in may_come, (marks, coming, staying)
    assert {len([mark for mark in marks if mark in given]) for marks, _, _ in seen} == set(
        range(len(given) + 1)
    )


@pytest.mark.parametrize("bits", [12, 16, 32])
def test_on_fat_autoboot_is_the_old_or_the_new_one_and_a_commit_stays(
    bits: int, tmp_path: Path
) -> None:
    board = TrybootBoard(tmp_path)
    image = fat(tmp_path, bits, [board.autoboot])
    given = ("commit:3", "try:2", "commit:2", "commit:3")
    options = {"boot": "tryboot", "proc": str(tmp_path / "proc")}
    options["autoboot"] = str(tmp_path / "disk/autoboot.txt")

    seen: list[Seen] = []
    for cut, marks in states(image, "vfat", acts(options, *given), tmp_path):
        content = read_fat(cut, "autoboot.txt")
        slot = chosen_by_autoboot(content, is_try=False)
        assert {slot, chosen_by_autoboot(content, is_try=True)} == set(board.slots)
        seen.append((marks, slot, slot))

    check(seen, given, "2", is_wish_stored=False)


NAIVE = """
import os, sys
path = sys.argv[1]
with open(path + ".new", "wb") as file:
    file.write(bytes.fromhex(sys.argv[2]))
    file.flush()
    os.fsync(file.fileno())
os.replace(path + ".new", path)
folder = os.open(os.path.dirname(path), os.O_RDONLY)
os.fsync(folder)
print("renamed", flush=True)
sys.stdin.readline()
"""


def test_on_fat_a_rename_and_a_sync_of_the_folder_are_not_enough(tmp_path: Path) -> None:
    """Why `autoboot.txt` is synced again after its rename; if this fails, Linux has changed."""
    board = TrybootBoard(tmp_path)
    image = fat(tmp_path, 16, [board.autoboot])
    new = AUTOBOOT.replace("2", "4").encode()
    argv = [sys.executable, "-c", NAIVE, str(tmp_path / "disk/autoboot.txt"), new.hex()]

    last = b""
    for cut, _ in states(image, "vfat", argv, tmp_path):
        entry = cut.read_bytes().index(b"AUTOBOOTTXT")
        last = cut.read_bytes()[entry : entry + 32]

    first = image.read_bytes()
    entry = first.index(b"AUTOBOOTTXT")
    assert last[26:28] == first[entry + 26 : entry + 28]


@pytest.mark.parametrize("journal", ["ordered", "journal"])
def test_on_ext4_grub_reads_what_was_promised_although_it_replays_no_journal(
    journal: str, tmp_path: Path
) -> None:
    """Also where contents go through the journal, as they do with `data=journal`."""
    require("grub-fstest")
    make_grubenv(tmp_path / "grubenv")
    image = ext4(tmp_path, [tmp_path / "grubenv"])
    given = ("try:B", "commit:B", "try:A", "commit:A")
    options = {"boot": "grub", "grubenv": str(tmp_path / "disk/grubenv")}

    seen: list[Seen] = []
    argv = acts(options, *given)
    for cut, marks in states(image, "ext4", argv, tmp_path, options=f"data={journal}"):
        coming, block = chosen_by_grubenv(read_by_grub(cut, "grubenv"))
        seen.append((marks, coming, chosen_by_grubenv(block)[0]))

    check(seen, given, "A")


def test_on_ext4_grub_does_not_read_what_its_own_tool_has_renamed_into_place(
    tmp_path: Path,
) -> None:
    """Why the block is written in place and the filesystem frozen."""
    require("grub-fstest")
    make_grubenv(tmp_path / "grubenv")
    image = ext4(tmp_path, [tmp_path / "grubenv"])
    new = (tmp_path / "grubenv").read_bytes().replace(b"boot_next=A", b"boot_next=B")
    argv = [sys.executable, "-c", NAIVE, str(tmp_path / "disk/grubenv"), new.hex()]

    after = [
        chosen_by_grubenv(read_by_grub(cut, "grubenv"))[0]
        for cut, marks in states(image, "ext4", argv, tmp_path)
        if "renamed" in marks
    ]

    assert "A" in after


@pytest.mark.parametrize("kind", ["vfat", "ext4"])
def test_one_copy_of_the_environment_of_uboot_is_whole_and_promises_are_kept(
    kind: str, tmp_path: Path
) -> None:
    require("fw_setenv", "grub-fstest")
    copies = [tmp_path / "env1", tmp_path / "env2"]
    for flag, copy in enumerate(copies, start=1):
        copy.write_bytes(environment({"boot_slot": "A", "boot_next": "A", "baud": "115200"}, flag))
    image = fat(tmp_path, 16, copies) if kind == "vfat" else ext4(tmp_path, copies)
    read: Callable[[Path, str], bytes] = read_fat if kind == "vfat" else read_by_grub
    config = tmp_path / "fw_env.config"
    disk = tmp_path / "disk"
    config.write_text(
        f"{disk}/env1 0x0 {ENVIRONMENT_BYTES:#x}\n{disk}/env2 0x0 {ENVIRONMENT_BYTES:#x}\n"
    )
    given = ("try:B", "commit:B", "try:A", "commit:A")
    options = {"boot": "uboot", "fw_env_config": str(config)}

    seen: list[Seen] = []
    for cut, marks in states(image, kind, acts(options, *given), tmp_path):
        images = [read(cut, copy.name) for copy in copies]
        coming, number, written = chosen_by_environment(images)
        if written is not None:
            images[number] = written
        seen.append((marks, coming, chosen_by_environment(images)[0]))

    check(seen, given, "A")
    assert Counter(coming for _, coming, _ in seen).keys() == {"A", "B"}
