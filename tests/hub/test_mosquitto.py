import json
import subprocess
import sys
from pathlib import Path

import pytest

from hub.broker_plan import LOOPBACK, mosquitto_config, nats_config
from hub.errors import BadSettings
from hub.mosquitto import Listener, acl_text, config_text
from hub.settings import Settings, load_settings

BIN = Path(sys.executable).parent


def lines(text: str) -> set[str]:
    return {line for line in text.splitlines() if line and not line.startswith("#")}


def test_a_broker_of_ones_own_holds_the_line() -> None:
    listener = Listener(host="", port=8883, user="mosquitto")
    found = lines(config_text(listener, Path("/etc/mosquitto/fieldfare")))
    assert found >= {
        "listener 8883",
        "user mosquitto",
        "allow_anonymous false",
        "tls_version tlsv1.3",
        "require_certificate true",
        "use_identity_as_username true",
        "use_username_as_clientid true",
        "crlfile /etc/mosquitto/fieldfare/crl.pem",
        "acl_file /etc/mosquitto/fieldfare/acl",
    }
    assert {name.split()[0] for name in found if name.startswith("max_")} == {
        "max_connections",
        "max_inflight_messages",
        "max_keepalive",
        "max_packet_size",
        "max_queued_bytes",
        "max_queued_messages",
    }


def test_a_device_may_speak_of_itself_alone() -> None:
    rights = [line for line in acl_text().splitlines() if line.startswith("pattern")]
    assert {line for line in rights if " write " in line} == {
        "pattern write ff/1/%u/up",
        "pattern write ff/1/%u/presence",
    }
    assert not [line for line in rights if "#" in line or "readwrite" in line]


@pytest.mark.parametrize("build", [mosquitto_config, nats_config])
def test_the_embedded_broker_listens_on_loopback_and_nowhere_else(build: object) -> None:
    assert callable(build)
    text = str(build(18830, Path("/state/broker")))
    listening = [line.strip() for line in text.splitlines() if "listen" in line]
    assert listening
    assert all(LOOPBACK in line for line in listening)
    assert not [name for name in Settings.model_fields if name.startswith("broker_host")]


def test_tls_with_the_embedded_broker_is_refused_and_says_what_to_do() -> None:
    with pytest.raises(BadSettings, match="on this machine only: write a configuration"):
        load_settings(environment={}, chosen={"broker_tls": True})
    chosen = {"broker_tls": True, "broker": "localhost:8883"}
    assert load_settings(environment={}, chosen=chosen).broker_tls


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(BIN / "fieldfare"), "hub", "broker-config", "mosquitto", *words],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_writes_what_the_broker_needs_and_keeps_the_authority(tmp_path: Path) -> None:
    words = ("--state-dir", str(tmp_path / "hub"), "--out", str(tmp_path / "out"), "--json")
    first, second = (json.loads(run(*words).stdout) for _ in range(2))
    assert first == second
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(first["files"])
    assert (tmp_path / "out" / "server.key").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "out" / "ca.key").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("--state-dir", str(tmp_path / "hub"), "--out", str(tmp_path / "file" / "out"))
    assert (done.returncode, done.stderr.count("\n")) == (14, 1), done.stderr
