import hashlib
from pathlib import Path

import pytest

from agent.pinning import BadRoot, pin
from agent.settings import Settings
from tests.trust.workshop import Workshop


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.model_validate({"device": "lamp-1", "state_dir": tmp_path / "state"})


@pytest.fixture(scope="module")
def root() -> bytes:
    return Workshop().pinned


def nothing() -> bytes | None:
    return None


def never() -> bytes | None:
    raise AssertionError("the hub was asked")


def test_the_root_of_the_hub_is_pinned_where_none_is(settings: Settings, root: bytes) -> None:
    told = pin(settings, file=None, sha256=None, ask_hub=lambda: root)

    assert told == {"root_sha256": hashlib.sha256(root).hexdigest(), "root_version": 1}
    assert settings.pinned_root.read_bytes() == root


def test_what_is_pinned_stays_whatever_the_hub_has(settings: Settings, root: bytes) -> None:
    pin(settings, file=None, sha256=None, ask_hub=lambda: root)

    told = pin(settings, file=None, sha256=None, ask_hub=never)

    assert told["root_version"] == 1
    assert settings.pinned_root.read_bytes() == root


def test_a_root_with_another_fingerprint_is_not_pinned(settings: Settings, root: bytes) -> None:
    with pytest.raises(BadRoot, match=r"not the one that was\s+given"):
        pin(settings, file=None, sha256=bytes(32), ask_hub=lambda: root)

    assert not settings.pinned_root.exists()


def test_a_root_with_the_right_fingerprint_is_pinned(settings: Settings, root: bytes) -> None:
    sha256 = hashlib.sha256(root).digest()

    assert pin(settings, file=None, sha256=sha256, ask_hub=lambda: root)["root_version"] == 1


def test_a_root_that_a_person_brought_replaces_what_is_pinned(
    settings: Settings, root: bytes, tmp_path: Path
) -> None:
    pin(settings, file=None, sha256=None, ask_hub=lambda: root)
    brought = tmp_path / "root.json"
    brought.write_bytes(Workshop().pinned)

    pin(settings, file=brought, sha256=None, ask_hub=never)

    assert settings.pinned_root.read_bytes() == brought.read_bytes()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 100, b"[" * 70_000])
def test_what_is_no_root_is_not_pinned(settings: Settings, content: bytes) -> None:
    with pytest.raises(BadRoot, match="is no root that can be pinned"):
        pin(settings, file=None, sha256=None, ask_hub=lambda: content)

    assert not settings.pinned_root.exists()


def test_a_hub_without_a_root_leaves_the_device_without_one(settings: Settings) -> None:
    told = pin(settings, file=None, sha256=None, ask_hub=nothing)

    assert told == {"root_sha256": "", "root_version": 0}
    assert not settings.pinned_root.exists()


def test_a_fingerprint_without_a_root_is_said(settings: Settings) -> None:
    with pytest.raises(BadRoot, match="the hub has no root yet"):
        pin(settings, file=None, sha256=bytes(32), ask_hub=nothing)


def test_a_root_that_the_settings_name_is_not_replaced(tmp_path: Path, root: bytes) -> None:
    named = tmp_path / "named.json"
    named.write_bytes(root)
    settings = Settings.model_validate(
        {"device": "lamp-1", "state_dir": tmp_path / "state", "trust_root": named}
    )
    brought = tmp_path / "root.json"
    brought.write_bytes(Workshop().pinned)

    with pytest.raises(BadRoot, match="trust_root names"):
        pin(settings, file=brought, sha256=None, ask_hub=never)

    assert named.read_bytes() == root
