"""Podman, as the installers `container` and `compose` call it.

Owns what a failed call means, and how the archive of an image becomes an image with an identity.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from firmware_hooks.contract import InstallerError
from firmware_hooks.hook import Ended
from firmware_hooks.tool import failed, run_tool
from sync.stages import Reason

FULL: Final = "no space left on device"

STOP_S: Final = 10.0
"""Between asking a container to end and ending it."""


class Podman:
    """The podman of this device."""

    def __init__(self, words: Sequence[str], timeout_s: float) -> None:
        """Call it by `words`, its program with its first arguments, for `timeout_s` at most."""
        self._words = words
        self._timeout_s = timeout_s

    def do(self, *words: str) -> Ended:
        """Call it.

        Raises:
            InstallerError: It cannot be started, takes too long, or fails.
        """
        ended = self.call(*words)
        if ended.code != 0:
            raise said(f"podman {words[0]}", ended)
        return ended

    def call(self, *words: str) -> Ended:
        """Call it, whatever its exit code is.

        Raises:
            InstallerError: It cannot be started, or takes too long.
        """
        return run_tool([*self._words, *words], folder=Path("/"), timeout_s=self._timeout_s)

    def load(self, archive: Path) -> str:
        """Load the one image of an archive, and return its identity.

        Raises:
            InstallerError: There is another number of them, or they cannot be loaded.
        """
        loaded = self.do("load", "--quiet", "--input", str(archive))
        names = [
            line.partition(":")[2].strip()
            for line in loaded.stdout.decode(errors="replace").splitlines()
            if line.startswith("Loaded image")
        ]
        if len(names) != 1:
            raise InstallerError(
                Reason.MANIFEST_INVALID, f"the archive holds {len(names)} images instead of one"
            )
        inspected = self.do("image", "inspect", "--format", "{{.Id}}", names[0])
        return inspected.stdout.decode().strip()

    def has(self, identity: str) -> bool:
        """Tell whether an image is here."""
        return self.call("image", "exists", identity).code == 0

    def tags(self, name: str) -> set[str]:
        """Return the images of this name, each as `name:tag`."""
        form = "{{.Repository}}:{{.Tag}}"
        listed = self.do("images", "--format", form, "--filter", f"reference={name}")
        return set(listed.stdout.decode().split())


def said(name: str, ended: Ended) -> InstallerError:
    """Return the error of a call that ended with a code that means failure."""
    error = failed(name, ended)
    return InstallerError(Reason.NO_SPACE, error.detail) if FULL in error.detail else error
