"""What a device may and may not do to the hub, message by message."""

from pathlib import Path
from random import Random

import pytest

from hub.entries import STRAYS_MAX
from hub.settings import Settings
from sync.documents import FACT
from sync.gate import Refusal
from sync.messages import Diff, Fetch, Full, Have, Open, Refuse, Whole
from sync.records import Fact, encode
from sync.replica import values_of
from sync.transport.port import Delivery
from sync.vector import decode_vector, encode_vector, tag_of
from tests.fakes.fleet import FleetDevice, fact, runs
from tests.hub.core import Core, answers, frame_of, own, running

NOTHING = b"\0\0"


def _offences(core: Core, device: str) -> dict[str, int]:
    found = core.rows("SELECT code, count FROM offence WHERE device = ?", device)
    return {code: count for code, count in found}  # noqa: C416 - rows are untyped


def _device(core: Core, name: str = "d1") -> FleetDevice:
    device = FleetDevice(name, 1)
    device.write(fact("class", "lamp"), core.now.mono_s)
    core.connect(device)
    return device


def test_what_a_device_writes_is_held_projected_and_answered(core: Core) -> None:
    device = _device(core)
    assert device.is_settled()
    held = core.held(own("d1"))
    assert held is not None
    assert values_of(held) == device.author.values()
    assert core.rows(
        "SELECT d.id, f.name, f.value FROM p_fact f JOIN device d ON d.n = f.device"
    ) == [("d1", "class", '"lamp"')]


def test_a_device_that_has_written_nothing_yet_has_done_nothing_wrong(core: Core) -> None:
    device = FleetDevice("d1", 1)
    core.connect(device)
    assert device.is_settled()
    assert _offences(core, "d1") == {}


def test_several_updates_of_one_device_in_one_batch_are_all_taken_and_answered_once(
    core: Core,
) -> None:
    device = _device(core)
    frames = []
    for number in range(3):
        before = device.author.vector()
        device.author.write(fact("count", number))
        update = device.author._replica.diff(before)
        diff = Diff("dev", device.author.epoch, update, tag_of(device.author.vector()))
        frames.append(frame_of("d1", diff))
    (reply,) = answers(core.take(*frames))["d1"]
    assert isinstance(reply, Have)
    assert decode_vector(reply.vector) == device.author.vector()
    held = core.held(own("d1"))
    assert held is not None
    assert values_of(held) == device.author.values()


def test_an_update_over_a_gap_changes_nothing_and_is_answered_with_what_is_held(
    core: Core,
) -> None:
    device = _device(core)
    held = core.held(own("d1"))
    device.author.write(fact("lost", 1))
    before = device.author.vector()
    device.author.write(fact("after", 2))
    update = device.author._replica.diff(before)
    late = Diff("dev", device.author.epoch, update, tag_of(device.author.vector()))
    (reply,) = core.say("d1", late)
    assert held is not None
    assert isinstance(reply, Have)
    assert decode_vector(reply.vector) == held.vector
    assert core.held(own("d1")) == held
    assert _offences(core, "d1") == {}


def test_an_acknowledgement_outlives_the_document_that_carried_it(core: Core) -> None:
    device = _device(core)
    core.talk(device, device.write(device.ack("dfirst", "D"), core.now.mono_s))
    first = core.rows("SELECT deployment, stage, record, seen_at_ms FROM seen")
    core.pass_time(5)
    device.author._prune = lambda values: {k: v for k, v in values.items() if "dfirst" not in k}
    device.author.reset()
    core.talk(device, device.session.changed(device.document, device.shelf, core.now.mono_s).send)
    held = core.held(own("d1"))
    assert held is not None
    assert not any("dfirst" in key for key in values_of(held))
    assert core.rows("SELECT deployment, stage, record, seen_at_ms FROM seen") == first


