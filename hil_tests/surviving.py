"""What must still be so on a disk after the power went, and how that is looked at.

Reads each disk as those do who come to it next: GRUB without replaying a journal, Linux after
replaying it, the agent by opening its store. Finds faults; judges none of them.
"""

import asyncio
import json
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from agent.store import open_store
from hil_tests.recorded import IMAGE_BYTES, NAMES, RELEASES, image
from hil_tests.recording import FACTORY, State
from sync.documents import FACT, DocumentName, Kind
from sync.records import Fact, select
from sync.replica import values_of
from tests.fakes.write_log import run

FSCK_MENDED: Final = 1
SLOTS: Final = {"A": "root-a", "B": "root-b"}
IMAGES: Final = {"factory": FACTORY, **{version: image(version) for version in RELEASES}}


def faults(state: State, folder: Path) -> dict[str, list[str]]:
    """Return what is wrong: with the `boot` state, with the `slots`, with the `store`."""
    told, primary, coming = _boot(state, folder)
    found = {"boot": told, "slots": [], "store": []}
    for slot in {primary, coming} - {""}:
        if _lying_in(state, slot) not in IMAGES:
            found["slots"].append(f"slot {slot} can be booted and holds no whole image")
    tree = _data(state, folder)
    found["slots"] += _remembered(state, tree)
    found["store"] += asyncio.run(_store(state, tree))
    return found


def _boot(state: State, folder: Path) -> tuple[list[str], str, str]:
    """Return what is wrong with GRUB's environment, its primary slot and the one that is next."""
    part = folder / "boot.img"
    content = state.part("boot")
    part.write_bytes(content)
    block = run("grub-fstest", part, "cat", "(loop0)/grubenv")
    words = dict(
        line.split("=", 1)
        for line in block.decode(errors="replace").split("\n")
        if "=" in line and not line.startswith("#")
    )
    primary, coming = words.get("boot_slot", ""), words.get("boot_next", "")
    if not {primary, coming} <= SLOTS.keys():
        return [f"nothing boots: {words}"], "", ""
    allowed = _allowed(state.promises)
    if (primary, coming) in allowed:
        return [], primary, coming
    return (
        [f"boots {coming}, then {primary}; promised was one of {sorted(allowed)}"],
        primary,
        coming,
    )


def _allowed(promises: Sequence[Mapping[str, Any]]) -> set[tuple[str, str]]:
    """Return the pairs of primary and next slot that keep what was promised."""
    primary, other = "A", "B"
    allowed = {("A", "A")}
    for promise in promises:
        match promise:
            case {"staged": _}:
                allowed = {(primary, primary), (primary, other)}
            case {"activated": _}:
                allowed = {(primary, other)}
            case {"booting": str(slot)}:
                allowed = {(primary, slot), (primary, primary)}
            case {"booted": str(slot)}:
                allowed = {(primary, primary), (slot, slot)}
            case {"committed": _}:
                primary, other = other, primary
                allowed = {(primary, primary)}
    return allowed


def _lying_in(state: State, slot: str) -> str:
    """Return the name of the image that lies in a slot; empty if it is none, or not whole."""
    content = state.part(SLOTS[slot])[:IMAGE_BYTES]
    return next((name for name, known in IMAGES.items() if known == content), "")


def _data(state: State, folder: Path) -> Path:
    """Return what Linux finds on the data partition."""
    part, tree = folder / "data.img", folder / "data"
    part.write_bytes(state.part("data"))
    ended = subprocess.run(["/sbin/e2fsck", "-fy", part], capture_output=True, check=False)
    assert ended.returncode <= FSCK_MENDED, ended.stdout
    subprocess.run(["/bin/rm", "-rf", tree], check=True)
    tree.mkdir()
    run("debugfs", "-R", f"rdump / {tree}", part)
    return tree


def _remembered(state: State, tree: Path) -> list[str]:
    """Return where a slot is said to hold what it does not."""
    staged = [promise["staged"] for promise in state.promises if "staged" in promise]
    path = tree / "install/lamp/slots.json"
    if not path.exists():
        return ["what was staged is forgotten"] if staged else []
    held = json.loads(path.read_text())["slots"]
    found = {slot: _lying_in(state, slot) for slot in held}
    wrong = [
        f"slot {slot} is said to hold {held[slot]['version']} and holds {name or 'nothing whole'}"
        for slot, name in found.items()
        if name != held[slot]["version"]
    ]
    # The next release may already be on its way into the other slot.
    if staged and staged[-1] not in found.values():
        wrong.append(f"release {staged[-1]} was staged and is not remembered")
    return wrong


async def _store(state: State, tree: Path) -> list[str]:
    """Return which rows are lost that were acknowledged, or are there that were never written."""
    last = max((promise["row"] for promise in state.promises if "row" in promise), default=0)
    if not last and not (tree / "state").exists():
        return []
    async with await open_store(tree / "state") as store:
        if store.opened.damaged is not None:
            return ["the store is damaged"]
        holding = (await store.holdings()).get(DocumentName(Kind.DEVICE, "rig-1"))
        values = values_of(holding) if holding is not None else {}
        facts = select(Fact, FACT, values)
        found = {
            "the document": {name: int(json.loads(fact.value)) for name, fact in facts.items()},
            "the journal": _numbers(await store.journals()),
            "what is kept": _numbers(await store.kept("rows")),
        }
    # Of the row that was being written when the power went, nobody had been told.
    return [
        f"{name} of {where}: {number} is lost, {rows.get(name, 0)} is there"
        for where, rows in found.items()
        for name, number in _acknowledged(last).items()
        if rows.get(name, 0) not in {number, last + 1}
    ]


def _numbers(rows: Mapping[str, bytes]) -> dict[str, int]:
    return {name: int(json.loads(value)) for name, value in rows.items()}


@cache
def _acknowledged(last: int) -> dict[str, int]:
    """Return the newest row of each name that was acknowledged."""
    return {f"row-{number % NAMES}": number for number in range(1, last + 1)}
