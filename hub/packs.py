"""Packs between releases: made when a device first asks, kept while they are asked for.

Owns the folder `packs` in the state directory: a small file for each pack, whose time is when it
was last asked for. The packs themselves are artifacts like any other, so devices fetch them as they
fetch everything else. Never decides who may have one.

Rule: what is offered was applied by the process that made it. One is made at a time, at little
effort first, so that the first devices wait for seconds, and again with all effort when many need
it.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from hub.artifact_store import ArtifactStore
from hub.errors import StateDirUnusable, StorageFull, StorageUnusable
from hub.pack_worker import COMMAND, Exit
from hub.packing import BEST_LEVEL, FIRST_LEVEL

logger = logging.getLogger(__name__)

FOLDER: Final = "packs"
WORK: Final = "work"

WAITING_MAX: Final = 64
"""Packs that may wait to be made; who asks for another is told that there is none."""

FAILED_MAX: Final = 1000
"""Pairs of which it is remembered that they have no pack."""

BEST_FROM_DEVICES: Final = 1000
"""Above so many devices a pack is made again with all effort: it takes 15 times the CPU and saves
a sixth of the bytes (measured on 13 packages, 201 MB)."""

READ_BYTES: Final = 1024 * 1024


class Tree(NamedTuple):
    """A release as far as a pack goes."""

    release: str
    """Digest of its manifest, in hexadecimal."""
    artifact: str
    """Digest of its artifact."""
    artifact_bytes: int
    tree: bytes
    """Digest of the list of its tree."""


class Pack(msgspec.Struct, frozen=True, kw_only=True):
    """A pack that is here."""

    sha256: str
    length_bytes: int
    level: int
    is_ours: bool = True
    """False if an artifact with these bytes was here before, which then must stay."""
    older: tuple[str, ...] = ()
    """Packs of less effort between the same releases, which somebody may still be fetching."""


class NoPack(Exception):
    """There is none between these releases, and none will be made. The message says why."""


class _Wanted(NamedTuple):
    base: Tree
    target: Tree
    level: int

    @property
    def name(self) -> str:
        return _name(self.base.release, self.target.release)


class Packs:
    """The packs of one hub."""

    def __init__(
        self,
        state_dir: Path,
        artifacts: ArtifactStore,
        *,
        count_max: int,
        make_s: float,
        bytes_max: int,
    ) -> None:
        """Look below `state_dir`, and remove what an earlier run left half made.

        Args:
            state_dir: The hub's.
            artifacts: Where packs are kept.
            count_max: Most packs that are kept; those not asked for the longest go first.
            make_s: CPU time and twice the time of the clock that making one may take.
            bytes_max: Most bytes of a tree that a pack is made for.

        Raises:
            StateDirUnusable: The folder cannot be made or written.
        """
        self._folder = state_dir / FOLDER
        self._artifacts = artifacts
        self._count_max = count_max
        self._make_s = make_s
        self._bytes_max = bytes_max
        self._waiting: dict[tuple[str, int], _Wanted] = {}
        self._failed: dict[str, str] = {}
        self._more = asyncio.Event()
        try:
            self._folder.mkdir(mode=0o755, exist_ok=True)
            shutil.rmtree(self._folder / WORK, ignore_errors=True)
        except OSError as error:
            raise StateDirUnusable(
                f"the folder of packs {self._folder} cannot be used: {error.strerror}"
            ) from None

    def offer(self, base: Tree, target: Tree, devices_count: int) -> Pack | None:
        """Return the pack from `base` to `target`, None if it is being made.

        Args:
            base: What devices run.
            target: What they are to run.
            devices_count: How many run `base`.

        Raises:
            NoPack: There is none.
        """
        if not self._count_max:
            raise NoPack("this hub makes none (setting packs_max_count)")
        name = _name(base.release, target.release)
        found = self._load(name)
        if found is not None:
            with contextlib.suppress(OSError):
                os.utime(self._folder / name)
            if devices_count > BEST_FROM_DEVICES and found.level < BEST_LEVEL:
                self._want(_Wanted(base, target, BEST_LEVEL))
            return found
        if name in self._failed:
            raise NoPack(self._failed[name])
        if not self._want(_Wanted(base, target, FIRST_LEVEL)):
            raise NoPack("too many other packs are waiting to be made")
        return None

    async def run(self) -> None:
        """Make what is wanted, until cancelled."""
        while True:
            await self._more.wait()
            while self._waiting:
                # Those that somebody waits for come before those that only get better.
                key = min(self._waiting, key=lambda each: each[1])
                wanted = self._waiting[key]
                try:
                    await self._make(wanted)
                except NoPack as error:
                    if wanted.level == FIRST_LEVEL:
                        self._fail(wanted.name, str(error))
                    logger.info("no pack %s: %s", wanted.name, error)
                except (OSError, StorageUnusable) as error:
                    if isinstance(error, (OSError, StorageFull)):  # the bucket may be back soon
                        self._fail(wanted.name, "the hub could not make it")
                    logger.warning("a pack could not be made %s: %s", wanted.name, error)
                finally:
                    self._waiting.pop(key, None)
            self._more.clear()

    # Parts.

    def _want(self, wanted: _Wanted) -> bool:
        key = (wanted.name, wanted.level)
        if key in self._waiting:
            return True
        if len(self._waiting) >= WAITING_MAX or (
            wanted.level == BEST_LEVEL and wanted.name in self._failed
        ):
            return False
        self._waiting[key] = wanted
        self._more.set()
        return True

    def _fail(self, name: str, why: str) -> None:
        while len(self._failed) >= FAILED_MAX:
            del self._failed[next(iter(self._failed))]
        self._failed[name] = why

    def _load(self, name: str) -> Pack | None:
        try:
            found = msgspec.json.decode((self._folder / name).read_bytes(), type=Pack)
        except (OSError, msgspec.MsgspecError):
            return None
        return found if self._artifacts.length_bytes(found.sha256) == found.length_bytes else None

    async def _make(self, wanted: _Wanted) -> None:
        folder = self._folder / WORK
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        folder.mkdir()
        try:
            async with (
                self._artifacts.on_disk(wanted.base.artifact) as base,
                self._artifacts.on_disk(wanted.target.artifact) as target,
            ):
                await self._run(wanted, base, target, folder)
            made = folder / "pack"
            length_bytes = made.stat().st_size
            if length_bytes >= wanted.target.artifact_bytes:
                raise NoPack("it would not be smaller than the whole release")
            await self._keep(wanted, made, length_bytes)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _run(self, wanted: _Wanted, base: Path, target: Path, folder: Path) -> None:
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            *(base, wanted.base.tree.hex()),
            *(target, wanted.target.tree.hex()),
            folder,
            *(str(wanted.level), str(self._bytes_max), str(max(1, round(self._make_s)))),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            cwd=folder,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(2 * self._make_s):
                _, said = await process.communicate()
        except TimeoutError:
            raise NoPack("making it takes too long") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode == Exit.NO_PACK:
            raise NoPack(said.decode(errors="replace").strip()[:200])
        if process.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
            raise NoPack("making it takes too long")
        if process.returncode != Exit.DONE:
            raise OSError(said.decode(errors="replace").strip()[-200:])

    async def _keep(self, wanted: _Wanted, made: Path, length_bytes: int) -> None:
        pack = self._load(wanted.name)
        if pack is not None and pack.length_bytes <= length_bytes:
            # More effort is no promise. What is there stays, and is not tried again.
            pack = msgspec.structs.replace(pack, level=wanted.level)
        else:
            sha256 = await asyncio.to_thread(_digest_of, made)
            pack = Pack(
                sha256=sha256,
                length_bytes=length_bytes,
                level=wanted.level,
                is_ours=await self._artifacts.receive(sha256, _chunks(made)),
                older=self._blobs(wanted.name),
            )
        scratch = self._folder / f"{wanted.name}.partial"
        scratch.write_bytes(msgspec.json.encode(pack))
        scratch.replace(self._folder / wanted.name)
        logger.info("made pack %s: %d bytes, level %d", wanted.name, length_bytes, wanted.level)
        await self._drop_oldest()

    async def _drop_oldest(self) -> None:
        kept = [path for path in self._folder.iterdir() if path.is_file() and "." not in path.name]
        kept.sort(key=lambda path: path.stat().st_mtime)
        needed = {each for path in kept[-self._count_max :] for each in self._blobs(path.name)}
        for path in kept[: -self._count_max]:
            blobs = self._blobs(path.name)
            path.unlink()
            for each in blobs:
                if each not in needed:
                    await self._artifacts.remove(each)

    def _blobs(self, name: str) -> tuple[str, ...]:
        """Return the artifacts that are there for this pack alone."""
        pack = self._load(name)
        if pack is None:
            return ()
        return (pack.sha256, *pack.older) if pack.is_ours else pack.older


def _name(base: str, target: str) -> str:
    return f"{base}-{target}"


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, READ_BYTES):
            yield chunk
