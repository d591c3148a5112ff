"""The `container` installer: one container of podman, made from an image that the release carries.

Owns the container `fieldfare-COMPONENT` and the images below `localhost/fieldfare/COMPONENT`. An
image comes as an archive, never from a registry, and is named by its identity, so a tag that
somebody moves changes nothing. One name for all releases: two never run side by side.
"""

import json
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from firmware_hooks.contract import NO_OPTIONS, InstallerError, Options, Order
from firmware_hooks.durable import explained, write_durably
from firmware_hooks.options import known, known_parameters, seconds
from firmware_hooks.podman import STOP_S, Podman
from firmware_hooks.shelf import Kept, Move, Shelf
from sync.manifest import STEADY_S
from sync.stages import Reason

TIMEOUT_S: Final = 600.0
LABEL: Final = "fieldfare.release"

OURS: Final = frozenset(
    {"--name", "--detach", "--rm", "--restart", "--pull", "--replace", "--cidfile", "--pod"}
)
"""Options of `podman run` that this installer gives itself, or that would take its place."""

_DETACHES: Final = re.compile(r"-[itqP]*d")
"""`-d`, also among other short options that take no value."""


class ContainerInstaller:
    """Runs one container of one component."""

    steady_s = STEADY_S
    """A container that ends at once was up when it was looked at first."""

    def __init__(self, component: str, install_dir: Path, options: Options = NO_OPTIONS) -> None:
        """Keep releases in `install_dir/component`.

        Args:
            component: What is installed.
            install_dir: Where releases are kept.
            options: `podman`: the program with its first arguments; `run_options`: for each
                `podman run`; `timeout_s`: how long one call may take; `stop_s`: how long a
                container has to end by itself.

        Raises:
            InstallerError: An option is wrong.
        """
        known("container", options, ("podman", "run_options", "timeout_s", "stop_s"))
        self._podman = Podman(
            shlex.split(str(options.get("podman", "podman"))),
            seconds("container", options, "timeout_s", TIMEOUT_S),
        )
        self._run_options = shlex.split(str(options.get("run_options", "")))
        _refuse_ours(self._run_options, Reason.INSTALLER_FAILED)
        self._stop_s = seconds("container", options, "stop_s", STOP_S)
        self._shelf = Shelf("container", install_dir / component)
        self._name = f"fieldfare-{component}"
        self._images = f"localhost/fieldfare/{component}"
        self.on_progress: Callable[[str], None] = lambda _: None

    def stage(self, order: Order) -> None:
        """Load the image."""
        is_staged = self.folder(order.digest).is_dir()

        def check(release: Kept) -> None:
            _words(release)
            if not is_staged:
                self._load(release)

        self._shelf.stage(order, check)

    def activate(self, digest: bytes) -> None:
        """End the old container and start the new one."""
        self._shelf.activate(
            digest, remember=_nothing, put=self._put, is_there=self.running() == digest
        )

    def check_trial(self, digest: bytes) -> None:
        """Make sure that the container runs, and that it is of this release and its image."""
        if self._shelf.current() != digest:
            raise InstallerError(Reason.INSTALLER_FAILED, "another release is in place")
        self._require(self._shelf.kept(digest))

    def commit(self, digest: bytes) -> None:
        """Nothing is left to do."""

    def roll_back(self, digest: bytes) -> bytes | None:
        """End the container and start that of the release before, from its image."""
        return self._shelf.roll_back(digest, remember=_nothing, put=self._put)

    def running(self) -> bytes | None:
        """Return the release whose container runs."""
        current = self._shelf.current()
        if current is not None:
            try:
                self._require(self._shelf.kept(current))
            except InstallerError:
                return None
        return current

    def folder(self, digest: bytes) -> Path:
        """Return where the release is kept; its image is in `artifacts` below it."""
        return self._shelf.folder(digest)

    def clean_up(self) -> None:
        """Remove releases that neither run nor ran before, with their images."""
        self._shelf.clean_up()
        if not self._shelf.home.exists():
            return
        kept = {self._image(path.name) for path in (self._shelf.home / "releases").glob("*")}
        for image in sorted(self._podman.tags(self._images) - kept):
            self._podman.do("rmi", image)

    # Images.

    def _image(self, digest: str) -> str:
        return f"{self._images}:{digest[:32]}"

    def _load(self, release: Kept) -> None:
        """Load the image of a release, and write down what it is."""
        archive = release.artifact(release.manifest.artifacts[0].name)
        identity = self._podman.load(archive)
        self._podman.do("tag", identity, self._image(release.digest.hex()))
        try:
            write_durably(release.folder / "image.json", json.dumps(identity).encode())
        except OSError as error:
            raise explained(error) from None

    def _identity(self, release: Kept) -> str:
        try:
            return str(json.loads((release.folder / "image.json").read_bytes()))
        except (OSError, ValueError) as error:
            raise InstallerError(Reason.INCONSISTENT, f"{release.folder}: {error}"[:200]) from None

    # Containers.

    def _put(self, move: Move) -> None:
        try:
            if move.reach is None:
                self._end()
            elif not self._runs(move.reach):
                self._start(move.reach)
                self._require(move.reach)
        except InstallerError as error:
            if move.is_back and error.reason == Reason.INSTALLER_FAILED:
                raise InstallerError(Reason.ROLLBACK_FAILED, error.detail) from None
            raise

    def _start(self, release: Kept) -> None:
        identity = self._identity(release)
        if not self._podman.has(identity):
            self._load(release)  # somebody removed it; the archive is still here
        options, command = _words(release)
        self._end()
        # Before what others say, because a word among it that is no option ends ours; and after it,
        # so that ours count.
        ours = ("--pull=never", "--name", self._name)
        label = ("--label", f"{LABEL}={release.digest.hex()}")
        self._podman.do(
            *("create", *ours, *self._run_options, *options, *ours, "--restart=always", *label),
            identity,
            *command,
        )
        made = self._podman.do("container", "inspect", "--format", "{{.Image}}", self._name)
        if made.stdout.decode().strip() != identity:
            self._end()
            raise InstallerError(
                Reason.MANIFEST_INVALID, "the options for podman hold a word that is no option"
            )
        self._podman.do("start", self._name)

    def _end(self) -> None:
        self._podman.do("rm", "--force", "--ignore", f"--time={self._stop_s:.0f}", self._name)

    def _runs(self, release: Kept) -> bool:
        try:
            self._require(release)
        except InstallerError:
            return False
        return True

    def _require(self, release: Kept) -> None:
        """Make sure that the container of a release runs."""
        form = f'{{{{.State.Running}}}} {{{{.Image}}}} {{{{index .Config.Labels "{LABEL}"}}}}'
        ended = self._podman.call("container", "inspect", "--format", form, self._name)
        found = ended.stdout.decode(errors="replace").split()
        if ended.code != 0 or found != ["true", self._identity(release), release.digest.hex()]:
            said = "is not there" if ended.code != 0 else f"is not as the release: {found}"
            raise InstallerError(Reason.INSTALLER_FAILED, f"container {self._name} {said}"[:200])


