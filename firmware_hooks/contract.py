"""What an installer is: the calls, in their order, and what each promises.

Owns the contract between the agent and whatever puts a release onto the device. An installer never
talks to the hub, never decides whether a release is good, and keeps no state of its own beyond what
it finds on disk.

Order: `stage`, `activate`, `check_trial` and the release's own health command, `commit`;
`roll_back` instead of `commit` when the trial failed, or when `activate` did; `clean_up` when no
install is under way. Every call may be repeated after a crash, whatever of it had been done, and
must then end as if it had been called once.

An installer is found by the entry point of its name in the group `fieldfare.installers`; nothing
else has to know of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol, runtime_checkable

from sync.manifest import Manifest
from sync.stages import Reason

Options = Mapping[str, str | int | float | bool]

NO_OPTIONS: Final[Options] = MappingProxyType({})

ENTRY_POINTS: Final = "fieldfare.installers"
"""Group of entry points, each a class that is an `Installer`."""


ROOM_UNKNOWN: Final = 2**63 - 1


class InstallerError(Exception):
    """The installer could not do its part. `reason` is a code of `sync.stages.Reason`."""

    def __init__(self, reason: str, detail: str, *, is_final: bool = False) -> None:
        """Carry the code for the hub and one line for a person.

        `is_final`: `check_trial` has been refused for good, and need not be called again.
        """
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.is_final = is_final


class RetryLater(InstallerError):
    """Not now: something on the device asks to wait.

    Nothing was switched then, except on the way back.

    `stage` and `activate` may raise it. The agent asks again after `wait_s`, for as long as it puts
    off the install; it begins with `stage` then, and the install can be withdrawn meanwhile. After
    a crash in `activate` it calls `activate` alone. `roll_back` may raise it too, also when
    something was switched back, and is then called again a bounded number of times.
    """

    def __init__(self, detail: str, wait_s: float) -> None:
        """Carry one line for a person, and how long to wait before the call is made again."""
        super().__init__(Reason.BUSY, detail)
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class Order:
    """One release to install."""

    manifest: Manifest
    digest: bytes
    """SHA-256 of the manifest: the release's identity."""
    artifacts: Mapping[str, Path]
    """Verified files by artifact name. Check them again before use: disks lie."""
    unpacked_bytes_max: int
    """Most bytes that a release may have once it is unpacked."""
    room_bytes: int = ROOM_UNKNOWN
    """So many bytes the disk can give now and keep its reserve."""

    @property
    def bytes_max(self) -> int:
        """Most bytes that `stage` may write: of both bounds the lower."""
        return min(self.unpacked_bytes_max, self.room_bytes)

    def too_large(self) -> InstallerError:
        """Return what `stage` raises before it writes more than `bytes_max`."""
        if self.room_bytes < self.unpacked_bytes_max:
            return InstallerError(
                Reason.NO_SPACE,
                f"the release takes more than the {self.room_bytes // 1024} KiB that the disk has "
                "beside its reserve",
            )
        return InstallerError(
            Reason.TOO_LARGE, f"the release is larger than {self.unpacked_bytes_max} bytes"
        )


@runtime_checkable
class TakesPacks(Protocol):
    """What an installer has beside an `Installer` if it can start from what runs.

    Nothing of it is needed: a release that cannot come as a pack comes whole.
    """

    def can_start_from(self, digest: bytes) -> bool:
        """Tell whether a pack could start from this release; not all of it is looked at."""
        ...

    def stage_pack(self, order: Order, pack: Path, base: bytes) -> str:
        """Do what `stage` does, from the release `base` and a pack instead of artifacts.

        `stage` finds it done afterwards. Returns what was done, for a person.

        Args:
            order: As for `stage`; its artifacts need not be there.
            pack: A file. It may be anything.
            base: Digest of the release that runs.

        Raises:
            InstallerError: It was not done; nothing of it is left, and `stage` can still be called.
        """
        ...


@runtime_checkable
class Reboots(Protocol):
    """What an installer has beside an `Installer` if a release runs only after a reboot.

    While a reboot is awaited, `running` still tells what really runs; after it, what was booted.
    `check_trial` then raises with `Reason.FELL_BACK` if the bootloader went back.
    """

    def awaits_reboot(self) -> tuple[str, ...] | None:
        """Return what the reboot has to be given, None if none is needed.

        Asked after `activate` and after `roll_back`. `()` is a plain reboot; `("0 tryboot",)` is
        how a Raspberry Pi is told to try another partition once.
        """
        ...


@runtime_checkable
class Starts(Protocol):
    """What an installer has beside an `Installer` if it starts what may end a moment later."""

    steady_s: float
    """For so long `check_trial` must go on having no doubt, where the release says nothing."""


@runtime_checkable
class TellsProgress(Protocol):
    """What an installer has beside an `Installer` if it can say how far it is."""

    on_progress: Callable[[str], None]
    """Set by the agent; takes one line for a person, as often as there is something to say."""


class Installer(Protocol):
    """One way of putting releases of one component onto this device."""

    def __init__(self, component: str, install_dir: Path, options: Options = NO_OPTIONS) -> None:
        """Work for `component` below `install_dir`. Touches nothing yet.

        `options` are what this device's settings say for the installer (`[installers.NAME]`); what
        a release says comes with `stage`.

        Raises:
            InstallerError: An option is wrong, or missing.
        """
        ...

    def stage(self, order: Order) -> None:
        """Lay the release down where it does not run yet. What runs is not touched.

        Raises:
            InstallerError: It cannot be laid down; nothing of it is left.
        """
        ...

    def activate(self, digest: bytes) -> None:
        """Make the staged release the one that runs, at once and durably.

        Raises:
            InstallerError: It was not staged, or the switch failed. `roll_back` is called next.
        """
        ...

    def check_trial(self, digest: bytes) -> None:
        """Make sure that what is about to be tried is this release, and not what ran before.

        It is called again until the trial's deadline, because what runs may still be coming up.

        Raises:
            InstallerError: Another one runs, or nothing does yet. `Reason.FELL_BACK`,
                `Reason.INCONSISTENT` and what is final end the trial at once.
        """
        ...

    def commit(self, digest: bytes) -> None:
        """Accept the active release for good. Must not fail."""
        ...

    def roll_back(self, digest: bytes) -> bytes | None:
        """Undo `activate` of `digest` and return the digest of what runs then.

        None means that nothing ran before. If `digest` is not what runs, the switch was never
        thrown, or is back already, and nothing changes.

        Raises:
            InstallerError: The earlier release is gone; what is active stays so.
        """
        ...

    def running(self) -> bytes | None:
        """Return the digest of the active release, None if there is none."""
        ...

    def folder(self, digest: bytes) -> Path:
        """Return where the release lies: commands of its manifest run there."""
        ...

    def clean_up(self) -> None:
        """Remove what neither runs nor is needed for going back."""
        ...
