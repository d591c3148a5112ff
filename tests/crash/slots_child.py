"""Installs an image into a slot, saying each step that is done. Run where the power goes."""

import sys
from pathlib import Path

from tests.firmware_hooks.slots import image, installer, order

IMAGE_BYTES = 9_001


def main(home: Path, orders: Path) -> None:
    """Stage and activate a release twice, the second time over the first."""
    for version in ("1", "2"):
        wanted = order(orders, image(version, IMAGE_BYTES), version)
        for call in ("stage", "activate"):
            work = installer(home, "tryboot")
            if call == "stage":
                work.stage(wanted)
            else:
                work.activate(wanted.digest)
            sys.stdout.write(f"{call}:{version}:{wanted.digest.hex()}\n")
            sys.stdout.flush()
            sys.stdin.readline()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
