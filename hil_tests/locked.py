"""Prints the entries of requirements.lock that a device installs: `python -m hil_tests.locked`.

Walks what is installed here, so it runs in the environment that was made from the same lock.
"""

import re
import sys
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCK = Path(__file__).parents[1] / "requirements.lock"
EXTRAS = ("", "rauc")
PYTHON = {"python_version": "3.11", "python_full_version": "3.11.2"}
"""What Debian 12 has, whichever interpreter this script runs under."""


def wanted(distribution: str, extras: tuple[str, ...], found: set[str]) -> set[str]:
    """Return the names of all that `distribution` needs on a device."""
    for line in requires(distribution) or ():
        needed = Requirement(line)
        marker = needed.marker
        if marker and not any(marker.evaluate({**PYTHON, "extra": extra}) for extra in extras):
            continue
        name = canonicalize_name(needed.name)
        if name not in found:
            found.add(name)
            wanted(name, ("", *needed.extras), found)
    return found


def main() -> None:
    """Print them, digests and all."""
    names = wanted("fieldfare", EXTRAS, set())
    entries = re.split(r"^(?=[a-z0-9])", LOCK.read_text(), flags=re.MULTILINE)[1:]
    for entry in entries:
        if re.split("[=[ ]", entry, maxsplit=1)[0] in names:
            sys.stdout.write(entry)


if __name__ == "__main__":
    main()
