"""The `compose` installer: several containers as one release, described by a compose file.

Owns the containers and networks of the project `fieldfare-COMPONENT`, and the images below
`localhost/fieldfare/COMPONENT`. Each image comes as an archive in the release, never from a
registry, and the compose file names it by a variable that stands for its identity.

podman-compose (1.0.3) ends with 0 whatever becomes of the containers, and starts one that is there
if it cannot make it anew. So nothing of an earlier release is left when it is called, and what runs
then is looked at.
"""

import fcntl
import json
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from firmware_hooks.contract import NO_OPTIONS, InstallerError, Options, Order
from firmware_hooks.durable import explained, write_durably
from firmware_hooks.hook import Ended
from firmware_hooks.options import known, seconds
from firmware_hooks.podman import STOP_S, Podman, said
from firmware_hooks.shelf import Kept, Move, Shelf
from firmware_hooks.tool import run_tool
from sync.manifest import STEADY_S
from sync.stages import Reason

TIMEOUT_S: Final = 600.0
LABEL: Final = "fieldfare.release"
PROJECT: Final = "io.podman.compose.project"
SERVICE: Final = "com.docker.compose.service"
FILE: Final = "compose"
"""Name of the artifact that is the compose file; the others are images."""

IMAGE: Final = "FIELDFARE_IMAGE_"
"""Begins the names of the variables that stand for images."""

STAND_IN: Final = "fieldfare-stands-in-for-"
"""Begins what stands for an image where a file is only read."""

POLL_S: Final = 0.1

_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")


