"""`fieldfare-agent enroll`: from what a person typed to an identity on this disk.

Owns which of the options count together. The work is done by `agent.enrol`.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent import enrol
from agent.identity import AUTHORITY, CERTIFICATE, KEY, NEW, exchange, finish_exchange, next_to
from agent.keys import KeyUnusable, key_maker
from agent.pinning import BadRoot, pin
from agent.settings import Settings
from sync.enrolment import BadToken, ClaimToken, parse_token
from sync.transport.tls import client_context


class Problem(Exception):
    """The device is not enrolled; one line for a person, and of which kind it is."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What was typed."""

    hub: str | None
    token: str | None
    token_file: Path | None
    fingerprint: str | None
    trust_first_contact: bool
    anew: bool
    wait_s: float
    root: Path | None = None
    root_fingerprint: str | None = None


def enroll(settings: Settings, wishes: Wishes, *, say: Callable[[str], None]) -> dict[str, Any]:
    """Get an identity, and pin the root of signed releases if none is.

    An enrolled device keeps its identity unless `anew` is wished, and then until it has another.

    Raises:
        Problem: It has none, and what to do.
    """
    folder = settings.identity_dir
    try:
        finish_exchange(folder)
        if (folder / CERTIFICATE).exists() and not wishes.anew:
            told = {"device": settings.device, "enrolled": True, "changed": False}
            return {**told, **_pin_late(settings, wishes, say)}
        token = _token(wishes)
        applicant = enrol.Applicant(
            device=settings.device,
            device_class=settings.device_class,
            folder=next_to(folder, NEW) if wishes.anew else folder,
            hub_url=_hub_url(settings, wishes, token),
            key_of=key_maker(settings.device_key),
        )
        trust = _trust(wishes, token)
        identity = _enrolled(applicant, trust, token, wishes, say)
        if wishes.anew:
            exchange(folder)
        pinned = _pin(settings, wishes, applicant.hub_url, say)
    except BadToken as error:
        raise Problem(str(error), "usage") from None
    except enrol.StillWaiting as error:
        raise Problem(str(error), "waiting") from None
    except enrol.HubUnreachable as error:
        raise Problem(str(error), "no_hub") from None
    except (enrol.EnrolmentFailed, KeyUnusable, BadRoot) as error:
        raise Problem(str(error), "refused") from None
    except OSError as error:
        raise Problem(
            f"{error.filename or folder} cannot be used: {error.strerror}", "state"
        ) from None
    told = {"device": settings.device, "enrolled": True, "changed": True, "enrolment": identity}
    return {**told, **pinned}


def _enrolled(
    applicant: enrol.Applicant,
    trust: enrol.Trust,
    token: ClaimToken | None,
    wishes: Wishes,
    say: Callable[[str], None],
) -> str:
    try:
        return applicant.enrol(trust, token, wait_s=wishes.wait_s, say=say)
    except enrol.HubRefused:
        if wishes.anew:
            # The next try is by another key: what the hub has refused once, it goes on refusing.
            shutil.rmtree(applicant.folder, ignore_errors=True)
        raise


def _pin_late(settings: Settings, wishes: Wishes, say: Callable[[str], None]) -> dict[str, Any]:
    """Pin a root on a device that is enrolled already; only what was asked for must succeed."""
    try:
        return _pin(settings, wishes, _hub_url(settings, wishes, None), say)
    except (enrol.EnrolmentFailed, OSError) as error:
        if wishes.root is not None or wishes.root_fingerprint is not None:
            raise
        say(f"no root of signed releases is pinned: {error}")
        return {"root_sha256": "", "root_version": 0}


def _pin(
    settings: Settings, wishes: Wishes, hub_url: str, say: Callable[[str], None]
) -> dict[str, Any]:
    folder = settings.identity_dir

    def ask_hub() -> bytes | None:
        files = (folder / AUTHORITY, folder / CERTIFICATE, folder / KEY)
        return enrol.Hub(hub_url).root(client_context(*files))

    sha256 = wishes.root_fingerprint
    told = pin(
        settings,
        file=wishes.root,
        sha256=enrol.fingerprint_of(sha256) if sha256 is not None else None,
        ask_hub=ask_hub,
    )
    if not told["root_version"]:
        say(
            "the hub has no signed releases yet, so no root is pinned and nothing will be "
            "installed: run this again once it has, or give the root with --root"
        )
    return told


def _token(wishes: Wishes) -> ClaimToken | None:
    if wishes.token is not None:
        return parse_token(wishes.token)
    if wishes.token_file is not None:
        return parse_token(wishes.token_file.read_text())
    return None


def _hub_url(settings: Settings, wishes: Wishes, token: ClaimToken | None) -> str:
    if wishes.hub is not None:
        return wishes.hub.rstrip("/")
    if token is not None:
        return f"https://{token.address}"
    return settings.hub_url


def _trust(wishes: Wishes, token: ClaimToken | None) -> enrol.Trust:
    if token is not None:
        return enrol.Trust(fingerprint=token.fingerprint)
    if wishes.fingerprint is not None:
        return enrol.Trust(fingerprint=enrol.fingerprint_of(wishes.fingerprint))
    if wishes.trust_first_contact:
        return enrol.Trust(fingerprint=None)
    raise Problem(
        "without a claim token say how to know the hub: --fingerprint HEX, or "
        "--trust-first-contact where nobody can pass for it",
        "usage",
    )
