"""A disk that is really full: a small file system in memory, in a name space of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

APART = ("unshare", "--user", "--map-root-user", "--mount")

WORK = """
import asyncio, os, subprocess, sys
from pathlib import Path
from agent.store import StoreFull, open_store
from sync.author import Author
from sync.documents import DocumentName, Kind
from sync.replica import values_of

OWN = DocumentName(Kind.DEVICE, "lamp-1")
folder = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=True)
fill = folder / "fill"


def fill_up():
    with fill.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


async def refused(work):
    try:
        await work
    except StoreFull:
        return True
    return False


async def main():
    author = Author(None, client_id=7)
    fill_up()
    assert await refused(open_store(folder / "state")), "a new database on a full disk"
    fill.unlink()
    async with await open_store(folder / "state") as store:
        await store.keep({OWN: author.holding()}, client_counter=1)
        await store.log(OWN, author.write({"s/first": b"1"}), client_counter=2)
        fill_up()
        count = 0
        while not await refused(store.log(OWN, author.write({"s/a": bytes(900)}), hlc=count + 1)):
            count += 1
            assert count < 5000
        assert await refused(store.write_journal("lamp", bytes(100_000)))
        assert await refused(store.keep({OWN: author.holding()}, client_counter=9))
        fill.unlink()
        assert await store.number("hlc") == count
        assert await store.number("client_counter") == 2
        await store.write_journal("lamp", b"there is room")
    fill_up()
    opened = await refused(open_store(folder / "state"))
    fill.unlink()
    async with await open_store(folder / "state") as store:
        assert store.opened.damaged is None
        assert await store.journals() == {"lamp": b"there is room"}
        held = values_of((await store.holdings())[OWN])
        assert held["s/first"] == b"1"
        assert ("s/a" in held) is (count > 0)
    print("refused at the start:", opened)


asyncio.run(main())
"""


def test_a_full_disk_is_told_from_damage_at_every_write_and_nothing_is_lost(
    tmp_path: Path,
) -> None:
    possible = subprocess.run([*APART, "true"], capture_output=True, check=False)
    if possible.returncode:
        pytest.skip("unshare cannot make name spaces for users here")
    done = subprocess.run(
        [*APART, sys.executable, "-c", WORK, tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )

    assert done.returncode == 0, done.stderr
    assert "refused at the start: True" in done.stdout
