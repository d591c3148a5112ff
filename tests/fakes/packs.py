"""Two trees on disk and the pack between them, made and applied in this process."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from firmware_hooks.tree import Tree, list_tree
from firmware_hooks.unpack import Done, unpack_tree
from hub.packing import Made, make_pack

Files = Mapping[str, bytes | tuple[bytes, int] | str | None]
"""Content by path; with a mode; text is where a link leads; None is a folder."""


def lay(root: Path, files: Files) -> Path:
    """Lay a tree down at `root` as an installer does."""
    root.mkdir(parents=True)
    for path, what in files.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if what is None:
            place.mkdir(exist_ok=True)
        elif isinstance(what, str):
            place.symlink_to(what)
        else:
            content, mode = what if isinstance(what, tuple) else (what, 0o644)
            place.write_bytes(content)
            place.chmod(mode)
    return root


@dataclass(frozen=True, slots=True)
class Pair:
    """An older and a newer tree."""

    folder: Path
    base: Tree
    target: Tree

    @property
    def old(self) -> Path:
        return self.folder / "old"

    @property
    def new(self) -> Path:
        return self.folder / "new"

    @property
    def pack(self) -> Path:
        return self.folder / "pack"

    def make(self, level: int = 3) -> Made:
        return make_pack(self.base, self.old, self.target, self.new, self.pack, level=level)

    def apply(
        self,
        into: Path,
        *,
        bytes_max: int = 2**40,
        room_bytes: int = 2**40,
        pack: Path | None = None,
    ) -> Done:
        into.mkdir()
        with (pack or self.pack).open("rb") as file:
            return unpack_tree(
                file,
                base=self.old,
                base_list=self.base.text,
                into=into,
                target=self.target.sha256,
                bytes_max=bytes_max,
                room_bytes=room_bytes,
            )


def pair(folder: Path, old: Files, new: Files) -> Pair:
    """Lay both trees down below `folder`."""
    lay(folder / "old", old)
    lay(folder / "new", new)
    return Pair(folder, Tree(list_tree(folder / "old")), Tree(list_tree(folder / "new")))
