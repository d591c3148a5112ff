import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agent.threads import in_thread


async def test_what_the_work_returns_comes_back() -> None:
    assert await in_thread(lambda: threading.current_thread().name, "counting") == "counting"


async def test_what_the_work_raises_is_raised_where_it_is_waited_for() -> None:
    def fail() -> None:
        raise OSError(28, "no room")

    with pytest.raises(OSError, match="no room"):
        await in_thread(fail, "failing")


async def test_whoever_is_cancelled_does_not_wait_for_the_thread() -> None:
    may_end = threading.Event()
    task = asyncio.create_task(in_thread(may_end.wait, "waiting"))
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    may_end.set()


NEVER_ENDS = """
import asyncio, threading
from agent.threads import in_thread

async def main():
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    def work():
        loop.call_soon_threadsafe(begun.set)
        threading.Event().wait()
    task = asyncio.create_task(in_thread(work, "for ever"))
    await begun.wait()
    task.cancel()

asyncio.run(main())
"""


def test_a_program_ends_although_a_thread_of_it_does_not() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NEVER_ENDS],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
