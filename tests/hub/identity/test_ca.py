import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from hub.errors import DamagedIdentity
from hub.identity.ca import BACKDATED, Revoked, certificate_pem, new_authority
from hub.identity.files import open_authority, write_client, write_file, write_server
from hub.identity.registrar import crl_pem
from tests.hub.identity.paper import CA, NOW, new_key

LIFE = timedelta(days=90)


def usage(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
    return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_a_device_certificate_names_the_device_and_lives_as_long_as_it_was_told() -> None:
    certificate = CA.sign_device("pump-1", new_key().public_key(), now=NOW, life=LIFE)
    assert certificate.subject.rfc4514_string() == "CN=pump-1"
    assert certificate.not_valid_before_utc == NOW - BACKDATED
    assert certificate.not_valid_after_utc == NOW + LIFE
    assert CA.signed(certificate)


def test_no_certificate_outlives_the_authority_and_none_can_sign_another() -> None:
    late = CA.certificate.not_valid_after_utc - timedelta(days=1)
    certificate = CA.sign_device("pump-1", new_key().public_key(), now=late, life=LIFE)
    assert certificate.not_valid_after_utc == CA.certificate.not_valid_after_utc
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert constraints.ca is False


def test_a_device_cannot_pass_for_a_server_nor_a_server_for_a_device() -> None:
    device = CA.sign_device("pump-1", new_key().public_key(), now=NOW, life=LIFE)
    server = CA.sign_server(["hub.example", "127.0.0.1", "[::1]"], new_key().public_key(), now=NOW)
    assert usage(device) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert usage(server) == [ExtendedKeyUsageOID.SERVER_AUTH]
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["hub.example"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]


def test_serial_numbers_are_random() -> None:
    key = new_key().public_key()
    serials = {CA.sign_device("pump-1", key, now=NOW, life=LIFE).serial_number for _ in range(50)}
    assert len(serials) == 50
    assert min(serials).bit_length() > 100


def test_another_authority_of_the_same_name_is_another_authority() -> None:
    other = new_authority("fieldfare", now=NOW)
    certificate = other.sign_device("pump-1", new_key().public_key(), now=NOW, life=LIFE)
    assert not CA.signed(certificate)
    assert other.fingerprint != CA.fingerprint


def test_openssl_accepts_what_is_signed_and_refuses_what_is_revoked(tmp_path: Path) -> None:
    kept, gone = (
        CA.sign_device(name, new_key().public_key(), now=NOW, life=LIFE) for name in ("a", "b")
    )
    crl = crl_pem(CA.sign_crl([Revoked(gone.serial_number, NOW)], now=NOW))
    (tmp_path / "ca.pem").write_bytes(CA.pem() + crl)
    verdicts = []
    for name, certificate in (("kept", kept), ("gone", gone)):
        file = tmp_path / f"{name}.pem"
        file.write_bytes(certificate_pem(certificate))
        at = str(int((NOW + timedelta(days=1)).timestamp()))
        command = ["openssl", "verify", "-purpose", "sslclient", "-crl_check", "-attime", at]
        done = subprocess.run(
            [*command, "-CAfile", str(tmp_path / "ca.pem"), str(file)],
            capture_output=True,
            text=True,
            check=False,
        )
        verdicts.append((done.returncode, done.stderr))
    assert verdicts[0][0] == 0, verdicts
    assert verdicts[1][0] != 0
    assert "revoked" in verdicts[1][1]


def test_the_list_of_revoked_certificates_does_not_expire_before_the_authority() -> None:
    crl = CA.sign_crl([], now=NOW)
    assert crl.next_update_utc == CA.certificate.not_valid_after_utc


def test_the_authority_is_made_once_and_its_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    first = open_authority(tmp_path, now=NOW)
    again = open_authority(tmp_path, now=NOW + timedelta(days=1))
    assert again.fingerprint == first.fingerprint
    assert (tmp_path / "identity" / "ca.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "identity").stat().st_mode & 0o777 == 0o700
    assert "PRIVATE" not in repr(first)


def test_a_key_without_a_certificate_was_never_used_and_is_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "identity"
    folder.mkdir()
    write_file(folder / "ca.key", b"half", mode=0o600)
    assert open_authority(tmp_path, now=NOW).certificate.subject.rfc4514_string() == "CN=fieldfare"


@pytest.mark.parametrize("name", ["ca.key", "ca.pem"])
def test_a_damaged_authority_is_not_replaced_by_a_new_one(tmp_path: Path, name: str) -> None:
    open_authority(tmp_path, now=NOW)
    file = tmp_path / "identity" / name
    file.write_bytes(b"damaged")
    with pytest.raises(DamagedIdentity, match="from a backup"):
        open_authority(tmp_path, now=NOW)
    assert file.read_bytes() == b"damaged"


def test_the_key_of_another_authority_is_noticed(tmp_path: Path) -> None:
    open_authority(tmp_path / "a", now=NOW)
    open_authority(tmp_path / "b", now=NOW)
    key = (tmp_path / "b" / "identity" / "ca.key").read_bytes()
    (tmp_path / "a" / "identity" / "ca.key").write_bytes(key)
    with pytest.raises(DamagedIdentity, match="do not belong together"):
        open_authority(tmp_path / "a", now=NOW)


def test_keys_of_servers_and_of_the_hub_itself_are_private_too(tmp_path: Path) -> None:
    certificate, key = write_server(CA, tmp_path / "s", "server", ("localhost",), now=NOW)
    hub_certificate, hub_key = write_client(CA, tmp_path / "s", "hub", now=NOW)
    assert {file.stat().st_mode & 0o777 for file in (key, hub_key)} == {0o600}
    assert x509.load_pem_x509_certificate(
        hub_certificate.read_bytes()
    ).subject.rfc4514_string() == ("CN=hub")
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    signed = x509.load_pem_x509_certificate(certificate.read_bytes())
    assert signed.public_key() == loaded.public_key()


def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "crl.pem"
    folder.mkdir()
    (folder / "inside").write_text("x")
    with pytest.raises(OSError, match="directory"):
        write_file(folder, b"new", mode=0o644)
    assert [path.name for path in tmp_path.iterdir()] == ["crl.pem"]
