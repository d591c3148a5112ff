"""From a request to a deployment, and from state vectors to evidence."""

import re
from pathlib import Path

import pytest

from hub.courses import courses_of, credited, patience_ms
from hub.deployments import DEVICES_NAMED_MAX, Request, cancel, check, new_id
from hub.errors import Clash, NotFound, Refusal
from hub.outcomes.observations import DeviceCourse, Receipt
from hub.outcomes.presence import reachable_ms
from hub.outcomes.report import build_report
from hub.outcomes.silence import Verdict
from hub.store import deployments as store
from hub.store import queries
from sync.documents import DEPLOYMENT
from sync.messages import Full, Have
from sync.records import Deployment, select
from sync.replica import values_of
from sync.stages import Stage
from sync.vector import encode_vector
from tests.fakes.fleet import FleetDevice, fact
from tests.hub.core import START_MS, Core, desired, group, running


def _fleet(core: Core, **sites: str) -> dict[str, FleetDevice]:
    made = {}
    for number, (name, site) in enumerate(sites.items()):
        device = FleetDevice(name, number, obeys=False)
        device.write(fact("site", site), core.now.mono_s)
        core.connect(device)
        made[name] = device
    return made


def _course(core: Core, deployment: str, device: str) -> DeviceCourse:
    def job(db: object) -> list[DeviceCourse]:
        deployed = store.load(db, deployment)  # type: ignore[arg-type]
        assert deployed is not None
        return courses_of(db, deployed, now_ms=core.now.ms)  # type: ignore[arg-type]

    (found,) = [course for course in core.database.transact(job) if course.device == device]
    return found


def _hand_over(core: Core, device: FleetDevice, *, name: str = "grp/all") -> None:
    """Let a device hear of a group document as from the broker's retained message."""
    holding = core.held(group())
    assert holding is not None
    core.talk(device, device.receive(Full(name, holding.epoch, holding.state), core.now.mono_s))


