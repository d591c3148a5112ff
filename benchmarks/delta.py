"""What it takes to bring a device from one release to the next: bytes, CPU and memory.

The trees are packages that lie in this environment. Python code is compared in two versions that
were really published: the copies that pip carries inside itself, and the ones that are installed.
Of compiled code there is one version only, so the other is made from it: 512 bytes are inserted
after a third of each file, and one 32-bit word in 512 bytes is moved by as much, as addresses are.
That is kinder than a new compilation, to every tool here alike.
"""

import asyncio
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from agent.fetch import Fetcher, FetchLimits
from benchmarks.result import Result
from firmware_hooks.tree import Tree, list_tree
from hub.packing import BEST_LEVEL, FIRST_LEVEL, make_pack
from tests.fakes.bad_link import Asked, Link, linked

SITE = Path(sysconfig.get_paths()["platlib"])
CODE = ("packaging", "pygments", "rich", "urllib3")
COMPILED = ("apsw", "cryptography", "pydantic_core")

LARGE_BYTES = 100_000
INSERTED_BYTES = 512
POLL_S = 0.002
MB = 1e6


@dataclass(frozen=True)
class Cost:
    """What one run of a program took."""

    cpu_s: float
    peak_mb: float


_ZSTD: tuple[str, ...] = (
    *(sys.executable, "-P", "-c"),
    """
import shutil, sys
from firmware_hooks.frames import zstd
way, source, to, level = sys.argv[1:]
if way == "w":
    options = {zstd.CompressionParameter.compression_level: int(level)}
    with open(source, "rb") as plain, zstd.open(to, "wb", options=options) as packed:
        shutil.copyfileobj(plain, packed)
else:
    with zstd.open(source, "rb") as packed, open(to, "wb") as plain:
        shutil.copyfileobj(packed, plain)
""",
)
"""Packs or unpacks one file, as a stream."""


def run(*, short: bool) -> list[Result]:
    """Measure everything; the long form also packs with all effort."""
    with tempfile.TemporaryDirectory(prefix="fieldfare-bench-") as name:
        folder = Path(name)
        trees = _trees(folder)
        image = _image(folder, trees)
        return [
            *_tree_results(folder / "tree", trees, short=short),
            _image_result(folder / "image", image),
            asyncio.run(_download(folder)),
        ]


# ---------------------------------------------------------------------------------- material


def _trees(folder: Path) -> tuple[Path, Path]:
    old, new = folder / "old", folder / "new"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in CODE:
        shutil.copytree(SITE / "pip" / "_vendor" / name, old / name, ignore=ignored)
        shutil.copytree(SITE / name, new / name, ignore=ignored)
    for name in COMPILED:
        shutil.copytree(SITE / name, old / name, ignore=ignored)
        shutil.copytree(SITE / name, new / name, ignore=ignored)
        for path in sorted((new / name).rglob("*.so")):
            path.write_bytes(_compiled_again(path.read_bytes()))
    return old, new


def _compiled_again(content: bytes) -> bytes:
    third = len(content) // 3
    inserted = Random(len(content)).randbytes(INSERTED_BYTES)
    out = bytearray(content[:third] + inserted + content[third:])
    if len(out) > LARGE_BYTES:
        for at in range(0, len(out) - 4, INSERTED_BYTES):
            word = int.from_bytes(out[at : at + 4], "little")
            out[at : at + 4] = ((word + INSERTED_BYTES) % 2**32).to_bytes(4, "little")
    return bytes(out)


def _image(folder: Path, trees: tuple[Path, Path]) -> tuple[Path, Path]:
    """Return the folders of two images: every file of a tree in 4 KiB blocks, code last edited."""
    made = []
    for name, tree in zip(("old-image", "new-image"), trees, strict=True):
        (folder / name).mkdir()
        with (folder / name / "image").open("wb") as image:
            for path in sorted(path for path in tree.rglob("*") if path.is_file()):
                # The compiled files of the old tree stay as they are in both.
                is_compiled = path.suffix == ".so"
                content = (trees[0] / path.relative_to(tree) if is_compiled else path).read_bytes()
                image.write(content + bytes(-len(content) % 4096))
        made.append(folder / name)
    return made[0], made[1]


# ----------------------------------------------------------------------------------- programs


