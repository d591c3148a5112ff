"""The disk of an emulated device: where its partitions lie, and what a factory puts there.

Owns the layout and how it is written without root, loop devices or mounts. A disk has GRUB, a
filesystem with GRUB's files and its environment block, two slots, and the device's own data.
"""

import shutil
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.fakes.write_log import run

MIB: Final = 1024 * 1024
SECTOR_BYTES: Final = 512

KERNEL_AT: Final = 0x5C
"""Where GRUB's boot.img has the first sector of core.img (`GRUB_BOOT_MACHINE_KERNEL_SECTOR`)."""

BLOCKLIST_AT: Final = SECTOR_BYTES - 12
"""Where core.img's own first sector says where the rest of it lies: sector, count, segment."""

SEGMENT: Final = 0x820


@dataclass(frozen=True, slots=True)
class Part:
    """One partition; `number` is GRUB's and Linux's."""

    number: int
    name: str
    at_bytes: int
    length_bytes: int
    kind: str = "linux"


def layout(*sizes: tuple[str, int]) -> tuple[Part, ...]:
    """Lay partitions of so many MiB one after another, from the first MiB on."""
    parts: list[Part] = []
    at = MIB
    for number, (name, size_mib) in enumerate(sizes, start=1):
        kind = "21686148-6449-6E6F-744E-656564454649" if name == "bios" else "linux"
        parts.append(Part(number, name, at, size_mib * MIB, kind))
        at += size_mib * MIB
    return tuple(parts)


DEVICE: Final = layout(("bios", 1), ("boot", 16), ("root-a", 128), ("root-b", 128), ("data", 192))

FIELDFARE: Final = """\
load_env
set boot_now=$boot_next
if [ "$boot_next" != "$boot_slot" ]; then set boot_next=$boot_slot; save_env boot_next; fi
if [ "$boot_now" = B ]; then set part=4; else set part=3; fi
set told="fieldfare.slot=$boot_now"
"""
"""As `docs/explanation/boot.md` says."""

RAUC: Final = """\
set ORDER="A B"
set A_OK=0
set B_OK=0
set A_TRY=0
set B_TRY=0
load_env
set boot_now=none
for slot in $ORDER; do
    if [ "$boot_now" = none -a "$slot" = A -a "$A_OK" = 1 -a "$A_TRY" = 0 ]; then
        set boot_now=A
        set A_TRY=1
    fi
    if [ "$boot_now" = none -a "$slot" = B -a "$B_OK" = 1 -a "$B_TRY" = 0 ]; then
        set boot_now=B
        set B_TRY=1
    fi
done
if [ "$boot_now" = none ]; then
    set boot_now=A
    set A_TRY=0
    set B_TRY=0
fi
save_env A_TRY A_OK B_TRY B_OK ORDER
if [ "$boot_now" = B ]; then set part=4; else set part=3; fi
set told="rauc.slot=$boot_now"
"""
"""The logic of `contrib/grub.conf`, which RAUC's own documentation refers to."""

START: Final = """\
echo "starting slot $boot_now"
if linux (hd0,gpt$part)/vmlinuz root=/dev/vda$part rootfstype=squashfs ro quiet panic=5 \\
    console=ttyS0 systemd.show_status=false $told; then
    initrd (hd0,gpt$part)/initrd.img
    boot
fi
reboot
"""

SETTINGS: Final = """\
serial --unit=0 --speed=115200
terminal_input serial
terminal_output serial
"""


def make(
    path: Path,
    system: Path,
    *,
    loader: str = FIELDFARE,
    environment: Mapping[str, str] | None = None,
    data: Path,
) -> None:
    """Write a disk with the same system in slot A and nothing in B.

    Args:
        path: Where it goes; a sparse file.
        system: The folder that `images/system.sh` made.
        loader: What GRUB does before it starts a kernel.
        environment: GRUB's variables; A boots if not given.
        data: A folder that becomes the root of the data partition.
    """
    given = environment if environment is not None else {"boot_slot": "A", "boot_next": "A"}
    tree = path.with_name(f"{path.name}.tree")
    shutil.rmtree(tree, ignore_errors=True)
    (tree / "grub").mkdir(parents=True)
    block = tree / "grub" / "grubenv"
    run("grub-editenv", block, "create")
    run("grub-editenv", block, "set", *(f"{name}={value}" for name, value in given.items()))
    (tree / "grub" / "grub.cfg").write_text(SETTINGS + loader + START)
    partition(path, DEVICE)
    _, boot, first, _, own = DEVICE
    fill(path, boot, tree)
    fill(path, own, data)
    put(path, first, system / "system.squashfs")
    _install_grub(path, system)
    shutil.rmtree(tree)


def partition(path: Path, parts: tuple[Part, ...]) -> None:
    """Make an empty disk with these partitions."""
    with path.open("wb") as file:
        file.truncate(parts[-1].at_bytes + parts[-1].length_bytes + MIB)
    table = ["label: gpt", "label-id: 11111111-2222-3333-4444-555555555555"]
    table += [
        f"start={part.at_bytes // SECTOR_BYTES}, size={part.length_bytes // SECTOR_BYTES},"
        f" type={part.kind}, name={part.name},"
        f" uuid=11111111-2222-3333-4444-{part.number:012}"
        for part in parts
    ]
    subprocess.run(
        ["/sbin/sfdisk", "--quiet", path],
        input="\n".join(table),
        text=True,
        check=True,
        capture_output=True,
    )


def fill(path: Path, part: Part, tree: Path) -> None:
    """Make an ext4 filesystem of a folder in a partition; all of it belongs to root."""
    options = f"offset={part.at_bytes},lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0"
    blocks = part.length_bytes // 1024
    run("mkfs.ext4", "-q", "-F", "-b", "1024", "-E", options, "-d", tree, path, f"{blocks}")


def put(path: Path, part: Part, content: Path) -> None:
    """Copy a file to the beginning of a partition."""
    if content.stat().st_size > part.length_bytes:
        raise ValueError(f"{content} does not fit {part.name}: make DEVICE's slots larger")
    with path.open("r+b") as disk, content.open("rb") as source:
        disk.seek(part.at_bytes)
        shutil.copyfileobj(source, disk, MIB)


def _install_grub(path: Path, system: Path) -> None:
    """Do what grub-install does on a disk with a BIOS boot partition."""
    first = DEVICE[0].at_bytes // SECTOR_BYTES
    core = bytearray((system / "core.img").read_bytes())
    sectors = -(-len(core) // SECTOR_BYTES)
    struct.pack_into("<QHH", core, BLOCKLIST_AT, first + 1, sectors - 1, SEGMENT)
    boot = bytearray((system / "boot.img").read_bytes()[:440])  # the table of MBR lies behind
    struct.pack_into("<Q", boot, KERNEL_AT, first)
    with path.open("r+b") as disk:
        disk.write(boot)
        disk.seek(first * SECTOR_BYTES)
        disk.write(core)
