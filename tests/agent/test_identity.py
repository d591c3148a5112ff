import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from pydantic import ValidationError

from agent import enrol, enrolling
from agent.identity import (
    CERTIFICATE,
    KEY,
    Identity,
    NotEnrolled,
    Validity,
    check_wait_s,
    exchange,
    is_due,
    write_file,
)
from agent.keys import DeviceKey, FileKey, KeyUnusable, key_maker
from agent.settings import Settings
from sync.enrolment import SECRET_BYTES, ClaimToken
from tests.fakes.element import Element

DAY_S = 86_400
TOKEN = ClaimToken(address="localhost:1", fingerprint=bytes(32), secret=bytes(SECRET_BYTES)).text()
VALID = Validity(1_000_000, 1_000_000 + 90 * DAY_S)

# What a hub would sign, made in a process of its own: the device never imports the hub.
SIGN = """
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from cryptography import x509
from pydantic import ValidationError
from hub.identity.ca import certificate_pem
from hub.identity.files import open_authority
state, csr, device, days = sys.argv[1:]
now = datetime.now(UTC).replace(microsecond=0)
authority = open_authority(Path(state), now=now)
request = x509.load_pem_x509_csr(Path(csr).read_bytes())
signed = authority.sign_device(device, request.public_key(), now=now, life=timedelta(int(days)))
sys.stdout.buffer.write(authority.pem() + b"SPLIT" + certificate_pem(signed))
"""


def signed(folder: Path, key: DeviceKey, device: str = "pump-1", days: int = 90) -> bytes:
    csr = folder / "csr"
    csr.write_bytes(enrol.request_of(key, device))
    done = subprocess.run(
        [sys.executable, "-c", SIGN, str(folder / "hub"), str(csr), device, str(days)],
        capture_output=True,
        check=True,
    )
    authority, _, certificate = done.stdout.partition(b"SPLIT")
    (folder / "ca.pem").write_bytes(authority)
    return certificate


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def test_a_key_is_made_once_and_for_its_owner_alone(folder: Path) -> None:
    first = FileKey(folder / KEY).signer().public_key()
    assert FileKey(folder / KEY).signer().public_key() == first
    assert (folder / KEY).stat().st_mode & 0o777 == 0o600


def test_a_key_that_others_could_read_is_not_used(folder: Path) -> None:
    FileKey(folder / KEY)
    (folder / KEY).chmod(0o644)
    with pytest.raises(KeyUnusable, match="others may read"):
        FileKey(folder / KEY)


def test_a_damaged_key_is_not_replaced(folder: Path) -> None:
    (folder / KEY).write_bytes(b"damaged")
    with pytest.raises(KeyUnusable, match="holds no key"):
        FileKey(folder / KEY)
    assert (folder / KEY).read_bytes() == b"damaged"


