"""The power goes at each write of an install into a slot; then Linux mounts what is left."""

import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.fakes.write_log import cuts, record, run
from tests.firmware_hooks.slots import make_device

pytestmark = pytest.mark.timeout(300)

MIB = 1024 * 1024
FSCK_MENDED = 1


def read(image: Path, name: str) -> bytes | None:
    """Return a file of the image, which Linux could mount."""
    shown = subprocess.run(
        ["/sbin/debugfs", "-R", f"cat {name}", image], capture_output=True, check=True
    )
    return None if b"File not found" in shown.stderr else shown.stdout


def mend(image: Path) -> None:
    """Replay the journal, as mounting does."""
    ended = subprocess.run(["/sbin/e2fsck", "-fy", image], capture_output=True, check=False)
    assert ended.returncode <= FSCK_MENDED, ended.stdout


def test_what_is_remembered_of_a_slot_is_what_lies_in_it_wherever_the_power_went(
    tmp_path: Path,
) -> None:
    tree, orders = tmp_path / "tree", tmp_path / "orders"
    tree.mkdir()
    orders.mkdir()
    make_device(tree, "tryboot", slot_bytes=64 * 1024)
    image = tmp_path / "image"
    image.write_bytes(bytes(8 * MIB))
    run("mkfs.ext4", "-q", "-b", "1024", "-E", "lazy_itable_init=0", "-d", tree, image)
    disk = tmp_path / "disk"
    argv = [sys.executable, "-B", "-m", "tests.crash.slots_child", str(disk), str(orders)]
    log = record(image, "ext4", argv, tmp_path)

    seen = Counter[str]()
    cut = tmp_path / "cut"
    known: set[bytes] = set()
    for content, marks in cuts(image, log):
        key = hashlib.sha256(content + repr(marks).encode()).digest()
        if key in known:
            continue
        known.add(key)
        cut.write_bytes(content)
        mend(cut)
        text = read(cut, "install/lamp/slots.json")
        state = json.loads(text) if text is not None else {"slots": {}, "trial": None}
        for slot, held in state["slots"].items():
            lies = read(cut, {"2": "slot_a", "3": "slot_b"}[slot])
            assert lies is not None
            found = hashlib.sha256(lies[: held["length_bytes"]]).hexdigest()
            assert found == held["sha256"], (marks, slot)
        done = [mark.split(":") for mark in marks if mark != "mounted"]
        if done and done[-1][0] == "stage":
            # The next call may have begun; it forgets nothing of what was staged.
            assert done[-1][2] in {held["release"] for held in state["slots"].values()}, marks
        if done and done[-1] == ["activate", "2", done[-1][2]]:
            assert state["trial"]["release"] == done[-1][2]
        seen[f"{len(done)} calls done, {sorted(state['slots'])} remembered"] += 1
        assert (read(cut, "slot_a") or b"").startswith(b"what the factory put there")
    assert {int(each.split()[0]) for each in seen} == {0, 1, 2, 3, 4}
    assert sum(seen.values()) > 50, seen
