"""What a name or a link inside a tree may be, in whatever form the tree arrives.

Owns those rules. Pure: it never looks at a file system.
"""

import os
from pathlib import PurePosixPath
from typing import Final

NAME_BYTES_MAX: Final = 1000
"""Longest name with its folders, and longest target of a link."""


def leads_out(name: PurePosixPath, leads_to: str) -> bool:
    """Tell whether a link called `name` could lead out of the tree, also by way of other links.

    `..` may come first only: there it starts at a real folder of the tree; after another link it
    would start wherever that one leads.
    """
    target = PurePosixPath(leads_to)
    ups = 0
    while ups < len(target.parts) and target.parts[ups] == "..":
        ups += 1
    depth = len(name.parts) - 1
    return (
        not leads_to
        or target.is_absolute()
        or ".." in target.parts[ups:]
        or ups > depth
        or "\0" in leads_to
        or len(os.fsencode(leads_to)) > NAME_BYTES_MAX
    )