def test_an_identity_is_read_without_the_cryptography(folder: Path) -> None:
    key = FileKey(folder / KEY)
    enrol.keep_certificate(folder, key, "pump-1", signed(folder, key))
    script = (
        "import sys; from pathlib import Path; from agent.identity import Identity; "
        "found = Identity(Path(sys.argv[1])); import agent.daemon; "
        "assert 'cryptography' not in sys.modules, 'imported'; print(found.validity.life_s)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert 90 * DAY_S <= int(done.stdout) <= 90 * DAY_S + 3600


def test_the_certificate_of_another_key_or_name_is_not_put_into_use(folder: Path) -> None:
    key = FileKey(folder / KEY)
    good = signed(folder, key)
    enrol.keep_certificate(folder, key, "pump-1", good)
    before = (folder / CERTIFICATE).read_bytes()
    other = FileKey(folder / "other")
    for wrong in (signed(folder, other), b"", b"junk", signed(folder, key, "pump-2")):
        with pytest.raises(enrol.HubRefused, match="not used"):
            enrol.keep_certificate(folder, key, "pump-1", wrong)
    assert (folder / CERTIFICATE).read_bytes() == before


def test_without_an_identity_the_reason_and_the_cure_are_named(folder: Path) -> None:
    with pytest.raises(NotEnrolled, match="fieldfare-agent enroll"):
        Identity(folder)
    (folder / CERTIFICATE).write_bytes(b"junk")
    with pytest.raises(NotEnrolled, match="--anew"):
        Identity(folder)


def test_renewal_is_due_from_two_thirds_of_the_life_on_spread_over_the_fleet() -> None:
    def due(now_s: float, spread: float = 0.0) -> bool:
        return is_due(VALID, now_s, away_s=0, spread=spread)

    start = VALID.not_before_s
    assert not due(start + 59 * DAY_S)
    assert due(start + 60 * DAY_S + 1)
    assert not due(start + 60 * DAY_S + 1, spread=1.0)
    assert due(start + 65 * DAY_S, spread=1.0)
    assert due(start + 400 * DAY_S)


def test_a_clock_that_is_wrong_or_a_broker_that_refuses_make_it_ask_as_well() -> None:
    now_s = VALID.not_before_s + DAY_S
    assert is_due(VALID, 0.0, away_s=0, spread=0)
    assert not is_due(VALID, now_s, away_s=3600, spread=0)
    assert is_due(VALID, now_s, away_s=3 * 3600, spread=0)


def test_failures_make_it_ask_more_rarely_and_never_more_than_each_tenth_of_a_second() -> None:
    rng = random.Random(1)
    short = Validity(0, 6)
    for validity in (VALID, short):
        waits = [check_wait_s(validity, count, rng) for count in range(40)]
        assert min(waits) >= 0.1
        assert max(waits) <= 8 * 3600
    assert max(check_wait_s(short, count, rng) for count in range(40)) <= 8 * 0.3


@pytest.mark.parametrize("round_", range(6))
def test_killed_while_a_certificate_is_replaced_a_pair_that_fits_is_there(
    folder: Path, round_: int
) -> None:
    key = FileKey(folder / KEY)
    pair = [signed(folder, key, days=days) for days in (1, 90)]
    for number, pem in enumerate(pair):
        (folder / f"new-{number}").write_bytes(pem)
    enrol.keep_certificate(folder, key, "pump-1", pair[0])
    script = (
        "import sys; from pathlib import Path; from agent import enrol; "
        "from agent.keys import FileKey; folder = Path(sys.argv[1]); key = FileKey(folder / "
        "'key.pem'); new = [(folder / f'new-{n}').read_bytes() for n in range(2)]; "
        "print('go', flush=True)\n"
        "while True:\n    for pem in new: enrol.keep_certificate(folder, key, 'pump-1', pem)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "go\n"
    # Some replacements later, in the middle of one: its new file is there and not yet renamed.
    for _ in range(50 + 37 * round_):
        while not (folder / "cert.pem.new").exists():
            pass
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    found = Identity(folder)
    certificate = x509.load_pem_x509_certificate((folder / CERTIFICATE).read_bytes())
    assert certificate.public_key() == key.signer().public_key()
    assert found.validity.not_after_s == int(certificate.not_valid_after_utc.timestamp())


def identity_in(folder: Path, days: int) -> bytes:
    """Make a whole identity; return its certificate as it lies there."""
    folder.mkdir()
    key = FileKey(folder / KEY)
    enrol.keep_certificate(folder, key, "pump-1", signed(folder, key, days=days))
    shutil.rmtree(folder / "hub")
    (folder / "csr").unlink()
    return (folder / CERTIFICATE).read_bytes()


# Kills itself at a step of the exchange: before or after a rename, or in the midst of removing.
EXCHANGE = """
import os, shutil, signal, sys
from pathlib import Path
from agent.identity import exchange
folder, step = Path(sys.argv[1]), int(sys.argv[2])
count = 0
def maybe():
    global count
    count += 1
    if count > step:
        os.kill(os.getpid(), signal.SIGKILL)
def around(real):
    def run(*args, **more):
        maybe()
        result = real(*args, **more)
        maybe()
        return result
    return run
Path.rename = around(Path.rename)
os.unlink = around(os.unlink)
os.rmdir = around(os.rmdir)
os.fsync = around(os.fsync)
exchange(folder)
print("whole", count)
"""


def exchanged(folder: Path, step: int) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-c", EXCHANGE, str(folder), str(step)]
    return subprocess.run(arguments, capture_output=True, text=True, check=False)


def test_killed_at_any_step_of_an_exchange_one_whole_identity_counts(folder: Path) -> None:
    identity_in(folder / "a", 1)
    identity_in(folder / "b", 90)
    found = set()
    step = 0
    while True:
        place = folder / str(step) / "identity"
        shutil.copytree(folder / "a", place)
        shutil.copytree(folder / "b", place.with_name("identity.new"))
        done = exchanged(place, step)
        days = Identity(place).validity.life_s // DAY_S
        found.add(days)
        assert not place.with_name("identity.old").exists()
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        step += 1
    assert days == 90
    assert found == {1, 90}
    assert step > 8, done.stdout
    assert [each.name for each in place.parent.iterdir()] == ["identity"]


def test_an_exchange_without_an_identity_before_is_the_first(folder: Path) -> None:
    place = folder / "identity"
    before = identity_in(folder / "identity.new", 90)
    exchange(place)
    assert (place / CERTIFICATE).read_bytes() == before
    assert Identity(place).validity.life_s // DAY_S == 90


@pytest.mark.parametrize("more", [{}, {"token": TOKEN}])
def test_enrolling_anew_takes_nothing_away_before_there_is_another(
    folder: Path, more: dict[str, object]
) -> None:
    settings = Settings.model_validate({"device": "pump-1", "state_dir": folder})
    identity_in(settings.identity_dir, 90)
    before = {path.name: path.read_bytes() for path in settings.identity_dir.iterdir()}
    with pytest.raises(enrolling.Problem, match="no hub answers"):
        enrolling.enroll(settings, wishes(anew=True, fingerprint="00" * 32, **more), say=print)
    after = {path.name: path.read_bytes() for path in settings.identity_dir.iterdir()}
    assert after == before
    Identity(settings.identity_dir)


def test_a_key_of_another_kind_is_named_in_the_settings(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELEMENT", str(folder / "element"))
    made = key_maker("tests.fakes.element:Element")(folder / KEY)
    assert isinstance(made, Element)
    enrol.keep_certificate(folder, made, "pump-1", signed(folder, made))
    Identity(folder)
    assert key_maker("") is FileKey
    for wrong in ("nowhere:Key", "tests.fakes.element:Nothing"):
        with pytest.raises(KeyUnusable, match="device_key"):
            key_maker(wrong)
    with pytest.raises(ValidationError, match="device_key"):
        Settings.model_validate({"device": "pump-1", "device_key": "no colon"})


def test_a_full_disk_leaves_the_old_certificate(folder: Path) -> None:
    write_file(folder / CERTIFICATE, b"old", mode=0o644)
    (folder / "cert.pem.new").mkdir()
    with pytest.raises(OSError, match=r"cert\.pem\.new"):
        write_file(folder / CERTIFICATE, b"new", mode=0o644)
    assert (folder / CERTIFICATE).read_bytes() == b"old"


def wishes(**more: object) -> enrolling.Wishes:
    plain: dict[str, object] = {
        "hub": "https://localhost:1",
        "token": None,
        "token_file": None,
        "fingerprint": None,
        "trust_first_contact": False,
        "anew": False,
        "wait_s": 0.0,
    }
    return enrolling.Wishes(**{**plain, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("more", "words", "kind"),
    [
        ({}, "say how to know the hub", "usage"),
        ({"token": "ff1.cut"}, "no claim token", "usage"),
        ({"fingerprint": "12"}, "64 hex digits", "refused"),
        ({"hub": "http://localhost:1", "fingerprint": "12" * 32}, "no address", "refused"),
        ({"trust_first_contact": True}, "no hub answers", "no_hub"),
    ],
)
def test_what_was_typed_wrong_or_cannot_be_is_one_line(
    folder: Path, more: dict[str, object], words: str, kind: str
) -> None:
    settings = Settings.model_validate({"device": "pump-1", "state_dir": folder})
    said: list[str] = []
    with pytest.raises(enrolling.Problem, match=words) as caught:
        enrolling.enroll(settings, wishes(**more), say=said.append)
    assert caught.value.kind == kind
    assert "\n" not in str(caught.value)


def test_a_wrong_token_does_not_cost_the_old_identity(folder: Path) -> None:
    settings = Settings.model_validate({"device": "pump-1", "state_dir": folder})
    settings.identity_dir.mkdir()
    (settings.identity_dir / CERTIFICATE).write_bytes(b"kept")
    with pytest.raises(enrolling.Problem):
        enrolling.enroll(settings, wishes(token="ff1.cut", anew=True), say=print)
    assert (settings.identity_dir / CERTIFICATE).read_bytes() == b"kept"
    assert enrolling.enroll(settings, wishes(), say=print)["changed"] is False


def test_an_agent_that_shall_speak_tls_and_is_not_enrolled_says_so_and_ends(folder: Path) -> None:
    environment = {
        "FIELDFARE_AGENT_DEVICE": "pump-1",
        "FIELDFARE_AGENT_STATE_DIR": str(folder),
        "FIELDFARE_AGENT_BROKER_TLS": "true",
    }

    def run(**more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "agent", "run"],
            env={**os.environ, **environment, **more},
            capture_output=True,
            text=True,
            check=False,
        )

    done = run(FIELDFARE_AGENT_HUB_URL="https://localhost:1")
    assert done.returncode == 7, done.stderr
    assert "fieldfare-agent enroll" in done.stderr
    done = run()
    assert done.returncode == 3
    assert "broker_tls needs a hub_url with https://" in done.stderr
