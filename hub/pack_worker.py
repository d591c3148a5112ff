"""Makes one pack between the artifacts of two releases: `python -m hub.pack_worker`.

Owns that program. The hub runs it in a process of its own with bounded memory and time, because a
good pack takes minutes and an artifact is whatever somebody uploaded.

Rule: a pack that comes out was applied here, and made the target's tree.

Exit codes: 0, and on standard output what came out as JSON; 3 no pack can be made of these two, and
why is one line on standard error; 5 the disk is full or fails.
"""

import argparse
import json
import os
import resource
import shutil
import sys
from enum import IntEnum
from pathlib import Path
from typing import Final

from firmware_hooks.archive import BadArchive, unpack
from firmware_hooks.pack import BadPack
from firmware_hooks.tree import BadTree, Tree, list_tree
from firmware_hooks.unpack import BaseDiffers, peak_bytes, unpack_tree
from hub.packing import CannotPack, make_pack

MEMORY_BYTES_MAX: Final = 1024 * 1024 * 1024
"""Address space for data. Level 19 takes 170 MB for the largest part there is (measured)."""

COMMAND: Final = (sys.executable, "-P", "-m", "hub.pack_worker")


class Exit(IntEnum):
    """How the program ends."""

    DONE = 0
    NO_PACK = 3
    DISK = 5


def work(
    base: tuple[Path, bytes],
    target: tuple[Path, bytes],
    folder: Path,
    *,
    level: int,
    bytes_max: int,
) -> Path:
    """Make the pack in `folder` and return where it is.

    Args:
        base: Artifact of the release that devices run, and the digest of its tree's list.
        target: The same of the release that they are to run.
        folder: Empty; takes both trees and what the pack makes of the first.
        level: Effort, 1 to 19.
        bytes_max: Most bytes of all files of one tree.

    Raises:
        CannotPack: They make no pack, and why.
        OSError: The disk is full or fails.
    """
    trees = []
    for name, (artifact, digest) in (("base", base), ("target", target)):
        root = folder / name
        root.mkdir()
        try:
            unpack(artifact, root, bytes_max=bytes_max)
            tree = Tree(list_tree(root))
        except (BadArchive, BadTree) as error:
            raise CannotPack(str(error)) from None
        if tree.sha256 != digest:
            raise CannotPack(f"the {name}'s artifact holds another tree than its manifest names")
        trees.append((tree, root))
    (old, old_root), (new, new_root) = trees
    output = folder / "pack"
    make_pack(old, old_root, new, new_root, output, level=level)
    made = folder / "made"
    made.mkdir()
    try:
        with output.open("rb") as file:
            unpack_tree(
                file,
                base=old_root,
                base_list=old.text,
                into=made,
                target=new.sha256,
                bytes_max=bytes_max,
            )
    except (BadPack, BaseDiffers) as error:
        raise CannotPack(f"the pack does not make the tree: {error}") from None
    for each in (old_root, new_root, made):
        shutil.rmtree(each)
    return output


def main() -> int:
    """Make the pack that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m hub.pack_worker", description=__doc__)
    for name in ("base", "target"):
        parser.add_argument(name, type=Path)
        parser.add_argument(f"{name}_tree", type=bytes.fromhex)
    parser.add_argument("folder", type=Path)
    for name in ("level", "bytes_max", "cpu_s_max"):
        parser.add_argument(name, type=int)
    options = parser.parse_args()
    os.nice(10)  # messages and devices come first
    for what, bound in (
        (resource.RLIMIT_DATA, MEMORY_BYTES_MAX),
        (resource.RLIMIT_CPU, options.cpu_s_max),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (bound, bound))
    try:
        output = work(
            (options.base, options.base_tree),
            (options.target, options.target_tree),
            options.folder,
            level=options.level,
            bytes_max=options.bytes_max,
        )
    except CannotPack as error:
        return _ended(Exit.NO_PACK, str(error))
    except MemoryError:
        return _ended(Exit.NO_PACK, "a pack needs more memory than is allowed")
    except OSError as error:
        return _ended(Exit.DISK, f"{error.strerror or error}: {error.filename}")
    json.dump({"length_bytes": output.stat().st_size, "peak_bytes": peak_bytes()}, sys.stdout)
    return Exit.DONE


def _ended(code: Exit, reason: str) -> int:
    sys.stderr.write(reason.replace("\n", " ") + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
