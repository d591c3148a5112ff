"""`python -m hub.cli`: the same as `fieldfare`."""

import sys

from hub.cli import main

if __name__ == "__main__":
    sys.exit(main())
