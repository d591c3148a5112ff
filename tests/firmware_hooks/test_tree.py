import os
from pathlib import Path

import pytest

from firmware_hooks.tree import HEADING, BadTree, Kind, Tree, list_tree, tree_named
from tests.fakes.packs import lay

DIGEST = b"0" * 64


def listing(*lines: bytes) -> bytes:
    return HEADING + b"".join(line + b"\n" for line in lines)


def test_a_list_says_what_every_file_folder_and_link_is(tmp_path: Path) -> None:
    lay(
        tmp_path / "tree",
        {"bin/run": (b"#!", 0o755), "notes.txt": b"hello", "latest": "bin/run", "empty": None},
    )

    tree = Tree(list_tree(tmp_path / "tree"))

    assert [(entry.path, entry.kind) for entry in tree] == [
        ("bin", Kind.FOLDER),
        ("bin/run", Kind.PROGRAM),
        ("empty", Kind.FOLDER),
        ("latest", Kind.LINK),
        ("notes.txt", Kind.FILE),
    ]
    assert tree[4].length_bytes == 5
    assert tree[3].leads_to == "bin/run"
    assert tree.bytes_count == 7
    assert [tree.find(entry.path) for entry in tree] == [0, 1, 2, 3, 4]
    assert tree.find("bin/walk") is None


def test_times_and_other_permissions_do_not_change_the_list(tmp_path: Path) -> None:
    first = lay(tmp_path / "first", {"a": b"1", "b/c": b"2"})
    second = lay(tmp_path / "second", {"b/c": (b"2", 0o600), "a": b"1"})
    os.utime(second / "a", (1, 1))

    assert list_tree(first) == list_tree(second)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"", "no list of a tree"),
        (b"fieldfare tree 2\n", "no list of a tree"),
        (listing(b"d\t../up"), "not a name inside"),
        (listing(b"d\t/etc"), "not a name inside"),
        (listing(b"d\ta", b"d\ta/./b"), "not a name inside"),
        (listing(b"d\ta", b"d\ta//b"), "not a name inside"),
        (listing(b"d\tbell\x07"), "not a name inside"),
        (listing(b"d\t" + b"a" * 1025), "longer than 1000"),
        (listing(b"d\tb", b"d\ta"), "out of order"),
        (listing(b"d\ta", b"d\ta"), "comes twice"),
        (listing(b"d\tA", b"d\ta"), "case or accents"),
        (listing("d\tcafe\u0301".encode(), "d\tcaf\u00e9".encode()), "case or accents"),
        (listing(b"-\t1\t" + DIGEST + b"\ta", b"d\ta/b"), "below something that is no folder"),
        (listing(b"l\tb\ta", b"d\ta/c", b"d\tb"), "below something that is no folder"),
        (listing(b"d\ta/b"), "below something that is no folder"),
        (listing(b"l\t/etc\ta"), "leads out"),
        (listing(b"l\t../etc\ta"), "leads out"),
        (listing(b"d\ta", b"l\tb/../../..\ta/l"), "leads out"),
        (listing(b"-\t01\t" + DIGEST + b"\ta"), "no entry at byte"),
        (listing(b"-\t-1\t" + DIGEST + b"\ta"), "no entry at byte"),
        (listing(b"-\t9999999999999\t" + DIGEST + b"\ta"), "bytes"),
        (listing(b"c\t1\t" + DIGEST + b"\ta"), "no entry at byte"),
        (listing(b"d\ta")[:-1], "no entry at byte"),
        (listing(b"d\t\xff"), "not UTF-8"),
    ],
)
def test_a_list_with_anything_that_must_not_be_in_a_tree_is_refused(
    text: bytes, fault: str
) -> None:
    with pytest.raises(BadTree, match=fault):
        Tree(text)


def test_a_tree_with_a_pipe_or_an_unprintable_name_has_no_list(tmp_path: Path) -> None:
    os.mkfifo(lay(tmp_path / "pipe", {}) / "p")
    with pytest.raises(BadTree, match="neither a plain file"):
        list_tree(tmp_path / "pipe")
    lay(tmp_path / "odd", {"a\nd\tb": b""})
    with pytest.raises(BadTree, match="not printable"):
        list_tree(tmp_path / "odd")


@pytest.mark.parametrize(
    "parameters",
    [
        None,
        {},
        {"tree_sha256": "0" * 64},
        {"tree_sha256": "0" * 63, "tree_length_bytes": 5},
        {"tree_sha256": "0" * 64, "tree_length_bytes": True},
        {"tree_sha256": "0" * 64, "tree_length_bytes": 0},
        {"tree_sha256": "0" * 64, "tree_length_bytes": 2**40},
        {"tree_sha256": 7, "tree_length_bytes": 5},
    ],
)
def test_parameters_that_name_no_list_name_none(parameters: object) -> None:
    assert tree_named(parameters) is None


def test_parameters_name_the_list_of_the_tree() -> None:
    named = tree_named({"tree_sha256": "ab" * 32, "tree_length_bytes": 5})
    assert named == (b"\xab" * 32, 5)
