"""`python -m tests.crash.states_child KIND STATE HOW STATE_DIR INSTALL_DIR`: die in one state.

Lets the agent work, and kills it by SIGKILL as soon as the journal says STATE: `once`, `always`, or
`never`. Appends every state that the journal is given to the file `chain` beside STATE_DIR. KIND is
one of `tests.crash.devices.KINDS`.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from agent.journal import decode
from agent.store import Store
from tests.crash import agent_child, devices


def main() -> None:
    kind, state, how = sys.argv[1:4]
    state_dir, install_dir = Path(sys.argv[4]), Path(sys.argv[5])
    chain, died = state_dir.parent / "chain", state_dir.parent / "died"
    written: Callable[[Store, str, bytes], Awaitable[None]] = Store.write_journal

    async def write_journal(self: Store, component: str, stored: bytes) -> None:
        await written(self, component, stored)
        journal = decode(stored)
        assert journal is not None
        with chain.open("a") as file:
            file.write(f"{journal.state}\n")
        if journal.state == state and (how == "always" or (how == "once" and not died.exists())):
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(Store, "write_journal", write_journal)  # noqa: B010 - of another module
    devices.start(kind, state_dir, install_dir)
    asyncio.run(agent_child.work(state_dir, install_dir))


if __name__ == "__main__":
    main()
