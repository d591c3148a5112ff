import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sync.transport.notify import notify


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@{tmp_path.name}-notify"
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.bind("\0" + name[1:] if name.startswith("@") else name)
    listening.settimeout(10)
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    with listening:
        yield listening


def test_the_service_manager_hears_what_is_said(manager: socket.socket) -> None:
    notify("READY=1\nSTATUS=running")

    assert manager.recv(100) == b"READY=1\nSTATUS=running"


@pytest.mark.parametrize("address", [None, "", "relative/path", "/nowhere/notify", "@nobody"])
def test_without_a_service_manager_nothing_happens(
    address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if address is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", address)

    notify("READY=1")
