"""Changes something in a hub's database and is killed before a statement of it; again for each."""

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

from hub.audit import Actor, acting
from hub.deployments import Request
from hub.store import releases
from hub.store.database import Connection
from hub.tokens import Tokens
from sync.documents import Kind
from tests.hub.core import Core
from tests.hub.web import operations_of

ADA = Actor("abcdefgh", "ada", "192.0.2.7")

STATEMENTS_MAX = 200


async def change(core: Core, folder: Path) -> None:
    operations = operations_of(core, folder)
    with acting(ADA):
        await operations.deploy(Request(release="lamp@1.0.0", group="all"))
        await operations.wish(Kind.GROUP, "all", "mode", "1", "latest")
        tokens = Tokens(core.database, operations.clock, operations.ledger)
        await tokens.create("bob", "viewer", 60.0)


def die_before(statement: int, folder: Path) -> None:
    """Change what there is, and be killed before the statement of this number."""
    core = Core(folder)
    left = statement

    def count(_cursor: object, _sql: str, _bindings: object) -> bool:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return True

    def trace(db: Connection) -> None:
        db.exec_trace = count

    core.database.transact(trace)
    asyncio.run(change(core, folder))


def main(template: Path) -> None:
    core = Core(template)
    core.release()
    assert core.database.transact(releases.every)
    core.close()
    for statement in range(STATEMENTS_MAX):
        folder = template.parent / f"died-{statement}"
        shutil.copytree(template, folder)
        child = os.fork()
        if child == 0:
            die_before(statement, folder)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0
            sys.stdout.write(f"{statement}\n")
            return
    raise AssertionError("it is never done")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