class ComposeInstaller:
    """Runs the containers of one component."""

    steady_s = STEADY_S
    """A container that ends at once was up when it was looked at first."""

    def __init__(self, component: str, install_dir: Path, options: Options = NO_OPTIONS) -> None:
        """Keep releases in `install_dir/component`.

        Args:
            component: What is installed.
            install_dir: Where releases are kept.
            options: `podman` and `compose`: the programs with their first arguments;
                `run_options`: for each `podman run`; `timeout_s`: how long one call may take;
                `stop_s`: how long a container has to end by itself.

        Raises:
            InstallerError: An option is wrong.
        """
        known("compose", options, ("podman", "compose", "run_options", "timeout_s", "stop_s"))
        self._timeout_s = seconds("compose", options, "timeout_s", TIMEOUT_S)
        self._stop_s = seconds("compose", options, "stop_s", STOP_S)
        self._podman = Podman(shlex.split(str(options.get("podman", "podman"))), self._timeout_s)
        self._compose = shlex.split(str(options.get("compose", "podman-compose")))
        self._run_options = str(options.get("run_options", ""))
        self._shelf = Shelf("compose", install_dir / component)
        self._project = f"fieldfare-{component}".replace(".", "_")  # a project's name has no dots
        self._images = f"localhost/fieldfare/{component}"
        self._lock = self._shelf.home / "compose.lock"
        self.on_progress: Callable[[str], None] = lambda _: None

    def stage(self, order: Order) -> None:
        """Read the compose file, and load the images."""
        is_staged = self.folder(order.digest).is_dir()

        def check(release: Kept) -> None:
            _services(release)
            if not is_staged:
                self._require_readable(release)
                self._load(release)

        self._shelf.stage(order, check)

    def activate(self, digest: bytes) -> None:
        """End the old containers and start the new ones."""
        self._shelf.activate(
            digest, remember=_nothing, put=self._put, is_there=self.running() == digest
        )

    def check_trial(self, digest: bytes) -> None:
        """Make sure that every service runs, and that it is of this release and its images."""
        if self._shelf.current() != digest:
            raise InstallerError(Reason.INSTALLER_FAILED, "another release is in place")
        self._require(self._shelf.kept(digest))

    def commit(self, digest: bytes) -> None:
        """Nothing is left to do."""

    def roll_back(self, digest: bytes) -> bytes | None:
        """End the containers and start those of the release before, from its images."""
        return self._shelf.roll_back(digest, remember=_nothing, put=self._put)

    def running(self) -> bytes | None:
        """Return the release whose services all run."""
        current = self._shelf.current()
        if current is not None:
            try:
                self._require(self._shelf.kept(current))
            except InstallerError:
                return None
        return current

    def folder(self, digest: bytes) -> Path:
        """Return where the release is kept; its files are in `artifacts` below it."""
        return self._shelf.folder(digest)

    def clean_up(self) -> None:
        """Remove releases that neither run nor ran before, with their images."""
        self._shelf.clean_up()
        if not self._shelf.home.exists():
            return
        kept = {path.name[:32] for path in (self._shelf.home / "releases").glob("*")}
        for image in sorted(self._podman.tags(self._images)):
            if image.rpartition(":")[2][:32] not in kept:
                self._podman.do("rmi", image)

    # Images.

    def _load(self, release: Kept) -> dict[str, str]:
        """Load the images of a release, write down what they are, and return that."""
        identities = {}
        for artifact in release.manifest.artifacts:
            if artifact.name == FILE:
                continue
            self.on_progress(f"loading {artifact.name}")
            identity = self._podman.load(release.artifact(artifact.name))
            tag = f"{release.digest.hex()[:32]}-{artifact.name}"
            self._podman.do("tag", identity, f"{self._images}:{tag}")
            identities[artifact.name] = identity
        try:
            write_durably(release.folder / "images.json", json.dumps(identities).encode())
        except OSError as error:
            raise explained(error) from None
        return identities

    def _identities(self, release: Kept) -> dict[str, str]:
        try:
            found = json.loads((release.folder / "images.json").read_bytes())
            return {str(name): str(identity) for name, identity in found.items()}
        except (OSError, ValueError, AttributeError) as error:
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
        identities = self._identities(release)
        if not all(self._podman.has(identity) for identity in identities.values()):
            identities = self._load(release)  # somebody removed one; the archives are still here
        self._end()
        label = f"--label={LABEL}={release.digest.hex()}"
        self._do(
            release,
            identities,
            f"--podman-run-args={self._run_options} --pull=never {label}",
            "up",
        )

    def _end(self) -> None:
        """Remove every container and network of the component. Volumes stay: they are its data."""
        self._await_orphan()
        mine = f"label={PROJECT}={self._project}"
        listed = self._podman.do("ps", "--all", "--quiet", "--no-trunc", "--filter", mine)
        if containers := listed.stdout.decode().split():
            stop = f"--time={self._stop_s:.0f}"
            self._podman.do("rm", "--force", "--ignore", stop, *containers)
        listed = self._podman.do("network", "ls", "--quiet", "--filter", mine)
        if networks := listed.stdout.decode().split():
            self._podman.do("network", "rm", *networks)

    def _await_orphan(self) -> None:
        """Wait for what an agent that died has started: it would go on starting containers.

        Raises:
            InstallerError: It does not end.
        """
        end_s = time.monotonic() + self._timeout_s
        try:
            with self._lock.open("ab") as held:
                while True:
                    try:
                        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        if time.monotonic() > end_s:
                            raise InstallerError(
                                Reason.HOOK_TIMED_OUT, "another podman-compose still runs"
                            ) from None
                        time.sleep(POLL_S)
                    else:
                        return
        except OSError as error:
            raise explained(error) from None

    def _require_readable(self, release: Kept) -> None:
        """Let podman-compose read the file, without doing anything, and look at what it would do.

        A dry run still makes networks, so it is given another program for podman.
        """
        names = [each.name for each in release.manifest.artifacts if each.name != FILE]
        stand_ins = {name: f"{STAND_IN}{name}" for name in names}
        try:
            ended = self._do(release, stand_ins, "--podman-path=true", "--dry-run", "up")
        except InstallerError as error:
            if error.reason == Reason.INSTALLER_FAILED:
                raise InstallerError(Reason.MANIFEST_INVALID, error.detail) from None
            raise
        folder = release.artifact(FILE).parent
        for line in ended.stdout.decode(errors="replace").splitlines():
            words = line.split()
            if words[:2] == ["true", "run"] and (why := _wrong_run(words, folder, stand_ins)):
                raise InstallerError(Reason.MANIFEST_INVALID, why)

    def _do(self, release: Kept, identities: dict[str, str], *words: str) -> Ended:
        file = release.artifact(FILE)
        ended = run_tool(
            # The lock is flock's, not what it starts: containers outlive the call.
            [
                *("flock", "--close", str(self._lock), *self._compose, "-p", self._project),
                *("-f", str(file), *words, "--detach", "--no-build"),
            ],
            folder=file.parent,
            environment={_variable(name): identity for name, identity in identities.items()},
            timeout_s=self._timeout_s,
        )
        if ended.code != 0:
            raise said("podman-compose", ended)
        return ended

    def _runs(self, release: Kept) -> bool:
        try:
            self._require(release)
        except InstallerError:
            return False
        return True

    def _require(self, release: Kept) -> None:
        """Make sure that every service of a release runs, and nothing of another one.

        Raises:
            InstallerError: It is not so; names the service.
        """
        images = set(self._identities(release).values())
        found: dict[str, list[bool]] = {}
        for running, image, digest, service in self._containers():
            is_ours = digest == release.digest.hex() and image in images
            found.setdefault(service, []).append(is_ours and running == "true")
            if not is_ours:
                raise _wrong(service, "is of another release or image")
        for service in _services(release):
            if not found.get(service):
                raise _wrong(service, "has no container")
            if not all(found[service]):
                raise _wrong(service, "does not run")

    def _containers(self) -> list[list[str]]:
        """Return of each container whether it runs, its image, its release and its service."""
        mine = f"label={PROJECT}={self._project}"
        listed = self._podman.do("ps", "--all", "--quiet", "--no-trunc", "--filter", mine)
        containers = listed.stdout.decode().split()
        if not containers:
            return []
        labels = " ".join(f'{{{{index .Config.Labels "{name}"}}}}' for name in (LABEL, SERVICE))
        form = f"{{{{.State.Running}}}} {{{{.Image}}}} {labels}"
        told = self._podman.do("container", "inspect", "--format", form, *containers)
        return [(line.split(" ") + [""] * 4)[:4] for line in told.stdout.decode().splitlines()]