def test_a_deployment_id_is_d_and_eight_letters_or_digits() -> None:
    ids = {new_id() for _ in range(200)}
    assert len(ids) == 200
    assert all(re.fullmatch("d[a-z2-7]{8}", each) for each in ids)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request(release="r"), "either a group or devices"),
        (Request(release="r", group="all", devices=["d1"]), "not both"),
        (Request(release="r", devices=["d1"], where="site=s7"), "a list of devices needs none"),
        (Request(release="r", group="all", where="site"), "'site' is not label=value"),
        (Request(release="r", group="NOT"), "'NOT' cannot name"),
        (Request(release="r", group="up"), "reserved"),
        (Request(release="r", devices=["hub"]), "reserved"),
        (Request(release="r", group="all", expires_s=0), "expires_s"),
        (Request(release="r", group="all", expires_s=float("nan")), "expires_s"),
        (Request(release="r", devices=["d"] * (DEVICES_NAMED_MAX + 1)), "use a group"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_with_the_reason(
    request_: Request, words: str
) -> None:
    with pytest.raises(Refusal, match=words):
        check(request_)


def test_the_list_is_fixed_with_the_request_and_holds_who_is_meant(core: Core) -> None:
    _fleet(core, d1="s7", d2="s8", d3="s7")
    core.release()
    made = core.deploy(Request(release="lamp@1.0.0", group="all", where="site=s7"))
    assert made.targeted == ("d1", "d3")
    _fleet(core, d4="s7")
    rows = core.rows("SELECT d.id FROM targeted t JOIN device d ON d.n = t.device ORDER BY 1")
    assert rows == [("d1",), ("d3",)]
    held = core.held(group())
    assert held is not None
    (record,) = select(Deployment, DEPLOYMENT, values_of(held)).values()
    assert (record.component, record.version, record.where) == ("lamp", "1.0.0", "site=s7")


def test_named_devices_get_it_in_their_own_documents(core: Core) -> None:
    _fleet(core, d1="s7", d2="s8")
    release = core.release()
    made = core.deploy(Request(release=release.digest.hex(), devices=["d2", "d1", "d1"]))
    assert made.targeted == ("d1", "d2")
    assert core.held(group()) is None
    for name in made.targeted:
        assert list(values_of(core.held(desired(name)))) == [DEPLOYMENT + made.deployed.id]


@pytest.mark.parametrize(
    "request_",
    [
        Request(release="lamp@9", group="all"),
        Request(release="0" * 64, group="all"),
        Request(release="", group="all"),
        Request(release="lamp@1.0.0", devices=["d1", "nobody"]),
    ],
)
def test_a_request_for_what_is_not_there_changes_nothing(core: Core, request_: Request) -> None:
    _fleet(core, d1="s7")
    core.release()
    with pytest.raises(NotFound):
        core.deploy(request_)
    for table in ("deployment", "targeted", "hub_stage", "written"):
        assert core.rows(f"SELECT * FROM {table}") == []
    assert core.held(group()) is None
    assert core.held(desired("d1")) is None


def test_a_full_document_refuses_one_more_and_keeps_the_others(core: Core) -> None:
    _fleet(core, d1="s7")
    core.release()
    count = 0
    with pytest.raises(Clash, match="cancel deployments"):
        for number in range(2000):
            core.deploy(Request(release="lamp@1.0.0", group="all", where=f"site=s{number}"))
            count += 1
    assert count > 100
    assert core.rows("SELECT count(*) FROM deployment") == [(count,)]


def test_requested_and_accepted_are_stamped_by_the_hub(core: Core) -> None:
    _fleet(core, d1="s7")
    core.release()
    made = core.deploy(Request(release="lamp@1.0.0", group="all", expires_s=60))
    course = _course(core, made.deployed.id, "d1")
    assert course.hub_stages == {Stage.REQUESTED: START_MS, Stage.ACCEPTED: START_MS}
    assert course.expires_ms == START_MS + 60_000


def test_a_later_deployment_takes_the_place_of_an_earlier_one_where_both_are_meant(
    core: Core,
) -> None:
    _fleet(core, d1="s7", d2="s8")
    core.release()
    core.release(version="2.0.0")
    core.release(component="pump")
    first = core.deploy(Request(release="lamp@1.0.0", group="all")).deployed.id
    other = core.deploy(Request(release="pump@1.0.0", group="all")).deployed.id
    core.pass_time(10)
    core.deploy(Request(release="lamp@2.0.0", group="all", where="site=s8"))
    assert _course(core, first, "d1").superseded_at_ms is None
    assert _course(core, first, "d2").superseded_at_ms == START_MS + 10_000
    assert _course(core, other, "d2").superseded_at_ms is None


def test_a_cancelled_deployment_is_cancelled_in_its_documents_once(core: Core) -> None:
    _fleet(core, d1="s7")
    core.release()
    made = core.deploy(Request(release="lamp@1.0.0", devices=["d1"])).deployed.id
    core.pass_time(5)

    def again() -> tuple[int | None, int]:
        found, changed = core.database.transact(
            lambda db: cancel(db, core.desired, made, core.now.ms)
        )
        return found.cancelled_ms, len(changed)

    assert again() == (START_MS + 5000, 1)
    core.pass_time(5)
    assert again() == (START_MS + 5000, 0)
    (record,) = select(Deployment, DEPLOYMENT, values_of(core.held(desired("d1")))).values()
    assert record.cancelled
    with pytest.raises(NotFound):
        core.database.transact(lambda db: cancel(db, core.desired, "dnothing", core.now.ms))


def _cancel(core: Core, deployment: str) -> None:
    core.database.transact(lambda db: cancel(db, core.desired, deployment, core.now.ms))
    core.database.transact(core.groups.load)


def _superseded(core: Core, deployment: str) -> set[str]:
    rows = core.rows(
        "SELECT d.id FROM targeted AS t JOIN device AS d ON d.n = t.device "
        "WHERE t.deployment = ? AND t.superseded_ms IS NOT NULL",
        deployment,
    )
    return {device for (device,) in rows}


def _live(core: Core) -> set[str]:
    found = select(Deployment, DEPLOYMENT, values_of(core.held(group())))
    return {name for name, record in found.items() if not record.cancelled}


@pytest.mark.parametrize("is_pruned", [False, True])
def test_a_cancelled_deployment_takes_the_place_of_none(core: Core, is_pruned: bool) -> None:
    _fleet(core, d1="s7", d2="s7")
    ids = []
    for number in range(3):
        core.release(version=f"{number}.0.0")
        request = Request(release=f"lamp@{number}.0.0", group="all")
        ids.append(core.deploy(request).deployed.id)
        core.pass_time(1)
    first, second, third = ids
    if is_pruned:
        core.database.transact(lambda db: core.desired.reset(db, group(), core.now.ms))
        assert _live(core) == {third}
    assert _superseded(core, first) == _superseded(core, second) == {"d1", "d2"}
    _cancel(core, third)
    assert second in _live(core)
    assert _superseded(core, second) == set()
    assert _superseded(core, first) == {"d1", "d2"}
    _cancel(core, second)
    assert _live(core) == {first}
    assert _superseded(core, first) == set()


def test_taking_a_deployment_back_takes_no_device_back_that_runs_it(core: Core) -> None:
    devices = _fleet(core, d1="s7")
    core.release(version="1.0.0")
    core.release(version="2.0.0")
    first = core.deploy(Request(release="lamp@1.0.0", group="all")).deployed.id
    second = core.deploy(Request(release="lamp@2.0.0", group="all")).deployed.id
    core.database.transact(lambda db: core.desired.reset(db, group(), core.now.ms))
    for stage in "DVIHK":
        core.talk(devices["d1"], devices["d1"].write(devices["d1"].ack(second, stage), 0.0))
    _cancel(core, second)
    assert _live(core) == set()
    assert _superseded(core, first) == {"d1"}


# ------------------------------------------------------------------------------------ evidence


def test_a_state_vector_that_covers_the_deployment_proves_its_delivery(core: Core) -> None:
    devices = _fleet(core, d1="s7", d2="s7")
    core.release()
    made = core.deploy(Request(release="lamp@1.0.0", group="all")).deployed.id
    assert _course(core, made, "d1").receipts == ()
    core.pass_time(3)
    _hand_over(core, devices["d1"])
    assert _course(core, made, "d1").receipts == (Receipt(START_MS + 3000, covers=True),)
    assert _course(core, made, "d2").receipts == ()
    core.pass_time(3)
    core.connect(devices["d1"])
    assert _course(core, made, "d1").receipts == (Receipt(START_MS + 3000, covers=True),)


def test_a_state_vector_without_it_is_evidence_against_with_the_earliest_it_was_sent(
    core: Core,
) -> None:
    devices = _fleet(core, d1="s7")
    core.release()
    made = core.deploy(Request(release="lamp@1.0.0", group="all")).deployed.id
    core.pass_time(10)
    have = Have("grp/all", 0, encode_vector({}))
    boot = devices["d1"].boot
    # An echo of what the hub sent at +4 s, received at 5,000 of the device's clock.
    core.say("d1", have, boot=boot, sent_ms=9_000, anchor=(START_MS + 4_000, 5_000))
    ((receipt),) = _course(core, made, "d1").receipts
    assert not receipt.covers
    assert receipt.received_at_ms == START_MS + 10_000
    assert receipt.sent_lo_ms is not None
    assert START_MS + 7_990 <= receipt.sent_lo_ms <= START_MS + 8_000
    core.pass_time(1)
    _hand_over(core, devices["d1"])
    missed, covered = _course(core, made, "d1").receipts
    assert (missed.covers, covered.covers) == (False, True)


def test_a_device_that_stays_connected_and_never_takes_it_is_silent_one_that_is_away_is_not(
    core: Core,
) -> None:
    _fleet(core, there="s7", away="s7", took="s7")
    core.database.transact(lambda db: core.watch.begin(db, core.now.ms))
    for name in ("there", "took"):
        core.presence(name, b'{"online": true, "birth": 1, "keepalive_s": 2}')
    core.release()
    made = core.deploy(Request(release="lamp@1.0.0", group="all")).deployed.id
    device = FleetDevice("took", 9)
    _hand_over(core, device)
    core.pass_time(300)

    def job(db: object) -> dict[str, Verdict]:
        deployed = store.load(db, made)  # type: ignore[arg-type]
        assert deployed is not None
        report = build_report(
            deployment=made,
            component="lamp",
            version="1.0.0",
            courses=courses_of(db, deployed, now_ms=core.now.ms),  # type: ignore[arg-type]
            now_ms=core.now.ms,
            patience_ms=patience_ms(db, deployed, silence_s=60, now_ms=core.now.ms),  # type: ignore[arg-type]
        )
        return {each.device: each.finding.verdict for each in report.devices}

    assert core.database.transact(job) == {
        "there": Verdict.SILENT,
        "away": Verdict.UNREACHABLE,
        "took": Verdict.IN_PROGRESS,
    }


def test_presence_counts_only_where_the_hub_was_there_to_see_it() -> None:
    log = [(100, True), (900, False), (1000, True)]
    listening = [(0, 300), (500, 600), (950, None)]
    changes = credited(log, listening, heard=(5000, 50), now_ms=2000)
    assert reachable_ms(changes, from_ms=0, to_ms=2000) == 200 + 1000
    assert credited([], listening, heard=(0, 0), now_ms=2000) == ()


def test_of_a_connection_that_lasts_the_last_moments_do_not_count_until_it_was_heard() -> None:
    log, listening = [(1000, True)], [(0, None)]
    late = credited(log, listening, heard=(1000, 500), now_ms=1200)
    assert reachable_ms(late, from_ms=0, to_ms=1200) == 0
    assert late[-1].online
    later = credited(log, listening, heard=(1000, 500), now_ms=2000)
    assert reachable_ms(later, from_ms=0, to_ms=2000) == 500
    heard = credited(log, listening, heard=(1900, 500), now_ms=2000)
    assert reachable_ms(heard, from_ms=0, to_ms=2000) == 900


def test_patience_is_the_setting_unless_devices_usually_take_longer(tmp_path: Path) -> None:
    with running(tmp_path / "hub") as core:
        devices = _fleet(core, d1="s7")
        core.database.transact(lambda db: core.watch.begin(db, core.now.ms))
        core.presence("d1", b'{"online": true, "birth": 1, "keepalive_s": 2}')
        core.release()
        core.release(version="2.0.0")
        core.deploy(Request(release="lamp@1.0.0", group="all"))
        core.pass_time(90)
        _hand_over(core, devices["d1"])
        second = core.deploy(Request(release="lamp@2.0.0", group="all")).deployed

        def patience(silence_s: float) -> int:
            return core.database.transact(
                lambda db: patience_ms(db, second, silence_s=silence_s, now_ms=core.now.ms)
            )

        assert patience(600) == 600_000
        assert 85_000 <= patience(3) <= 90_000


def test_the_latest_release_is_the_last_published_even_if_the_clock_was_turned_back(
    core: Core,
) -> None:
    core.release(version="1.0.0")
    core.pass_time(-86_400)
    core.release(version="1.1.0")
    latest = core.database.transact(lambda db: queries.latest_version(db, "lamp"))
    assert latest == ("1.1.0", None)
