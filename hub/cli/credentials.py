"""Where a command finds the token that says who asks.

Owns the places and their order. Never sends it and never prints it.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from hub.client import BadCredential
from hub.operators import BadToken, parse_token
from hub.secret_file import SeenByOthers, read_secret

VARIABLE: Final = "FIELDFARE_TOKEN"


def default_file(environment: Mapping[str, str]) -> Path | None:
    """Return where a person keeps a token (XDG Base Directory Specification)."""
    folder = environment.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(folder):  # noqa: PTH117 - of a text that may be empty
        home = environment.get("HOME", "")
        if not home:
            return None
        folder = f"{home}/.config"
    return Path(folder) / "fieldfare" / "token"


def find_token(file: Path | None, environment: Mapping[str, str]) -> str | None:
    """Return the token in `file`, else that in the environment, else the person's own, if any.

    Raises:
        BadCredential: It is there, and cannot be read, or others can read it, or it is no token.
    """
    if file is not None:
        return _checked(_read(file), str(file))
    if text := environment.get(VARIABLE, ""):
        return _checked(text, VARIABLE)
    own = default_file(environment)
    if own is None:
        return None
    try:
        own.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise BadCredential(f"the token in {own} cannot be read: {error.strerror}") from None
    return _checked(_read(own), str(own))


def _read(file: Path) -> str:
    try:
        return read_secret(file)
    except SeenByOthers:
        raise BadCredential(
            f"others may read the token in {file}: chmod 600 {file}, and have it revoked if "
            "anybody may have done so"
        ) from None
    except OSError as error:
        raise BadCredential(f"the token in {file} cannot be read: {error.strerror}") from None


def _checked(text: str, place: str) -> str:
    try:
        return parse_token(text.strip()).text()
    except BadToken as error:
        raise BadCredential(f"{place}: {error}") from None