def _words(release: Kept) -> tuple[list[str], list[str]]:
    """Return the options for `podman run` and the command that a release asks for.

    Raises:
        InstallerError: A parameter is wrong, or the release is not one image.
    """
    known_parameters("container", release.manifest, ("run_options", "command"))
    if len(release.manifest.artifacts) != 1:
        raise InstallerError(
            Reason.MANIFEST_INVALID, "the container installer takes exactly one artifact"
        )
    try:
        options, command = (
            shlex.split(str(release.manifest.parameters.get(name, "")))
            for name in ("run_options", "command")
        )
    except ValueError as error:
        raise InstallerError(Reason.MANIFEST_INVALID, f"run_options or command: {error}") from None
    _refuse_ours(options, Reason.MANIFEST_INVALID)
    return options, command


def _refuse_ours(options: Sequence[str], reason: Reason) -> None:
    """Refuse options by which a container would not be found again, or would not stay.

    Raises:
        InstallerError: One is there; with this `reason`.
    """
    for option in options:
        name = option.partition("=")[0]
        if name in OURS or _DETACHES.match(option):
            raise InstallerError(
                reason, f"run_options: {name!r} is for the installer alone: leave it out"
            )


def _nothing(_: Move) -> None:
    """The way back needs nothing but the releases that are kept."""