def _services(release: Kept) -> list[str]:
    """Return the services of a release that must run.

    Raises:
        InstallerError: A parameter is wrong, or the files are not what is needed.
    """
    parameters = release.manifest.parameters
    services = str(parameters.get("services", "")).split()
    names = {artifact.name for artifact in release.manifest.artifacts}
    unknown = set(parameters) - {"services"}
    strange = sorted(name for name in names if not _NAME.fullmatch(name))
    why = ""
    if unknown:
        why = f"parameter {min(unknown)!r} is not known to the compose installer"
    elif not services:
        why = "parameter 'services' must name the services that run"
    elif FILE not in names or len(names) == 1:
        why = f"the compose installer takes an artifact {FILE!r} and one for each image"
    elif strange:
        why = f"artifact {strange[0]!r} must be called by small letters, digits and hyphens"
    if why:
        raise InstallerError(Reason.MANIFEST_INVALID, why)
    return services


def _wrong_run(words: Sequence[str], folder: Path, stand_ins: Mapping[str, str]) -> str:
    """Return what is wrong with a container that would be started; nothing if all is well."""
    name = next((word for word in words if word.startswith("--name=")), "")[7:]
    if any(word == "--pull" or word.startswith("--pull=") for word in words):
        return f"{name} says when its image is pulled (pull_policy), and images are never fetched"
    if not set(words) & set(stand_ins.values()):
        return f"{name} names an image that the release does not carry: use ${{{IMAGE}NAME}}"
    mounts = [
        then
        for word, then in pairwise(words)
        if word in {"-v", "--volume", "--mount"} and f"{folder}/" in then
    ]
    if mounts:
        return (
            f"{name} keeps data in the folder of the release ({mounts[0][-60:]}), which goes with "
            "it: name a volume or an absolute path"
        )
    return ""


def _variable(artifact: str) -> str:
    return IMAGE + artifact.upper().replace("-", "_")


def _wrong(service: str, why: str) -> InstallerError:
    return InstallerError(Reason.INSTALLER_FAILED, f"service {service!r} {why}"[:200])


def _nothing(_: Move) -> None:
    """The way back needs nothing but the releases that are kept."""
