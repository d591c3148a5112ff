"""The token that commands show, and the commands about tokens."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.cli import main
from hub.cli.exits import Exit
from hub.client import BadCredential, HubClient, is_loopback
from hub.errors import ExitCode
from hub.operators import LIFE_S, new_token, parse_token
from hub.secret_file import read_secret, write_secret
from tests.hub.cli.canned_hub import CannedHub, canned_hub
from tests.hub.core import running

TOKENS = [new_token().text() for _ in range(3)]

LISTED = {
    "id": "abcdefgh",
    "name": "ada",
    "scope": "operator",
    "created_at_ms": 1_790_000_000_000,
    "expires_at_ms": 4_000_000_000_000,
    "revoked_at_ms": None,
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a person's folder, with nothing said by the environment."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("FIELDFARE_TOKEN", raising=False)
    return tmp_path


@pytest.fixture
def hub(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CannedHub]:
    with canned_hub() as server:
        monkeypatch.setenv("FIELDFARE_HUB_URL", server.url)
        server.answer("GET", "/tokens", {"items": [LISTED]})
        server.answer("POST", "/tokens", LISTED | {"token": TOKENS[0]}, 201)
        server.answer("DELETE", "/tokens/abcdefgh", LISTED | {"revoked_at_ms": 1})
        yield server


def own_file(home: Path, text: str, folder: str = ".config") -> Path:
    file = home / folder / "fieldfare" / "token"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_secret(file, text)
    return file


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(words)
    told = capsys.readouterr()
    return code, told.out, told.err


# ----------------------------------------------------------------------- where it comes from


def test_a_file_that_is_named_wins_over_the_variable_and_that_over_the_own_file(
    hub: CannedHub, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = home / "named"
    write_secret(named, TOKENS[0])
    assert main(["token", "list"]) == 0
    own_file(home, TOKENS[2])
    assert main(["token", "list"]) == 0
    monkeypatch.setenv("FIELDFARE_TOKEN", f" {TOKENS[1]}\n")
    assert main(["token", "list"]) == 0
    assert main(["token", "list", "--token-file", str(named)]) == 0
    shown = [None, *(f"Bearer {each}" for each in (TOKENS[2], TOKENS[1], TOKENS[0]))]
    assert hub.credentials == shown


def test_the_own_file_is_where_the_desktop_says(
    hub: CannedHub, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_file(home, TOKENS[0], folder="settings")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "settings"))
    assert main(["token", "list"]) == 0
    assert hub.credentials == [f"Bearer {TOKENS[0]}"]


def test_a_token_that_cannot_be_used_is_named_and_nothing_is_asked(
    hub: CannedHub,
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = own_file(home, TOKENS[0])
    file.chmod(0o644)
    code, _, err = run(capsys, "token", "list")
    assert (code, err.count("\n")) == (Exit.CREDENTIAL, 1)
    assert f"chmod 600 {file}" in err
    code, _, err = run(capsys, "token", "list", "--token-file", str(home / "none"))
    assert (code, "No such file" in err) == (Exit.CREDENTIAL, True)
    monkeypatch.setenv("FIELDFARE_TOKEN", TOKENS[0][:-1])
    code, _, err = run(capsys, "token", "list")
    assert (code, "FIELDFARE_TOKEN" in err) == (Exit.CREDENTIAL, True)
    assert TOKENS[0][-30:-1] not in err
    assert hub.asked == []


def test_a_token_is_not_sent_in_clear_to_another_machine() -> None:
    client = HubClient("http://192.0.2.1:8420", token=lambda: TOKENS[0])
    with pytest.raises(BadCredential, match="it was not sent"):
        client.fleet()


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("LOCALHOST", True),
        ("192.0.2.1", False),
        ("localhost.example.org", False),
        ("127.0.0.1.example.org", False),
        ("0.0.0.0", False),
        ("", False),
    ],
)
def test_only_loopback_stays_on_the_machine(host: str, *, is_own: bool) -> None:
    assert is_loopback(host) is is_own


# ------------------------------------------------------------------------------ the commands


def test_a_new_token_is_printed_alone_so_that_it_can_be_piped(
    hub: CannedHub, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "token", "create", "ada", "--scope", "operator")
    assert (code, out) == (0, TOKENS[0] + "\n")
    assert "operator ada, id abcdefgh" in err
    assert TOKENS[0] not in err
    (wish,) = hub.wishes("POST", "/tokens")
    assert wish == {"name": "ada", "scope": "operator", "expires_s": LIFE_S}


def test_a_new_token_goes_to_a_file_and_is_not_printed(
    hub: CannedHub, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = home / "ada.token"
    words = ("token", "create", "ada", "--expires-days", "2", "--output", str(file), "--json")
    code, out, _ = run(capsys, *words)
    assert code == 0
    assert json.loads(out)["file"] == str(file)
    assert TOKENS[0] not in out
    assert read_secret(file) == TOKENS[0]
    assert hub.wishes("POST", "/tokens")[0] == {
        "name": "ada",
        "scope": "viewer",
        "expires_s": 2 * 86_400,
    }


def test_a_token_whose_file_cannot_be_written_is_not_lost(
    hub: CannedHub, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "token", "create", "ada", "--output", str(home / "no" / "x"))
    assert (code, out) == (Exit.FILE, TOKENS[0] + "\n")
    assert "so the token is printed" in err


def test_tokens_are_listed_and_revoked(hub: CannedHub, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "token", "list")
    assert code == 0
    assert "abcdefgh  ada   operator" in out
    code, out, _ = run(capsys, "token", "revoke", "abcdefgh")
    assert (code, out) == (0, "operator ada (abcdefgh) is revoked\n")
    code, out, _ = run(capsys, "token", "revoke", "abcdefgh", "--json")
    assert json.loads(out)["revoked_at_ms"] == 1


def test_a_lost_first_token_is_replaced_on_the_hubs_machine(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(home / "hub") as core:
        words = ("token", "bootstrap", "--state-dir", str(home / "hub"))
        code, out, _ = run(capsys, *words)
        assert code == 0
        assert core.rows("SELECT id, scope FROM token") == [(parse_token(out.strip()).id, "admin")]
        code, out, _ = run(capsys, *words, "--json", "--output", str(home / "token"))
        assert json.loads(out)["file"] == str(home / "token")
        assert parse_token(read_secret(home / "token")).id == json.loads(out)["id"]


def test_where_no_hub_has_run_there_is_no_first_token(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "token", "bootstrap", "--state-dir", str(home / "nothing"))
    assert (code, out) == (ExitCode.STATE_DIR, "")
    assert "a hub that was started before" in err


# --------------------------------------------------------------------------------- the audit

ROW = {
    "n": 7,
    "at_ms": 1_790_000_000_000,
    "token": "abcdefgh",
    "name": "ada",
    "source": "192.0.2.7",
    "action": "deployment.create",
    "object": "dabcdefgh",
    "asked": {"release": "[red]lamp@1.0.0", "devices": ["d"] * 100},
    "outcome": "done",
}


def test_the_audit_is_told_page_by_page_as_far_as_it_is_wanted(
    hub: CannedHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.answer("GET", "/audit?since_ms=0&limit=500", {"items": [ROW], "next": 7})
    hub.answer(
        "GET", "/audit?since_ms=0&limit=500&before=7", {"items": [ROW | {"n": 6}], "next": None}
    )
    code, out, _ = run(capsys, "audit", "--json")
    assert (code, [each["n"] for each in json.loads(out)]) == (0, [7, 6])
    assert json.loads(out)[0] == ROW
    code, out, _ = run(capsys, "audit", "--json", "--limit", "1")
    assert [each["n"] for each in json.loads(out)] == [7]
    assert len(hub.asked) == 3
    code, out, _ = run(capsys, "audit")
    assert code == 0
    for words in ("2026-09-21 14:13:20 UTC", "192.0.2.7", "deployment.create", "[red]lamp"):
        assert words in out
