"""Mutated packs against the program that applies them, in a process of its own.

Prints what came of them as JSON; ends with a traceback when anything but a refusal or the right
tree came out. The process's memory is that of one device applying packs, for ever.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from random import Random

from firmware_hooks import pack as packs
from firmware_hooks.pack import BadPack, Change
from firmware_hooks.tree import BadTree, Tree, list_tree
from firmware_hooks.unpack import BaseDiffers, peak_bytes
from tests.fakes.packs import Files, Pair, pair

TEXT = b"".join(b"line %d of a file that changes little\n" % n for n in range(300))
OLD: Files = {
    "bin/run": (b"#!/bin/sh\nexit 0\n", 0o755),
    "core.py": TEXT,
    "moved.py": TEXT[::-1],
    "now": "bin/run",
    "same": b"stays",
}
NEW: Files = {
    "bin/run": (b"#!/bin/sh\nexit 1\n", 0o755),
    "core.py": TEXT.replace(b"line 7", b"LINE 7"),
    "deep/moved.py": TEXT[::-1],
    "deep/new": b"never seen before",
    "now": "core.py",
    "same": b"stays",
}


def damaged(random: Random, content: bytes) -> bytes:
    """Return `content` with a few bytes changed, cut out, doubled, or taken from elsewhere."""
    out = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 5))):
        at, to = sorted(random.randrange(len(out) + 1) for _ in range(2))
        match random.randrange(6):
            case 0 if at < len(out):
                out[at] ^= 1 << random.randrange(8)
            case 1 if at < len(out):
                out[at] = random.choice((0, 1, 127, 128, 255, random.randrange(256)))
            case 2:
                del out[at:to]
            case 3:
                out[at:at] = out[at : min(to, at + 64)]
            case 4:
                out[at:at] = random.randbytes(random.randrange(12))
            case _:
                del out[at:]
    return bytes(out)


class Attack:
    """One pair of trees, and every way to spoil the pack between them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = Random(seed)
        self.between: Pair = pair(folder / "pair", OLD, NEW)
        self.between.make()
        self.good = self.between.pack.read_bytes()
        with self.between.pack.open("rb") as file:
            reader = packs.Pack(file, self.between.base.text, self.between.target.sha256)
            reader.read_list()
            self.changes = list(reader.read_changes())
            self.payload = file.read()
        self.folder = folder
        self.counts: Counter[str] = Counter()

    def pack(self) -> bytes:
        """Return a spoilt pack: as bytes, in its index, or in its payload."""
        match self.random.randrange(4):
            case 0:
                return damaged(self.random, self.good)
            case 1:
                index = damaged(self.random, packs.encode_index(self.changes))
                return self.wrapped(index, self.payload)
            case 2:
                return self.wrapped(packs.encode_index(self.twisted()), self.payload)
            case _:
                payload = damaged(self.random, self.payload)
                return self.wrapped(packs.encode_index(self.changes), payload)

    def twisted(self) -> list[Change]:
        """Return changes with a number of a part that is another one now."""
        changes = list(self.changes)
        place = self.random.randrange(len(changes))
        parts = list(changes[place].parts)
        part = self.random.randrange(len(parts))
        name = self.random.choice(["base", "start", "prefix_bytes", "plain_bytes", "packed_bytes"])
        value = self.random.choice((0, 1, 4, 17, 2**20, 2**31, 2**40, 2**52))
        parts[part] = parts[part]._replace(**{name: value})
        if self.random.random() < 0.3:
            parts *= self.random.choice((2, 50))
        changes[place] = Change(changes[place].number, parts)
        return changes

    def wrapped(self, index: bytes, payload: bytes) -> bytes:
        """Return a pack whose header, list and lengths are right."""
        target = self.between.target
        texts = packs.pack(target.text, self.between.base.text, 3)
        packed = packs.pack(index, b"", 3)
        header = packs.Header(
            self.between.base.sha256,
            target.sha256,
            len(texts),
            len(target.text),
            len(packed),
            len(index),
            len(payload),
        )
        return packs.encode_header(header) + texts + packed + payload

    def one(self) -> None:
        """Apply one spoilt pack, and check that it made the right tree or was refused."""
        room = self.folder / "room"
        room.mkdir()
        spoilt = self.folder / "spoilt"
        spoilt.write_bytes(self.pack())
        before = list_tree(self.between.old)
        try:
            self.between.apply(room / "out", pack=spoilt)
        except BadPack:
            self.counts["refused"] += 1
        except BaseDiffers:
            self.counts["base differs"] += 1
        else:
            self.counts["right tree"] += 1
            check(list_tree(room / "out") == self.between.target.text, "a wrong tree")
        check([each.name for each in room.iterdir()] == ["out"], "something beside the folder")
        check(list_tree(self.between.old) == before, "the old tree has changed")
        shutil.rmtree(room)

    def names(self) -> None:
        """Check a spoilt list: refused, or without a name that leads out."""
        text = damaged(self.random, self.between.target.text)
        try:
            tree = Tree(text)
        except BadTree:
            self.counts["list refused"] += 1
            return
        self.counts["list taken"] += 1
        for entry in tree:
            parts = entry.path.split("/")
            check(not {"", ".", ".."} & set(parts), f"the name {entry.path!r}")
            reached = os.path.normpath("/".join(["/tree", *parts[:-1], entry.leads_to]))
            check(reached.startswith("/tree"), f"the link {entry!r}")


def check(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(f"{what} came out of a spoilt pack")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fieldfare-packs-") as folder:
        attack = Attack(Path(folder), options.seed)
        for _ in range(options.cases):
            attack.one()
            attack.names()
    sys.stdout.write(json.dumps({**attack.counts, "peak bytes": peak_bytes()}))


if __name__ == "__main__":
    main()
