"""What the hub knows to be in its bucket, written down.

Owns `blobs/bucket/` in the state directory: a file for each artifact that is in the bucket, which
holds its length, and `<digest>.gone` for each that is to be removed from there. Never asks the
bucket.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hub.artifacts import is_digest, write_durably
from hub.errors import StateDirUnusable

FOLDER: Final = Path("blobs") / "bucket"

GONE: Final = ".gone"


class BucketIndex:
    """The list of one hub. What it says is durable when its methods return."""

    def __init__(self, state_dir: Path) -> None:
        """Read what was written down.

        Raises:
            StateDirUnusable: The folder cannot be made or read.
        """
        self._folder = state_dir / FOLDER
        self._lengths: dict[str, int] = {}
        try:
            self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            for path in self._folder.iterdir():
                if is_digest(path.name):
                    self._lengths[path.name] = int(path.read_text())
                elif path.suffix != GONE:
                    path.unlink()  # half written when the power went
        except (OSError, ValueError) as error:
            raise StateDirUnusable(
                f"the list of what is in the bucket, {self._folder}, cannot be used: {error}"
            ) from None

    def length_bytes(self, digest: str) -> int | None:
        """Return the length of an artifact, None if it is not in the bucket."""
        return self._lengths.get(digest)

    def __contains__(self, digest: str) -> bool:
        """Tell whether an artifact is in the bucket."""
        return digest in self._lengths

    def __iter__(self) -> Iterator[str]:
        """Give all that are in the bucket."""
        return iter(list(self._lengths))

    def add(self, digest: str, length_bytes: int) -> None:
        """Write down that an artifact is in the bucket."""
        write_durably(self._folder / digest, str(length_bytes).encode())
        self._lengths[digest] = length_bytes

    def forget(self, digest: str) -> bool:
        """Strike an artifact out; False if it was not in."""
        if self._lengths.pop(digest, None) is None:
            return False
        (self._folder / digest).unlink(missing_ok=True)
        return True

    def doom(self, digest: str) -> None:
        """Write down that an artifact is to be removed from the bucket."""
        write_durably(self._folder / f"{digest}{GONE}", b"")

    def spare(self, digest: str) -> None:
        """Take that back, or note that it was done."""
        (self._folder / f"{digest}{GONE}").unlink(missing_ok=True)

    def doomed(self) -> list[str]:
        """Return those that are to be removed from the bucket."""
        return [path.stem for path in self._folder.glob(f"*{GONE}")]
