import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub import operators
from hub.operators import (
    ID_LETTERS,
    TEXT_LENGTH,
    BadToken,
    Scope,
    Shown,
    Token,
    Verdict,
    digest_of,
    is_name,
    judge,
    new_token,
    parse_token,
)

NOW_MS = 1_790_000_000_000

IDS = st.text(ID_LETTERS, min_size=8, max_size=8)
SECRETS = st.binary(min_size=32, max_size=32)
SHOWN = st.builds(Shown, IDS, SECRETS)


def kept(shown: Shown, **fields: object) -> Token:
    token = {
        "id": shown.id,
        "name": "ada",
        "scope": Scope.OPERATOR,
        "digest": digest_of(shown.secret),
        "created_ms": NOW_MS,
        "expires_ms": NOW_MS + 1000,
        **fields,
    }
    return Token(**token)  # type: ignore[arg-type]


def test_each_scope_covers_itself_and_those_below_it() -> None:
    allowed = {pair for pair in itertools.product(Scope, Scope) if pair[0].covers(pair[1])}
    assert allowed == {
        (Scope.VIEWER, Scope.VIEWER),
        (Scope.OPERATOR, Scope.VIEWER),
        (Scope.OPERATOR, Scope.OPERATOR),
        (Scope.ADMIN, Scope.VIEWER),
        (Scope.ADMIN, Scope.OPERATOR),
        (Scope.ADMIN, Scope.ADMIN),
    }


def test_new_tokens_differ_in_id_and_secret() -> None:
    made = [new_token() for _ in range(100)]
    assert len({each.id for each in made}) == len({each.secret for each in made}) == 100
    assert all(parse_token(each.text()) == each for each in made)


def test_what_is_kept_is_the_sha_256_of_the_secret() -> None:
    shown = new_token()
    assert len(shown.secret) == 32
    assert digest_of(shown.secret) == hashlib.sha256(shown.secret).digest()


@given(SHOWN)
def test_a_token_is_read_as_it_was_written(shown: Shown) -> None:
    assert parse_token(shown.text()) == shown
    assert len(shown.text()) == TEXT_LENGTH


@given(st.text() | SHOWN.map(Shown.text), st.data())
def test_a_text_is_one_token_in_one_form_or_none(text: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(text)))
    other = text[:place] + data.draw(st.text(max_size=3)) + text[place + 1 :]
    for each in (text, other, text.upper(), f" {text}", f"{text}\n"):
        try:
            found = parse_token(each)
        except BadToken:
            continue
        assert found.text() == each


@given(SHOWN)
def test_a_token_that_was_copied_badly_is_not_repeated(shown: Shown) -> None:
    for text in (shown.text()[:-1], shown.text().upper(), f"{shown.text()}0"):
        with pytest.raises(BadToken) as caught:
            parse_token(text)
        assert shown.secret.hex()[:16] not in str(caught.value).lower()


@given(SHOWN)
def test_no_description_of_a_token_holds_its_secret(shown: Shown) -> None:
    for text in (repr(shown), str(shown), f"{[shown]}", repr(kept(shown))):
        assert shown.secret.hex() not in text
        assert repr(shown.secret) not in text


@given(SHOWN, SHOWN)
def test_only_the_right_secret_counts(shown: Shown, other: Shown) -> None:
    assert judge(kept(shown), shown, NOW_MS) is Verdict.COUNTS
    assert judge(None, shown, NOW_MS) is Verdict.UNKNOWN
    if other.secret != shown.secret:
        wrong = Shown(shown.id, other.secret)
        assert judge(kept(shown), wrong, NOW_MS) is Verdict.UNKNOWN
        assert judge(kept(shown, revoked_ms=1), wrong, NOW_MS) is Verdict.UNKNOWN


def test_a_token_counts_until_it_expires_or_is_revoked() -> None:
    shown = new_token()
    token = kept(shown)
    assert judge(token, shown, token.expires_ms - 1) is Verdict.COUNTS
    assert judge(token, shown, token.expires_ms) is Verdict.EXPIRED
    assert judge(kept(shown, revoked_ms=NOW_MS), shown, NOW_MS) is Verdict.REVOKED


def test_no_secret_fits_where_nothing_is_kept() -> None:
    assert judge(None, Shown("a" * 8, operators._NOBODYS), NOW_MS) is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("ada", True),
        ("ada@example.org", True),
        ("ci-2.build_7+x", True),
        ("a" * 63, True),
        ("a" * 64, False),
        ("", False),
        ("-ada", False),
        ("ada lovelace", False),
        ("ada\n", False),
        ("äda", False),
        ("<b>", False),
    ],
)
def test_a_name_is_short_and_plain(name: str, fits: bool) -> None:
    assert is_name(name) is fits
