"""The operators' commands: `fieldfare`.

Owns what a person types and reads. Every command is one module of this package; nothing of a
command is imported before it is called, so that `fieldfare --help` stays quick.
"""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (`hub.cli.exits.Exit`, `hub.errors.ExitCode`)."""
    from hub.cli.root import run  # noqa: PLC0415 - importing this package alone costs nothing

    return run(sys.argv[1:] if arguments is None else list(arguments))
