"""The hub's own lock behind the broker's: who has no identity is not listened to."""

from pathlib import Path
from typing import Any

from hub.identity.registrar import Asked
from sync.messages import Open
from tests.fakes.fleet import FleetDevice, fact
from tests.hub.core import Core, running
from tests.hub.identity.paper import DAY_MS, NONCE, csr_of, new_key, registrar_of

REGISTRAR = registrar_of()


def enrol(core: Core, device: str) -> None:
    def job(db: Any) -> None:
        claim = REGISTRAR.new_claim(
            db,
            device_class="pump",
            device=device,
            uses_count=1,
            life_ms=DAY_MS,
            now_ms=core.now.ms,
        )
        asked = Asked(
            csr=csr_of(new_key(), device), nonce=NONCE, device_class="pump", secret=claim[1]
        )
        assert REGISTRAR.ask(db, asked, core.now.ms).certificate is not None

    core.database.transact(job)


def told_of(core: Core, device: str) -> dict[str, int]:
    return dict(core.rows("SELECT code, count FROM offence WHERE device = ?", device))


def writing(core: Core, name: str) -> FleetDevice:
    device = FleetDevice(name, 1)
    device.write(fact("site", "s7"), core.now.mono_s)
    return device


def test_an_enrolled_device_is_heard_and_another_name_is_not(tmp_path: Path) -> None:
    with running(tmp_path) as core:
        core.ingest.enrolled_only = True
        enrol(core, "pump-1")
        known, stranger = writing(core, "pump-1"), writing(core, "pump-2")
        core.connect(known)
        core.connect(stranger)
        core.presence("pump-2", b'{"online":true,"birth":1}')
        assert known.is_settled()
        assert not stranger.is_settled()
        assert core.rows("SELECT id FROM device") == [("pump-1",)]
        assert (
            sum(told_of(core, "(unregistered)").values()) + sum(told_of(core, "pump-2").values())
            == 2
        )
        assert told_of(core, "pump-1") == {}


def test_a_revoked_device_is_not_heard_from_that_moment_on(tmp_path: Path) -> None:
    with running(tmp_path) as core:
        core.ingest.enrolled_only = True
        enrol(core, "pump-1")
        device = writing(core, "pump-1")
        core.connect(device)
        held = core.rows("SELECT state FROM document WHERE name = 'dev/pump-1'")
        core.database.transact(lambda db: REGISTRAR.revoke(db, "pump-1", core.now.ms))
        device.write(fact("site", "s8"), core.now.mono_s)
        core.connect(device)
        assert core.rows("SELECT state FROM document WHERE name = 'dev/pump-1'") == held
        assert told_of(core, "pump-1").get("not_enrolled", 0) > 0


def test_the_end_of_a_revoked_devices_connection_is_heard_and_no_new_beginning(
    tmp_path: Path,
) -> None:
    def is_online(core: Core) -> list[tuple[Any, ...]]:
        return core.rows("SELECT is_online, birth FROM presence")

    with running(tmp_path) as core:
        core.ingest.enrolled_only = True
        enrol(core, "pump-1")
        core.presence("pump-1", b'{"online":true,"birth":1}')
        core.database.transact(lambda db: REGISTRAR.revoke(db, "pump-1", core.now.ms))
        core.presence("pump-1", b'{"online":false,"birth":1}')
        core.presence("pump-1", b'{"online":true,"birth":2}')
        assert is_online(core) == [(0, 1)]
        core.presence("pump-2", b'{"online":false,"birth":1}')
        assert core.rows("SELECT id FROM device") == [("pump-1",)]


def test_where_identities_are_not_asked_for_everybody_is_heard(tmp_path: Path) -> None:
    with running(tmp_path) as core:
        assert core.say("pump-2", Open("dev", 0, b"\0\0", b"")) != []