def test_an_acknowledgement_that_comes_and_goes_within_one_batch_was_seen(core: Core) -> None:
    device = _device(core)
    before = device.author.vector()
    device.author.write(device.ack("dfirst", "K"))
    diff = Diff(
        "dev",
        device.author.epoch,
        device.author._replica.diff(before),
        tag_of(device.author.vector()),
    )
    device.author._prune = lambda values: {k: v for k, v in values.items() if "dfirst" not in k}
    device.author.reset()
    own_now = device.author.holding()
    absorbed = [(epoch, encode_vector(seen)) for epoch, seen in own_now.absorbed]
    core.take(
        frame_of("d1", diff), frame_of("d1", Full("dev", own_now.epoch, own_now.state, absorbed))
    )
    assert core.rows("SELECT deployment, stage FROM seen") == [("dfirst", "K")]
    assert core.held(own("d1")) == own_now


def test_the_time_at_which_an_acknowledgement_was_first_seen_stays(core: Core) -> None:
    device = _device(core)
    core.talk(device, device.write(device.ack("dfirst", "D"), core.now.mono_s))
    core.pass_time(60)
    core.talk(device, device.write(device.ack("dfirst", "D", "again"), core.now.mono_s))
    ((seen_at_ms, record),) = core.rows("SELECT seen_at_ms, record FROM seen")
    assert seen_at_ms == core.now.ms - 60_000
    assert b"again" in record


def test_a_key_that_is_gone_has_no_row(core: Core) -> None:
    device = _device(core)
    core.talk(device, device.write(runs("lamp", "1.0", bytes(32), device.boot), core.now.mono_s))
    assert core.rows("SELECT component, version, healthy FROM p_version") == [("lamp", "1.0", 1)]
    device.author._prune = lambda values: {k: v for k, v in values.items() if k != "v/lamp"}
    device.author.reset()
    core.talk(device, device.session.changed(device.document, device.shelf, core.now.mono_s).send)
    assert core.rows("SELECT * FROM p_version") == []


def test_a_value_that_cannot_be_read_has_no_row_is_counted_and_hides_no_other(core: Core) -> None:
    device = _device(core)
    entries = {"s/bad": b"\xc1", **fact("good", 1), "q/odd": b"1", "a/x/D": b"nothing"}
    core.talk(device, device.write(entries, core.now.mono_s))
    assert device.is_settled()
    names = core.rows("SELECT name FROM p_fact ORDER BY name")
    assert names == [("class",), ("good",)]
    assert _offences(core, "d1") == {"bad_record": 3}
    assert core.rows("SELECT * FROM seen") == []


@pytest.mark.parametrize("document", ["dev/d2", "des/d1", "des/d2", "grp/all", "tel/d2"])
def test_a_device_cannot_write_a_document_that_is_not_its_own(core: Core, document: str) -> None:
    victim = _device(core, "d2")
    held = core.held(own("d2"))
    update = victim.author.holding().state
    for message in (
        Full(document, 99, update),
        Diff(document, victim.author.epoch, update, b"abcd"),
        Open(document, 99, encode_vector({}), b""),
        Fetch(document),
    ):
        assert core.say("d1", message) == []
    assert core.held(own("d2")) == held
    assert core.rows("SELECT name FROM document") == [("dev/d2",)]
    assert _offences(core, "d1") == {Refusal.FOREIGN_WRITER.value: 4}
    assert _offences(core, "d2") == {}


def test_an_update_by_another_writer_is_refused_and_the_document_stays(core: Core) -> None:
    _device(core)
    held = core.held(own("d1"))
    hub = FleetDevice("other", 2)
    hub.author.client_id = 2**41
    from sync.author import Author

    forged = Author(None, client_id=2**41)
    forged.write({"s/class": encode(Fact('"bomb"'))})
    (reply,) = core.say("d1", Full("dev", 9, forged.holding().state))
    assert isinstance(reply, Refuse)
    assert reply.code == Refusal.FOREIGN_WRITER
    assert core.held(own("d1")) == held
    assert _offences(core, "d1") == {"foreign_writer": 1}


def test_rubbish_is_counted_by_topic_and_the_neighbours_in_the_batch_are_untouched(
    core: Core,
) -> None:
    device = FleetDevice("honest", 1)
    device.write(fact("class", "lamp"), core.now.mono_s)
    (opening, *rest) = device.opened(core.now.mono_s)
    rubbish = [
        Delivery("ff/1/villain/up", payload, False, False, 1)
        for payload in (b"", b"\x91" * 5000, b"\xff", Random(1).randbytes(300))
    ]
    outcome = core.take(*rubbish, frame_of("honest", opening, *rest), *rubbish)
    core.talk(
        device,
        [m for reply in answers(outcome)["honest"] for m in device.receive(reply, 0.0)],
    )
    assert device.is_settled()
    assert _offences(core, "villain") == {"bad_frame": 8}
    assert _offences(core, "honest") == {}
    assert core.rows("SELECT id FROM device") == [("honest",)]


