"""What the hub makes of its authority at each start: certificates of its own, and the desk.

Owns which files these are. Decides nothing about devices.
"""

import logging
import ssl
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from hub.audit import Ledger
from hub.clock import Clock
from hub.errors import StateDirUnusable
from hub.identity.ca import Authority, utc
from hub.identity.desk import Desk
from hub.identity.files import (
    CA_CERTIFICATE,
    CRL,
    FOLDER,
    PUBLIC,
    open_authority,
    write_client,
    write_file,
    write_server,
)
from hub.identity.registrar import Registrar
from hub.settings import Settings
from hub.store.database import Database
from sync.transport.tls import client_context, server_context

logger = logging.getLogger(__name__)

SERVER: Final = "server"
CLIENT: Final = "hub"


@dataclass(frozen=True, slots=True, kw_only=True)
class Office:
    """The authority at work in one start of the hub."""

    authority: Authority
    to_broker: ssl.SSLContext
    """How the hub speaks to a broker."""
    for_devices: ssl.SSLContext
    """How devices are answered."""
    registrar: Registrar

    def desk(self, database: Database, clock: Clock, address: str, ledger: Ledger) -> Desk:
        """Return where devices and operators come; devices reach it at `address`."""
        return Desk(
            registrar=self.registrar,
            database=database,
            clock=clock,
            address=address,
            ledger=ledger,
        )


def open_office(settings: Settings, database: Database, now_ms: int) -> Office | None:
    """Return the office, None if neither HTTPS nor TLS to the broker is asked for.

    Raises:
        StateDirUnusable: Its folder, or `broker_crl`, cannot be written.
        DamagedIdentity: The authority cannot be read.
    """
    if settings.https_port is None and not settings.broker_tls:
        return None
    now = utc(now_ms)
    folder = settings.state_dir / FOLDER
    authority = open_authority(settings.state_dir, now=now)
    crls = [folder / CRL, *([settings.broker_crl] if settings.broker_crl is not None else [])]
    registrar = Registrar(
        authority=authority,
        life=timedelta(seconds=settings.certificate_life_s),
        grace=timedelta(seconds=settings.certificate_grace_s),
        on_revoked=lambda crl: _write_crls(crls, crl),
    )
    names = (*settings.https_names, settings.https_host, "localhost", "127.0.0.1")
    try:
        server = write_server(authority, folder, SERVER, names, now=now)
        client = write_client(authority, folder, CLIENT, now=now)
        crl = database.transact(lambda db: registrar.crl(db, now_ms))
        for file in crls:
            write_file(file, crl, mode=PUBLIC)
    except OSError as error:
        raise StateDirUnusable(
            f"{error.filename or folder} cannot be written ({error.strerror}): give this user the "
            "right to write there, or make room"
        ) from None
    pinned = folder / CA_CERTIFICATE
    return Office(
        authority=authority,
        to_broker=client_context(pinned, *client),
        for_devices=server_context(pinned, *server),
        registrar=registrar,
    )


def _write_crls(files: list[Path], crl: bytes) -> None:
    """Replace the lists. A disk that fails must not undo the revocation: the hub itself refuses."""
    for file in files:
        try:
            write_file(file, crl, mode=PUBLIC)
        except OSError as error:
            logger.error(  # noqa: TRY400 - where it failed says nothing more
                "the list of revoked certificates %s cannot be written (%s): make room and restart "
                "the hub, or the broker lets revoked devices in; the hub itself refuses them",
                file,
                error.strerror,
            )
