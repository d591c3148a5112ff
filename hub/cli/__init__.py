"""The operators' commands: `fieldfare`.

Owns what a person types and reads. Every command is one module of this package; nothing of a
command is imported before it is called, so that `fieldfare --help` stays quick.
"""

import sys
from collections.abc import Sequence

from hub.cli.exits import Exit


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (`hub.cli.exits.Exit`, `hub.errors.ExitCode`)."""
    try:
        from hub.cli.root import run  # noqa: PLC0415 - importing this package alone costs nothing
    except ModuleNotFoundError as missing:
        sys.stderr.write(
            f"fieldfare: this machine has the agent alone (there is no {missing.name!r}): "
            "install fieldfare[hub] for the hub and its commands\n"
        )
        return Exit.NOT_INSTALLED
    return run(sys.argv[1:] if arguments is None else list(arguments))
