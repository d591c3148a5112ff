"""What the contexts promise, in real handshakes over a pair of sockets."""

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hub.identity.ca import Authority, new_authority
from hub.identity.files import write_client, write_file, write_server
from sync.transport.tls import client_context, server_context

NOW = datetime.now(UTC).replace(microsecond=0)
LONG_AGO = NOW - timedelta(days=20 * 365)


class Ends:
    """The files of a server and of a client."""

    def __init__(self, folder: Path, authority: Authority, *, server_now: datetime = NOW) -> None:
        folder.mkdir(exist_ok=True)
        self.pinned = folder / "ca.pem"
        write_file(self.pinned, authority.pem(), mode=0o644)
        server = write_server(authority, folder, "server", ("localhost",), now=server_now)
        self.server = server_context(self.pinned, *server)
        self.client_files = write_client(authority, folder, "hub", now=NOW)

    def client(self, *, shows: bool = True) -> ssl.SSLContext:
        files = self.client_files if shows else (None, None)
        return client_context(self.pinned, *files)


def handshake(
    server: ssl.SSLContext, client: ssl.SSLContext, name: str = "localhost"
) -> tuple[str | None, dict[str, object]]:
    """Return the version of TLS and what the server knows of the client."""
    ours, theirs = socket.socketpair()
    seen: dict[str, object] = {}

    def serve() -> None:
        try:
            with server.wrap_socket(ours, server_side=True) as channel:
                seen["shown"] = channel.getpeercert()
                channel.sendall(b"hello")
        except OSError as error:
            seen["error"] = error
            ours.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(theirs, server_hostname=name) as channel:
            # A client's certificate is judged after its own part of the handshake is done.
            channel.recv(5)
            return channel.version(), seen
    finally:
        thread.join()
        theirs.close()


def authority_of(born: datetime = LONG_AGO - timedelta(days=1)) -> Authority:
    return new_authority("fieldfare", now=born)


def test_it_is_version_1_3_and_the_server_knows_who_is_there(tmp_path: Path) -> None:
    ends = Ends(tmp_path, authority_of())
    version, seen = handshake(ends.server, ends.client())
    assert version == "TLSv1.3"
    assert seen["shown"]["subject"] == ((("commonName", "hub"),),)  # type: ignore[index]


def test_a_client_without_a_certificate_is_nobody(tmp_path: Path) -> None:
    ends = Ends(tmp_path, authority_of())
    _, seen = handshake(ends.server, ends.client(shows=False))
    assert not seen["shown"]


def test_nothing_older_than_1_3_is_spoken(tmp_path: Path) -> None:
    ends = Ends(tmp_path, authority_of())
    old = ends.client()
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="(?i)version"):
        handshake(ends.server, old)


def test_a_server_of_another_authority_is_not_believed(tmp_path: Path) -> None:
    ends = Ends(tmp_path / "a", authority_of())
    other = Ends(tmp_path / "b", authority_of())
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(other.server, ends.client())


def test_a_server_of_another_name_is_not_believed(tmp_path: Path) -> None:
    ends = Ends(tmp_path, authority_of())
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(ends.server, ends.client(), "elsewhere.example")


def test_a_device_cannot_pass_for_a_server(tmp_path: Path) -> None:
    ends = Ends(tmp_path, authority_of())
    impostor = server_context(ends.pinned, *ends.client_files)
    client = ends.client()
    client.check_hostname = False
    with pytest.raises(ssl.SSLCertVerificationError, match="(?i)purpose"):
        handshake(impostor, client)


def test_the_dates_of_a_server_lock_no_device_out(tmp_path: Path) -> None:
    ends = Ends(tmp_path, authority_of(), server_now=LONG_AGO)
    assert handshake(ends.server, ends.client())[0] == "TLSv1.3"
    # The certificate has really expired: who looks at the dates refuses it.
    looks = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    looks.load_verify_locations(ends.pinned)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(ends.server, looks)


def test_the_dates_of_a_client_are_looked_at(tmp_path: Path) -> None:
    authority = authority_of()
    ends = Ends(tmp_path, authority)
    ends.client_files = write_client(authority, tmp_path, "old", now=LONG_AGO)
    with pytest.raises(ssl.SSLError, match="expired"):
        handshake(ends.server, ends.client())
