import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.enrolment import (
    FINGERPRINT_BYTES,
    SECRET_BYTES,
    BadToken,
    ClaimToken,
    check_address,
    parse_token,
    renewal_statement,
    secret_hash,
)

tokens = st.builds(
    ClaimToken,
    address=st.sampled_from(["hub.example:8443", "127.0.0.1:1", "[::1]:65535", "a-b.c:443"]),
    fingerprint=st.binary(min_size=FINGERPRINT_BYTES, max_size=FINGERPRINT_BYTES),
    secret=st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES),
)


@given(tokens)
def test_a_token_survives_being_written_down(token: ClaimToken) -> None:
    assert parse_token(f"  {token.text()}\n") == token
    assert token.text().startswith("ff1.")


@given(tokens)
def test_no_log_shows_a_secret(token: ClaimToken) -> None:
    assert token.text().rpartition(".")[2] not in repr(token)


@given(tokens, st.integers(1, 75))
def test_a_token_that_was_cut_is_noticed_and_not_repeated(token: ClaimToken, count: int) -> None:
    cut = token.text()[:-count]
    with pytest.raises(BadToken) as caught:
        parse_token(cut)
    assert cut not in str(caught.value)


@given(st.text(max_size=500))
def test_any_other_text_is_no_token(text: str) -> None:
    with pytest.raises(BadToken):
        parse_token(text)


@pytest.mark.parametrize(
    "address", ["hub", "hub:", ":8443", "hub:0", "hub:65536", "a b:1", "h/x:1", "u@h:1", "h:1\n"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(BadToken):
        check_address(address)


def test_two_spellings_of_one_secret_do_not_both_count() -> None:
    token = ClaimToken(address="h:1", fingerprint=b"\0" * 32, secret=b"\0" * 24)
    head, fingerprint, secret = token.text().rsplit(".", 2)
    with pytest.raises(BadToken):
        parse_token(f"{head}.{fingerprint[:-1]}B.{secret}")


def test_what_is_signed_for_a_renewal_is_for_that_request_alone() -> None:
    assert renewal_statement(b"one") != renewal_statement(b"two")
    assert renewal_statement(b"one").startswith(b"fieldfare renewal 1\n")
    assert secret_hash(b"one") != secret_hash(b"two")