def test_messages_on_topics_that_are_not_ours_are_dropped(core: Core) -> None:
    topics = ("ff/1/UPPER/up", "ff/1/group/up", "elsewhere", "ff/2/d1/up", "ff/1/d1/down", "")
    for topic in topics:
        core.take(Delivery(topic, b"x", False, False, 0))
    assert core.ingest.counters.dropped_count == len(topics)
    assert core.rows("SELECT * FROM device") == []


def test_a_device_beyond_the_limit_is_not_registered_and_the_others_go_on(tmp_path: Path) -> None:
    with running(tmp_path / "hub", devices_max_count=2) as core:
        for name in ("d1", "d2"):
            _device(core, name)
        late = FleetDevice("d3", 3)
        late.write(fact("class", "lamp"), core.now.mono_s)
        assert core.say("d3", *late.opened(core.now.mono_s)) == []
        core.presence("d4", b'{"online": true, "birth": 1}')
        assert core.rows("SELECT id FROM device ORDER BY id") == [("d1",), ("d2",)]
        assert _offences(core, "d3") == {"not_admitted": 1}
        assert _offences(core, "d4") == {"not_admitted": 1}


def test_strangers_are_registered_up_to_so_many_an_hour_even_over_a_restart(
    tmp_path: Path,
) -> None:
    with running(tmp_path / "hub", per_hour_max_count=10) as core:
        known = _device(core, "known")
        core.take(*(frame_of(f"made-up-{n}", Fetch("dev")) for n in range(20)))
        assert core.rows("SELECT count(*) FROM device") == [(10,)]
        assert core.rows("SELECT count(*) FROM offence WHERE code = 'not_admitted'") == [(11,)]
        now = core.now
    with running(tmp_path / "hub", per_hour_max_count=10) as core:
        core.now = now
        core.pass_time(5 * 60)
        core.presence("late", b'{"online": true, "birth": 1}')
        core.talk(known, known.write(fact("class", "pump"), core.now.mono_s))
        assert known.is_settled()
        assert core.rows("SELECT count(*) FROM device WHERE id = 'late'") == [(0,)]
        core.pass_time(3600)
        core.presence("late", b'{"online": true, "birth": 1}')
        assert core.rows("SELECT count(*) FROM device WHERE id = 'late'") == [(1,)]


def test_five_thousand_devices_that_appear_at_once_are_all_registered(tmp_path: Path) -> None:
    admitted = Settings().new_devices_per_hour_max_count
    with running(tmp_path / "hub", devices_max_count=200_000, per_hour_max_count=admitted) as core:
        for start in range(0, 5000, 1000):
            core.take(*(frame_of(f"d{n}", Fetch("dev")) for n in range(start, start + 1000)))
        assert core.rows("SELECT count(*) FROM device") == [(5000,)]
        assert core.rows("SELECT * FROM offence") == []


def test_two_live_devices_of_one_name_are_noticed_and_one_that_starts_anew_is_not(
    core: Core,
) -> None:
    for number in range(20):
        core.take(frame_of("starts", Fetch("dev"), boot=f"boot{number:02}".encode()))
    late = frame_of("starts", Fetch("dev"), boot=b"boot18")
    core.take(late, frame_of("starts", Fetch("dev"), boot=b"boot19"))
    assert core.rows("SELECT * FROM offence") == []
    for _ in range(5):
        core.take(frame_of("twice", Fetch("dev"), boot=b"boot-a"))
        core.take(frame_of("twice", Fetch("dev"), boot=b"boot-b"))
    ((device, code, count),) = core.rows("SELECT device, code, count FROM offence")
    assert (device, code) == ("twice", "clone_suspected")
    assert count == 6


