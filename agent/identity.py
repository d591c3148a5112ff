"""Who this device is: the files of its identity, and when its certificate has to be renewed.

Owns the folder `identity`, its names and how they are replaced. Never reads a certificate's inside
and never signs: that is `agent.enrol`, in a process that ends, because the cryptography would stay
in memory for good (9 MB). The times of the certificate stand as text in its file, above the PEM,
where every reader of PEM skips them.

Rules: the key is written before anybody hears of it and then stays; `cert.pem` is written last and
replaced whole. So key and certificate fit at every moment, whenever the power fails. An identity
that is to take the place of one grows in a folder beside it (`identity.new`), and the folders
change their names when it is complete; what a power cut leaves of that is finished by whoever looks
next.
"""

import contextlib
import os
import re
import shutil
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

from agent.settings import Settings
from sync.transport.tls import client_context

FOLDER: Final = "identity"
KEY: Final = "key.pem"
CERTIFICATE: Final = "cert.pem"
AUTHORITY: Final = "ca.pem"
NEW: Final = ".new"
OLD: Final = ".old"
"""Ends of the names of the folders beside it."""

NONCE: Final = "nonce"

CERTIFICATE_BYTES_MAX: Final = 16 * 1024

RENEW_RATIO: Final = 2 / 3
"""Part of a certificate's life after which it is renewed."""

JITTER_RATIO: Final = 0.05
"""Of its life, so that a fleet that enrolled in one morning does not renew in one minute."""

CLOCK_SLACK_S: Final = 86_400.0
"""A clock that is this far before the certificate's beginning is wrong."""

CHECK_S: Final = 3600.0
"""How often it is looked whether to renew, at most; less for certificates that live shortly."""

AWAY_S: Final = 2 * 3600.0
"""So long without the broker, the certificate may be the reason, whatever the clock says."""

_TIMES: Final = re.compile(rb"not-before: (\d{1,12})\nnot-after: (\d{1,12})\n")


class NotEnrolled(Exception):
    """There is no identity, or it cannot be used; the message says what to do."""


class Validity(NamedTuple):
    """When a certificate counts, seconds of UTC."""

    not_before_s: int
    not_after_s: int

    @property
    def life_s(self) -> int:
        """How long it counts in all."""
        return max(1, self.not_after_s - self.not_before_s)


def next_to(folder: Path, end: str) -> Path:
    """Return the folder beside the identity's whose name ends in `NEW` or `OLD`."""
    return folder.with_name(folder.name + end)


def exchange(folder: Path) -> None:
    """Put the identity in the folder beside in the place of the one that counts, which is removed.

    Raises:
        OSError: The disk fails. One of the two counts, whole.
    """
    shutil.rmtree(next_to(folder, OLD), ignore_errors=True)
    if folder.exists():
        folder.rename(next_to(folder, OLD))
        _sync(folder.parent)
    else:
        next_to(folder, OLD).mkdir()
    finish_exchange(folder)


def finish_exchange(folder: Path) -> None:
    """Finish an exchange that was begun; nothing if none was. May be done by several at once.

    Raises:
        OSError: The disk fails.
    """
    new, old = next_to(folder, NEW), next_to(folder, OLD)
    if not old.is_dir():
        return
    for source in (new, old):
        # Each step leaves one whole identity, under the old name or the new.
        if not folder.exists() and (source / CERTIFICATE).exists():
            with contextlib.suppress(FileNotFoundError):  # somebody else was quicker
                source.rename(folder)
            _sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


class Identity:
    """The identity in one folder.

    Raises:
        NotEnrolled: There is none, or its files do not go together.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with contextlib.suppress(OSError):  # a disk that turned read-only: what is there counts
            finish_exchange(folder)
        if not (folder / CERTIFICATE).exists():
            raise NotEnrolled(
                f"this device is not enrolled (no {CERTIFICATE} in {folder}): run "
                "`fieldfare-agent enroll`"
            )
        try:
            self.context = client_context(folder / AUTHORITY, folder / CERTIFICATE, folder / KEY)
            self.validity = _validity(folder / CERTIFICATE)
        except (OSError, ValueError) as error:
            raise NotEnrolled(
                f"the identity in {folder} cannot be used ({error}): run "
                "`fieldfare-agent enroll --anew` with a new claim token"
            ) from None

    def reload(self) -> None:
        """Show the certificate that lies there now from the next connection on.

        Raises:
            OSError: It cannot be read; the former one is still shown.
        """
        self.context.load_cert_chain(self.folder / CERTIFICATE, self.folder / KEY)
        with contextlib.suppress(ValueError):
            self.validity = _validity(self.folder / CERTIFICATE)


def is_due(validity: Validity, now_s: float, *, away_s: float, spread: float) -> bool:
    """Tell whether to ask the hub for a new certificate.

    Args:
        validity: Of the certificate in use.
        now_s: What this device takes for UTC; may be very wrong.
        away_s: For how long it has not reached the broker.
        spread: This device's share of the jitter, 0 to 1.
    """
    ratio = RENEW_RATIO + JITTER_RATIO * spread
    if now_s >= validity.not_before_s + ratio * validity.life_s:
        return True
    if now_s < validity.not_before_s - CLOCK_SLACK_S:
        return True
    return away_s >= min(AWAY_S, validity.life_s / 4)


def check_wait_s(validity: Validity, failure_count: int, random: Random) -> float:
    """Return how long to wait before looking again; longer after each failure, with full jitter."""
    longest_s = min(CHECK_S, validity.life_s / 20)
    if not failure_count:
        return longest_s * random.uniform(0.5, 1.0)
    scale_s = min(8 * longest_s, longest_s / 8 * 2.0 ** min(failure_count, 16))
    return max(0.2, random.uniform(0.1, 1.0) * scale_s)


def certificate_file(pem: bytes, validity: Validity) -> bytes:
    """Return what `cert.pem` holds for a certificate."""
    times = f"not-before: {validity.not_before_s}\nnot-after: {validity.not_after_s}\n"
    return times.encode() + pem


def write_file(file: Path, content: bytes, *, mode: int) -> None:
    """Put `content` in place of `file`, durably, readable by nobody else on the way.

    Raises:
        OSError: It could not be written; the file is as it was.
    """
    new = file.with_name(f"{file.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as output:
            output.write(content)
            output.flush()
            os.fsync(output.fileno())
        new.replace(file)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    _sync(file.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _validity(file: Path) -> Validity:
    with file.open("rb") as text:
        found = _TIMES.match(text.read(CERTIFICATE_BYTES_MAX))
    if found is None:
        raise ValueError(f"{file.name} does not say when it counts")
    return Validity(int(found[1]), int(found[2]))


def identity_of(settings: Settings) -> Identity | None:
    """Return who this device is, None where nobody asks.

    Raises:
        NotEnrolled: `broker_tls` is set, and there is no identity.
    """
    if settings.broker_tls:
        return Identity(settings.identity_dir)
    if settings.hub_url.startswith("https:") and settings.identity_dir.is_dir():
        with contextlib.suppress(NotEnrolled):  # a hub behind a proxy that anybody can reach
            return Identity(settings.identity_dir)
    return None
