"""Files that a command leaves behind: whole, or as they were before."""

from pathlib import Path

from hub.cli.exits import CommandFailed, Exit


def save(file: Path, text: str) -> None:
    """Write `text` to `file`; what was there before goes only when the new content is whole.

    Raises:
        CommandFailed: It cannot be written; what was there still is.
    """
    try:
        if file.exists() and not file.is_file():  # a pipe or a terminal takes no file beside it
            file.write_text(text)
            return
        part = file.with_name(f".{file.name}.part")
        try:
            part.write_text(text)
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise CommandFailed(f"{file} cannot be written: {error.strerror}", Exit.FILE) from None