def test_a_device_that_floods_is_cut_off_alone_and_heard_again_later(tmp_path: Path) -> None:
    with running(tmp_path / "hub", rate_per_s=10, burst_count=50) as core:
        device = _device(core, "d1")
        question = Open("dev", 1, encode_vector({}), b"")
        core.take(*(frame_of("loud", question, sent_ms=n) for n in range(200)))
        assert _offences(core, "loud")["flood"] > 100
        core.talk(device, device.write(fact("still", "heard"), core.now.mono_s))
        assert device.is_settled()
        assert core.say("loud", question) == []
        core.pass_time(60)
        assert len(core.say("loud", question)) == 1


def test_a_device_cannot_have_its_document_sent_to_it_again_and_again(tmp_path: Path) -> None:
    with running(tmp_path / "hub", rate_per_s=1, burst_count=100) as core:
        device = _device(core, "d1")
        filler = {f"{FACT}filler-{n}": encode(Fact('"' + "x" * 1900 + '"')) for n in range(10)}
        core.talk(device, device.write(filler, core.now.mono_s))
        sent = 0
        for number in range(200):
            outcome = core.take(frame_of("d1", *[Fetch("dev")] * 8, sent_ms=number))
            sent += sum(isinstance(each, Whole) for each in answers(outcome).get("d1", []))
        assert 0 < sent < 20


def test_acknowledgements_of_deployments_that_never_were_are_kept_up_to_a_number(
    core: Core,
) -> None:
    device = _device(core)
    for start in range(0, STRAYS_MAX + 200, 100):
        entries: dict[str, bytes] = {}
        for number in range(start, start + 100):
            entries |= device.ack(f"dmade-up-{number}", "D")
        core.talk(device, device.write(entries, core.now.mono_s))
        device.author._prune = lambda values: {
            key: value for key, value in values.items() if not key.startswith("a/")
        }
        device.author.reset()
        core.talk(
            device, device.session.changed(device.document, device.shelf, core.now.mono_s).send
        )
    assert core.rows("SELECT count(*) FROM seen") == [(STRAYS_MAX,)]
    assert _offences(core, "d1") == {"too_many_strays": 200}
    core.database.transact(
        lambda db: db.execute(
            "INSERT INTO deployment "
            "VALUES (1, 'dreal', x'00', 'c', 'v', 1, 'all', '', 0, 1, 1, NULL)"
        )
    )
    core.entries.forget()
    core.talk(device, device.write(device.ack("dreal", "D"), core.now.mono_s))
    assert core.rows("SELECT count(*) FROM seen WHERE deployment = 'dreal'") == [(1,)]


def test_a_question_is_answered_with_the_digest_so_that_drift_is_found(core: Core) -> None:
    device = _device(core)
    own_now = device.author.holding()
    (reply,) = core.say(
        "d1", Open("dev", own_now.epoch, encode_vector(own_now.vector), b"12345678")
    )
    assert isinstance(reply, Have)
    assert reply.digest


def test_a_device_with_a_rolled_back_disk_gets_back_what_it_had_acknowledged(core: Core) -> None:
    device = _device(core)
    old = device.author.holding()
    core.talk(device, device.write(device.ack("dfirst", "K"), core.now.mono_s))
    device.author = device._new_author(old)
    device.restart()
    device.write(fact("after", "rollback"), core.now.mono_s)
    core.connect(device)
    assert device.is_settled()
    assert "a/dfirst/K" in device.author.values()
    held = core.held(own("d1"))
    assert held is not None
    assert values_of(held) == device.author.values()


def test_when_a_transaction_fails_nothing_of_the_batch_is_there_and_it_can_be_taken_again(
    core: Core,
) -> None:
    device = FleetDevice("d1", 1)
    device.write(fact("class", "lamp"), core.now.mono_s)
    whole = device.author.holding()
    delivery = frame_of("d1", Full("dev", whole.epoch, whole.state))

    def fail(db: object) -> None:
        core.ingest.take(db, [delivery], core.now)  # type: ignore[arg-type]
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError):
        core.database.transact(fail)
    core.ingest.forget()
    assert core.rows("SELECT * FROM device") == []
    core.take(delivery)
    assert core.held(own("d1")) == whole
    assert core.rows("SELECT count(*) FROM contact") == [(1,)]
