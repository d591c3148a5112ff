"""Ask the controller that runs whether it is this version and measures all that it needs.

Exit code 0 when it does, 1 when not; one line either way.
"""

import sys

from place import VERSION, ask

MEASURED_MIN_COUNT = 4
"""One good reading may be luck."""


def main() -> int:
    """Print the finding; return the exit code."""
    status = ask()
    if status is None:
        print("the controller does not answer")
        return 1
    if status["version"] != VERSION:
        print(f"{status['version']} runs, not {VERSION}")
        return 1
    missing = [name for name, value in status["readings"].items() if value is None]
    if missing:
        print(f"no reading from {', '.join(missing)}")
        return 1
    if status["measured_count"] < MEASURED_MIN_COUNT:
        print(f"measured {status['measured_count']} times so far")
        return 1
    readings = ", ".join(f"{name} {value:g}" for name, value in status["readings"].items())
    print(f"{VERSION} measures {readings}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