def _cost(command: Sequence[str | Path], output: Path | None = None) -> Cost:
    """Run a program to its good end; its peak is read from the kernel while it runs."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with (output or Path(os.devnull)).open("wb") as out:
        process = subprocess.Popen([os.fspath(each) for each in command], stdout=out)
        peak_kb = 0
        while process.poll() is None:
            peak_kb = max(peak_kb, _high_water_kb(process.pid))
            time.sleep(POLL_S)
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(cpu_s, peak_kb * 1024 / MB)


def _high_water_kb(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def _tar(tree: Path, to: Path) -> Path:
    with tarfile.open(to, "w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(tree.rglob("*")):
            member = archive.gettarinfo(path, path.relative_to(tree).as_posix())
            member.mtime = 0
            with (path if path.is_file() else Path(os.devnull)).open("rb") as content:
                archive.addfile(member, content)
    return to


def _packed(folder: Path, trees: tuple[Path, Path], level: int) -> tuple[Path, float]:
    """Make a pack; return it and the CPU seconds that took."""
    folder.mkdir(exist_ok=True)
    before, after = Tree(list_tree(trees[0])), Tree(list_tree(trees[1]))
    (folder / "base-list").write_bytes(before.text)
    pack = folder / f"pack-{level}"
    since = time.process_time()
    make_pack(before, trees[0], after, trees[1], pack, level=level)
    return pack, time.process_time() - since


def _applied(folder: Path, trees: tuple[Path, Path], pack: Path) -> Cost:
    """Apply a pack as a device does."""
    into = folder / "made"
    into.mkdir()
    target = list_tree(trees[1])
    said = folder / "said"
    cost = _cost(
        [
            *(sys.executable, "-P", "-m", "firmware_hooks.unpack"),
            *(pack, trees[0], folder / "base-list", into, folder / "list"),
            *(hashlib.sha256(target).hexdigest(), str(2**40)),
        ],
        said,
    )
    if list_tree(into) != target:
        raise RuntimeError("the pack made another tree")
    shutil.rmtree(into)
    return Cost(cost.cpu_s, json.loads(said.read_text())["peak_bytes"] / MB)


# ------------------------------------------------------------------------------------ results


def _tree_results(folder: Path, trees: tuple[Path, Path], *, short: bool) -> list[Result]:
    levels = (FIRST_LEVEL,) if short else (FIRST_LEVEL, BEST_LEVEL)
    packs = {level: _packed(folder, trees, level) for level in levels}
    applied = _applied(folder, trees, packs[FIRST_LEVEL][0])
    old, new = (_tar(tree, folder / f"{tree.name}.tar") for tree in trees)
    full = folder / "full.zst"
    made_full = _cost([*_ZSTD, "w", new, full, str(FIRST_LEVEL)])
    undone_full = _cost([*_ZSTD, "r", full, folder / "full.tar", str(FIRST_LEVEL)])
    full_bytes = full.stat().st_size
    pack_bytes = packs[FIRST_LEVEL][0].stat().st_size
    effort = "; ".join(
        f"level {level}: {pack.stat().st_size / MB:.2f} MB in {cpu_s:.1f} s of CPU"
        for level, (pack, cpu_s) in packs.items()
    )
    what = f"{new.stat().st_size / MB:.0f} MB, 4 packages in two published versions, 4 edited; "
    results = [
        Result(
            name="delta.bytes_ratio_full",
            value=pack_bytes / full_bytes,
            unit="ratio",
            aim="",
            peer=f"the whole tree at zstd -{FIRST_LEVEL} ({full_bytes / MB:.1f} MB; made "
            f"in {made_full.cpu_s:.1f} s of CPU with {made_full.peak_mb:.0f} MB, undone in "
            f"{undone_full.cpu_s:.1f} s with {undone_full.peak_mb:.0f} MB, interpreter included)",
            ratio=pack_bytes / full_bytes,
            note=what + effort,
        )
    ]
    xdelta3 = shutil.which("xdelta3")
    if xdelta3 is None:
        print("no xdelta3 here (Debian: xdelta3), so delta.bytes_ratio_xdelta3 is left out")
    else:
        delta = folder / "xdelta"
        made = _cost([xdelta3, "-e", "-f", "-6", "-S", "lzma", "-s", old, new, delta])
        undone = _cost([xdelta3, "-d", "-f", "-s", old, delta, folder / "undone"])
        peer_bytes = delta.stat().st_size
        results.append(
            Result(
                name="delta.bytes_ratio_xdelta3",
                value=pack_bytes / peer_bytes,
                unit="ratio",
                aim="",
                peer=f"xdelta3 -6 -S lzma between the two tar files ({peer_bytes / MB:.2f} MB)",
                ratio=pack_bytes / peer_bytes,
                note=f"xdelta3: made in {made.cpu_s:.1f} s of CPU with {made.peak_mb:.0f} MB, "
                f"applied in {undone.cpu_s:.1f} s with {undone.peak_mb:.0f} MB",
            )
        )
    results.append(
        Result(
            name="delta.apply_peak_mb",
            value=applied.peak_mb,
            unit="MB",
            aim="< 64",
            note=f"the whole tree, {applied.cpu_s:.2f} s of CPU with starting the interpreter; "
            "VmHWM of the process, which checks every file",
        )
    )
    return results


def _image_result(folder: Path, images: tuple[Path, Path]) -> Result:
    pack, cpu_s = _packed(folder, images, FIRST_LEVEL)
    applied = _applied(folder, images, pack)
    image_bytes = (images[1] / "image").stat().st_size
    return Result(
        name="delta.image_apply_peak_mb",
        value=applied.peak_mb,
        unit="MB",
        aim="< 64",
        note=f"one file of {image_bytes / MB:.0f} MB whose code changed: a pack of "
        f"{pack.stat().st_size / MB:.2f} MB, made in {cpu_s:.1f} s of CPU, applied in "
        f"{applied.cpu_s:.2f} s",
    )


async def _download(folder: Path) -> Result:
    content = Random(9).randbytes(16 * 1024 * 1024)

    def drops(asked: Asked) -> None:
        rest = asked.rest()
        asked.send(rest[: asked.link.random.randrange(1, 2_000_000)])
        asked.drop()

    limits = FetchLimits(attempts_max=100, stall_s=10.0, disk_reserve_bytes=0)
    with linked(Link(content, drops)) as link:
        fetcher = Fetcher(link.url, folder / "downloads", limits, _Eager())
        await fetcher.fetch(link.digest, len(content))
    return Result(
        name="download.overhead_ratio",
        value=link.sent_bytes / len(content),
        unit="ratio",
        aim="< 1.1",
        note=f"{len(content) / MB:.0f} MB over a link that dropped {link.requests_count} times, at "
        "most 2 MB apart; bytes of the file that the server sent, by those it has",
    )


class _Eager(Random):
    """Never waits between attempts."""

    def uniform(self, a: float, b: float) -> float:
        """Return no wait at all."""
        return min(a, b, 0.0)
