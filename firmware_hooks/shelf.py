"""The releases that an installer keeps, and which of them runs: for what has no tree and no slot.

Owns `<install_dir>/<component>`:

    releases/<digest>/release.json     the manifest
    releases/<digest>/artifacts/NAME   what it is made of, verified
    switch.json                        what runs, what ran before, and the move under way

What a move does to the device is the installer's; here is only that it is durable before it begins
and that it can be repeated, finished or turned back by a later start. While one is under way
neither release counts as running.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from firmware_hooks.contract import InstallerError, Order, RetryLater
from firmware_hooks.durable import (
    CHUNK_BYTES,
    PARTIAL,
    explained,
    fsync,
    fsync_tree,
    make_folder,
    remove,
    write_durably,
)
from sync.manifest import Artifact, BadManifest, Manifest, parse_manifest
from sync.stages import Reason

DIGEST_BYTES: Final = 32
STATE_BYTES_MAX: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Kept:
    """A release on the shelf."""

    digest: bytes
    folder: Path
    manifest: Manifest

    def artifact(self, name: str) -> Path:
        """Return where one of its files lies."""
        return self.folder / "artifacts" / name


@dataclass(frozen=True, slots=True)
class Move:
    """From one release to another."""

    leave: Kept | None
    """What ran when it began."""
    reach: Kept | None
    """What is to run when it ends; None for nothing of ours."""
    touched: tuple[Kept, ...]
    """Others that earlier moves, which never ended, may have put in place partly."""
    is_back: bool
    """It undoes `leave`."""


@dataclass(frozen=True, slots=True)
class _Under:
    """A move under way, as it is stored."""

    leave: bytes | None
    reach: bytes | None
    touched: tuple[bytes, ...]
    is_back: bool


@dataclass(frozen=True, slots=True)
class _State:
    current: bytes | None = None
    previous: bytes | None = None
    under: _Under | None = None


Act = Callable[[Move], None]


class Shelf:
    """Releases of one component, kept by one installer."""

    def __init__(self, installer: str, home: Path) -> None:
        """Keep them in `home` for the installer of this name. Touches nothing yet."""
        self._installer = installer
        self.home = home
        self._releases = home / "releases"
        self._switch = home / "switch.json"

    # Looking.

    def folder(self, digest: bytes) -> Path:
        """Return where a release lies, or would."""
        return self._releases / digest.hex()

    def current(self) -> bytes | None:
        """Return the release that runs; None if none does, or a move is under way."""
        try:
            state = self._read()
        except InstallerError:
            return None
        return None if state.under is not None else state.current

    def kept(self, digest: bytes) -> Kept:
        """Return a release that is here.

        Raises:
            InstallerError: It is not, or cannot be read.
        """
        folder = self.folder(digest)
        try:
            manifest = parse_manifest((folder / "release.json").read_bytes(), digest=digest)
        except OSError as error:
            raise InstallerError(
                Reason.INSTALLER_FAILED,
                f"the release {digest.hex()[:12]} is not staged: {error.strerror}",
            ) from None
        except BadManifest as error:
            raise InstallerError(Reason.INCONSISTENT, f"{folder}: {error}"[:200]) from None
        return Kept(digest, folder, manifest)

    # Acting.

    def stage(self, order: Order, check: Callable[[Kept], None]) -> None:
        """Keep a release: its manifest, and its artifacts, verified.

        Args:
            order: The release.
            check: Raises what makes it impossible here. The folder it is called with need not be
                the last one; nothing may be written there.

        Raises:
            InstallerError: It cannot be kept; nothing of it is left.
        """
        state = self._read()
        self._refuse_strangers()
        final = self.folder(order.digest)
        if final.is_dir():
            check(self.kept(order.digest))
            return
        if sum(each.length_bytes for each in order.manifest.artifacts) > order.bytes_max:
            raise order.too_large()
        partial = final.with_name(final.name + PARTIAL)
        try:
            make_folder(self._releases)
            remove(partial)
            (partial / "artifacts").mkdir(parents=True)
            release = Kept(order.digest, partial, order.manifest)
            for artifact in order.manifest.artifacts:
                _copy(order.artifacts[artifact.name], release.artifact(artifact.name), artifact)
            (partial / "release.json").write_bytes(order.manifest.canonical())
            check(release)
            fsync_tree(partial)
            if not self._switch.exists():
                self._write(state)  # from here on the component is this installer's
            partial.rename(final)
            fsync(self._releases)
        except (OSError, InstallerError) as error:
            with contextlib.suppress(OSError):
                remove(partial)
            if isinstance(error, OSError):
                raise explained(error) from None
            raise

    def activate(self, digest: bytes, *, remember: Act, put: Act, is_there: bool) -> None:
        """Move to a release.

        Args:
            digest: The release.
            remember: Called once before the move, while nothing has been touched: makes durable
                what the way back needs. What it raises ends the attempt; nothing was done.
            put: Makes the move; called again, with the same move, after a crash. It may raise
                `RetryLater` as long as it has touched nothing.
            is_there: Whether the release runs already, if it is the current one.

        Raises:
            InstallerError: From `remember` or `put`, or it is not staged.
        """
        reach = self.kept(digest)
        state = self._read()
        under = state.under
        if under is None and state.current == digest and is_there:
            return
        is_new = under is None or under.reach != digest or under.is_back
        if under is None or is_new:
            under = _Under(_base(state), digest, _touched(state, digest), is_back=False)
            remember(self._move(under, reach))
            state = replace(state, under=under)
            self._write(state)
        try:
            put(self._move(under, reach))
        except RetryLater:
            # A move that an earlier call began may be half made, whatever this one has touched.
            if is_new and not under.touched:
                self._write(replace(state, under=None))
            raise
        previous = under.leave if under.leave != digest else state.previous
        self._write(_State(digest, previous))

    def roll_back(self, digest: bytes, *, remember: Act, put: Act) -> bytes | None:
        """Move back from a release to what ran before it; nothing if it does not run.

        Args:
            digest: The release that was not good.
            remember: As for `activate`.
            put: As for `activate`.

        Returns:
            The release that runs then.

        Raises:
            InstallerError: From `remember` or `put`, or the earlier release is gone.
        """
        state = self._read()
        under = state.under
        if under is None:
            if state.current != digest or state.previous == digest:
                return state.current
            under = _Under(digest, state.previous, (), is_back=True)
            move = self._move_back(under)
            remember(move)
            self._write(replace(state, under=under))
        elif under.is_back and under.leave == digest:
            move = self._move_back(under)
        elif not under.is_back and under.reach == digest:
            under = _Under(digest, under.leave, under.touched, is_back=True)
            move = self._move_back(under)
            self._write(replace(state, under=under))
        else:
            return _base(state)
        put(move)
        self._write(_State(under.reach, state.previous if under.reach is not None else None))
        return under.reach

    def clean_up(self) -> None:
        """Remove what neither runs, nor ran before, nor belongs to a move under way."""
        state = self._read()
        keep = {state.current, state.previous}
        if state.under is not None:
            keep |= {state.under.leave, state.under.reach, *state.under.touched}
        names = {digest.hex() for digest in keep if digest is not None}
        try:
            if self._releases.is_dir():
                for folder in sorted(self._releases.iterdir()):
                    if folder.name not in names:
                        remove(folder)
            remove(self._switch.with_name(self._switch.name + PARTIAL))
        except OSError as error:
            raise explained(error) from None

    # Parts.

    def _move(self, under: _Under, reach: Kept | None) -> Move:
        leave = self.kept(under.leave) if under.leave is not None else None
        touched = tuple(self.kept(each) for each in under.touched)
        return Move(leave, reach, touched, under.is_back)

    def _move_back(self, under: _Under) -> Move:
        try:
            return self._move(under, None if under.reach is None else self.kept(under.reach))
        except InstallerError as error:
            raise InstallerError(
                Reason.ROLLBACK_FAILED, f"the earlier release is gone: {error.detail}"[:200]
            ) from None

    def _refuse_strangers(self) -> None:
        if not self._switch.exists() and (self.home / "current").is_symlink():
            raise InstallerError(
                Reason.INCOMPATIBLE,
                f"{self.home} holds releases of another installer; give this one another component",
            )

    def _read(self) -> _State:
        try:
            text = self._switch.read_bytes()[:STATE_BYTES_MAX]
        except FileNotFoundError:
            return _State()
        except OSError as error:
            raise explained(error) from None
        try:
            fields = json.loads(text)
            installer = fields["installer"]
            under = fields["under"]
            state = _State(
                _digest(fields["current"]),
                _digest(fields["previous"]),
                None
                if under is None
                else _Under(
                    _digest(under["leave"]),
                    _digest(under["reach"]),
                    tuple(bytes.fromhex(each) for each in under["touched"]),
                    bool(under["is_back"]),
                ),
            )
        except (ValueError, KeyError, TypeError):
            raise InstallerError(
                Reason.INCONSISTENT, f"{self._switch} cannot be read: what runs is not known"
            ) from None
        if installer != self._installer:
            raise InstallerError(
                Reason.INCOMPATIBLE,
                f"{self.home} belongs to the installer {installer!r}; "
                "give this one another component",
            )
        return state

    def _write(self, state: _State) -> None:
        under = state.under
        text = json.dumps(
            {
                "installer": self._installer,
                "current": _hex(state.current),
                "previous": _hex(state.previous),
                "under": None
                if under is None
                else {
                    "leave": _hex(under.leave),
                    "reach": _hex(under.reach),
                    "touched": [each.hex() for each in under.touched],
                    "is_back": under.is_back,
                },
            },
            indent=1,
        )
        try:
            write_durably(self._switch, text.encode() + b"\n")
        except OSError as error:
            raise explained(error) from None


def _base(state: _State) -> bytes | None:
    """Return the release that a move under way started from, or was to go back to."""
    if state.under is None:
        return state.current
    return state.under.reach if state.under.is_back else state.under.leave


def _touched(state: _State, but: bytes) -> tuple[bytes, ...]:
    if state.under is None:
        return ()
    ends = {state.under.leave, state.under.reach, *state.under.touched} - {_base(state), but, None}
    return tuple(sorted(each for each in ends if each is not None))


def _digest(text: str | None) -> bytes | None:
    if text is None:
        return None
    digest = bytes.fromhex(text)
    if len(digest) != DIGEST_BYTES:
        raise ValueError(text)
    return digest


def _hex(digest: bytes | None) -> str | None:
    return None if digest is None else digest.hex()


def _copy(source: Path, target: Path, artifact: Artifact) -> None:
    """Copy a file that is what the manifest names; what is read is what is checked."""
    digest = hashlib.sha256()
    length_bytes = 0
    with source.open("rb") as given, target.open("xb") as file:
        while chunk := given.read(CHUNK_BYTES):
            digest.update(chunk)
            length_bytes += len(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    if length_bytes != artifact.length_bytes or digest.hexdigest() != artifact.sha256:
        raise InstallerError(
            Reason.DIGEST_MISMATCH, f"{artifact.name} on disk is not what the manifest names"
        )
