"""Secrets by which the hub is known where it tells things.

Owns how they are read from the files that the settings name.
"""

from pathlib import Path

from hub.errors import BadSettings
from hub.export.events import BadSecret, secret_of
from hub.secret_file import SeenByOthers, read_secret
from hub.settings import Settings


def webhook_secret(settings: Settings) -> bytes | None:
    """Return the secret that events are signed with, None if none was chosen.

    Raises:
        BadSettings: The file cannot be read, others may read it, or it holds no secret.
    """
    if settings.webhook_secret_file is None:
        return None
    try:
        return secret_of(_read(settings.webhook_secret_file, "webhook_secret_file"))
    except BadSecret as error:
        raise BadSettings(f"webhook_secret_file {settings.webhook_secret_file}: {error}") from None


def otlp_headers(settings: Settings) -> dict[str, str]:
    """Return the headers that a collector knows the hub by.

    Raises:
        BadSettings: The file cannot be read, others may read it, or a line is no header.
    """
    if settings.otlp_headers_file is None:
        return {}
    found = {}
    text = _read(settings.otlp_headers_file, "otlp_headers_file")
    for number, line in enumerate(text.splitlines(), start=1):
        name, colon, value = line.partition(":")
        if not colon or not name.strip().isascii() or not name.strip():
            raise BadSettings(
                f"otlp_headers_file {settings.otlp_headers_file}, line {number}: "
                "write `name: value`"
            )
        found[name.strip().lower()] = value.strip()
    return found


def _read(file: Path, setting: str) -> str:
    try:
        return read_secret(file)
    except SeenByOthers:
        raise BadSettings(f"{setting}: others may read {file}; chmod 600 it") from None
    except OSError as error:
        raise BadSettings(f"{setting}: {file}: {error.strerror or error}") from None
