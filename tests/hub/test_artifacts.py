import asyncio
import errno
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hub import artifacts as module
from hub.artifacts import PARTS, Artifacts
from hub.errors import StateDirUnusable, StorageFull, TooLarge, WrongContent


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def _chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def _folder(tmp_path: Path, limit: int = 10_000_000) -> Artifacts:
    return Artifacts(tmp_path, blob_max_bytes=limit)


def _files(tmp_path: Path) -> list[str]:
    return sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())


async def test_what_was_received_is_there_under_its_digest_and_cannot_be_changed(
    tmp_path: Path,
) -> None:
    artifacts = _folder(tmp_path)
    content = b"a tree" * 500_000
    digest = _digest(content)
    assert artifacts.length_bytes(digest) is None
    assert await artifacts.receive(digest, _chunks(content[:7], content[7:], b""))
    assert _files(tmp_path) == [f"blobs/sha256/{digest[:2]}/{digest}"]
    assert artifacts.length_bytes(digest) == len(content)
    assert artifacts.path(digest).stat().st_mode & 0o777 == 0o444
    read = b"".join([chunk async for chunk in artifacts.read(digest, 5, len(content) - 5)])
    assert read == content[5:-5]


async def test_receiving_it_twice_is_fine(tmp_path: Path) -> None:
    artifacts = _folder(tmp_path)
    assert await artifacts.receive(_digest(b"x"), _chunks(b"x"))
    assert not await artifacts.receive(_digest(b"x"), _chunks(b"x"))
    results = await asyncio.gather(
        *(artifacts.receive(_digest(b"y"), _chunks(b"y")) for _ in range(5))
    )
    assert any(results)
    assert len(_files(tmp_path)) == 2


async def test_other_content_than_the_name_says_leaves_nothing(tmp_path: Path) -> None:
    artifacts = _folder(tmp_path)
    with pytest.raises(WrongContent, match=_digest(b"other")):
        await artifacts.receive(_digest(b"this"), _chunks(b"other"))
    assert _files(tmp_path) == []


async def test_content_beyond_the_limit_leaves_nothing(tmp_path: Path) -> None:
    artifacts = _folder(tmp_path, limit=10)
    with pytest.raises(TooLarge, match="at most 10 bytes"):
        await artifacts.receive(_digest(b"x" * 11), _chunks(b"x" * 6, b"x" * 5))
    assert await artifacts.receive(_digest(b"x" * 10), _chunks(b"x" * 10))
    assert len(_files(tmp_path)) == 1


async def test_an_upload_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    artifacts = _folder(tmp_path)
    begun = asyncio.Event()

    async def stuck() -> AsyncIterator[bytes]:
        yield b"x" * 3_000_000
        begun.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(artifacts.receive(_digest(b"x"), stuck()))
    await begun.wait()
    assert len(_files(tmp_path)) == 1
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert _files(tmp_path) == []


async def test_a_full_disk_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts = _folder(tmp_path)

    def full(_file: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_flush", full)
    with pytest.raises(StorageFull, match="No space left on device.*send it again"):
        await artifacts.receive(_digest(b"x"), _chunks(b"x"))
    assert _files(tmp_path) == []
    monkeypatch.undo()
    assert await artifacts.receive(_digest(b"x"), _chunks(b"x"))


def test_half_files_of_a_hub_that_was_killed_are_removed_at_the_next_start(tmp_path: Path) -> None:
    _folder(tmp_path)
    (tmp_path / PARTS / "half").write_bytes(b"half")
    _folder(tmp_path)
    assert _files(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("in the way")
    with pytest.raises(StateDirUnusable, match="blobs"):
        _folder(tmp_path)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "A" * 64, "0" * 63, "0" * 65])
def test_what_is_no_digest_is_not_there(tmp_path: Path, name: str) -> None:
    assert _folder(tmp_path).length_bytes(name) is None


async def test_something_small_can_be_kept_from_memory(tmp_path: Path) -> None:
    artifacts = _folder(tmp_path)
    digest = await artifacts.keep(b"manifest")
    assert digest == await artifacts.keep(b"manifest") == _digest(b"manifest")
    assert artifacts.length_bytes(digest) == 8
